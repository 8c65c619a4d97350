//! `provider slot …`: the ways to a provider's key.

mod add;
mod list;
mod remove;
mod verify;

use std::process::ExitCode;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::slot_errors::no_spec;
use crate::manage::slots::SlotSpec;

pub(super) fn run(context: &Context, verb: &args::Slot) -> Result<ExitCode, CommandError> {
    match verb {
        args::Slot::Add { name, slot, label } => {
            add::run(context, name, &spec(slot)?, label.as_deref())
        }
        args::Slot::List { name } => list::run(context, name),
        args::Slot::Verify { name } => return verify::run(context, name),
        args::Slot::Remove { name, slot } => remove::run(context, name, slot),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// `KMS:REMOTE-KEY`.
pub(super) fn spec(text: &str) -> Result<SlotSpec, CommandError> {
    text.parse().map_err(|_| no_spec(text))
}
