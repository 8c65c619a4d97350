//! `fleet …`: work with other hosts through a shared store.

pub(crate) mod elsewhere;
mod init;
mod join;
mod leave;
mod lost;
mod status;

use std::process::ExitCode;

use crate::cli::args::Fleet;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;

pub(crate) fn run(context: &Context, verb: &Fleet) -> Result<ExitCode, CommandError> {
    match verb {
        Fleet::Init { address, sql } => init::run(context, address.as_deref(), *sql),
        Fleet::Join { name } => join::run(context, name.as_deref()),
        Fleet::Status => return status::run(context),
        Fleet::Leave { force } => leave::run(context, *force),
        Fleet::Lost { host } => return lost::run(context, host),
    }?;
    Ok(ExitCode::SUCCESS)
}
