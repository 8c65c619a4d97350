//! `state …`: saved copies of TPM state.

mod drop;
mod list;
mod list_fleet;
mod persist;
mod restore;
mod show;

pub(crate) use restore::not_restored;

use std::io::ErrorKind;
use std::process::ExitCode;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::host_errors::trusted_files;
use crate::manage::copies::JudgedCopy;
use crate::manage::guests::GuestRef;
use crate::messages::{Command, quoted};
use crate::swtpm::StateFile;
use crate::tpm_copies::CopyError;

pub(crate) fn run(context: &Context, verb: &args::State) -> Result<ExitCode, CommandError> {
    match verb {
        args::State::List { fleet: true } => list_fleet::run(context)?,
        args::State::List { fleet: false } => list::run(context)?,
        args::State::Show { domain } => show::run(context, domain)?,
        args::State::Persist { which } => return persist::run(context, which),
        args::State::Restore { domain, copy } => restore::run(context, domain, copy.as_deref())?,
        args::State::Drop {
            domain,
            copies,
            force,
        } => drop::run(context, domain, copies, *force)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the guest's key opens a copy.
fn opened(judged: &JudgedCopy) -> &'static str {
    match &judged.content {
        StateFile::Encrypted(_) if judged.opened => "yes",
        StateFile::Encrypted(_) if judged.untried.is_some() => "not tried",
        StateFile::Encrypted(_) => "no",
        other => other.word(),
    }
}

/// There is nothing to show, to restore or to remove.
fn no_copies(guest: &GuestRef) -> CommandError {
    CommandError::usage(format!(
        "{} has no saved copy of its TPM state",
        guest.label()
    ))
    .with_hint(format!("list them: {}", Command::StateList))
}

impl From<CopyError> for CommandError {
    fn from(error: CopyError) -> Self {
        match &error {
            CopyError::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
                Self::failed(format!("no permission: {error}")).with_hint("run it as root")
            }
            CopyError::NotTrusted { .. } => Self::failed(error).with_hint(trusted_files("go-rwx")),
            _ => Self::failed(error),
        }
    }
}

/// The first digits of a copy's SHA-256 or ID may be meant for another one.
fn ambiguous_copy(digits: &str) -> CommandError {
    CommandError::usage(format!(
        "{} names more than one copy, or has too few digits",
        quoted(digits)
    ))
}
