//! `state restore`: restores a saved copy.

use std::io::{self, ErrorKind};

use super::{ambiguous_copy, no_copies};
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::guests::GuestRef;
use crate::manage::restore_state::{CopiesError, RestoredState, restore};
use crate::messages::{Command, quoted};
use crate::swtpm::StateFile;
use crate::tpm_copies::RestoreError;

pub(super) fn run(context: &Context, guest: &str, copy: Option<&str>) -> Result<(), CommandError> {
    context.output.print(&restore(&context.host, guest, copy)?)
}

impl Answer for RestoredState {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guest = self.guest.label();
        if self.changed {
            writeln!(out, "restored the TPM state of {guest}")
        } else {
            writeln!(
                out,
                "the TPM state of {guest} is already there; nothing changed"
            )
        }
    }

    fn notes(&self) -> Vec<String> {
        let (guest, check) = (self.guest.label(), Command::Check(self.guest.arg.clone()));
        let not_opened = match (&self.copy.content, &self.copy.untried) {
            (_, Some(why)) => {
                format!("a key of {guest} could not be tried on this copy: {why}: {check}")
            }
            (StateFile::Encrypted(_), None) => {
                format!("no key of {guest} opens this copy: {check}")
            }
            (content, None) => format!("this copy is {}: {check}", content.word()),
        };
        let unreadable = self.unreadable.iter().map(ToString::to_string);
        let silent = self
            .fleet_silent
            .iter()
            .map(|why| format!("the fleet's store did not answer: {why}"));
        unreadable
            .chain(silent)
            .chain((!self.copy.opened).then_some(not_opened))
            .collect()
    }
}

impl From<CopiesError> for CommandError {
    fn from(error: CopiesError) -> Self {
        let list = |guest: GuestRef| {
            let show = Command::StateShow(guest.arg);
            format!("list them: {show}; {}", Command::StateListFleet)
        };
        match error {
            CopiesError::Guest(error) => error.into(),
            CopiesError::None(guest) => no_copies(&guest),
            CopiesError::FleetSilent(guest, why) => Self::failed(format!(
                "{} has no saved copy of its TPM state here, and the fleet's store did not answer: {why}",
                guest.label()
            )),
            CopiesError::NoSuchCopy(guest, digits) => {
                Self::usage(format!("copy {} not found", quoted(&digits))).with_hint(list(guest))
            }
            CopiesError::Ambiguous(guest, digits) => ambiguous_copy(&digits).with_hint(list(guest)),
            CopiesError::Running(guest) => Self::refused(format!("{} is running", guest.label()))
                .with_hint(format!(
                    "stop it first: {}",
                    Command::VirshShutdown(guest.arg)
                )),
            CopiesError::NotRestored(guest, error) => not_restored(&guest, &error),
        }
    }
}

pub(crate) fn not_restored(guest: &GuestRef, error: &RestoreError) -> CommandError {
    match error {
        RestoreError::Occupied { .. } => CommandError::refused(error).with_hint(format!(
            "{} has a TPM state; move it away first if the saved one is the right one",
            guest.label()
        )),
        RestoreError::OtherTpm => {
            CommandError::refused(error).with_hint(Command::VirshEdit(guest.arg.clone()))
        }
        RestoreError::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
            CommandError::failed(format!("no permission: {error}")).with_hint("run it as root")
        }
        RestoreError::NotAState { .. } => CommandError::refused(error).with_hint(format!(
            "show the others: {}",
            Command::StateShow(guest.arg.clone())
        )),
        RestoreError::State { .. } | RestoreError::Io { .. } => CommandError::failed(error),
    }
}
