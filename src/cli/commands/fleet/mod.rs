//! `fleet …`: the fleet of hosts that this one is in.

mod lost;

use std::process::ExitCode;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;

pub(crate) fn run(context: &Context, verb: &args::Fleet) -> Result<ExitCode, CommandError> {
    match verb {
        args::Fleet::Lost { host } => lost::run(context, host)?,
    }
    Ok(ExitCode::SUCCESS)
}
