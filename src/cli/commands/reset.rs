//! `reset`: allows the next start of a guest to make a new TPM.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::reset::{Reset, ResetError, reset};
use crate::messages::{self, Arg, Command};
use crate::verdict::refusal::Refusal;

pub(crate) fn run(context: &Context, guest: &str) -> Result<ExitCode, CommandError> {
    context.output.print(&reset(&context.host, guest)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Answer for Reset {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guest = self.guest.label();
        if !self.changed {
            return writeln!(
                out,
                "the key of {guest} has not been used yet; nothing changed"
            );
        }
        let key = if self.has_key {
            " under the same key"
        } else {
            ""
        };
        writeln!(
            out,
            "if the TPM state of {guest} is gone, its next start makes a new, empty TPM{key}"
        )
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (directory, error) in &self.left_directories {
            notes.push(format!(
                "could not remove the empty directory {}, and a new TPM in it would have no \
                 certificates: {error}",
                directory.display()
            ));
        }
        if self.is_unbound {
            notes.push(format!(
                "its keys are retired, and it is bound to no provider; bind it: {}",
                Command::KeyBind(self.guest.arg.clone(), Arg::NAME)
            ));
        }
        if let Some(why) = &self.fleet_silent {
            notes.push(format!(
                "the fleet's store, which may have a used key of the guest, did not answer: {why}; \
                 exchange with the fleet: {}; then retry",
                Command::Sync
            ));
        }
        if self.copies_set_aside > 0 {
            let set_aside = match self.copies_set_aside {
                1 => "the saved copy of its TPM state is".to_owned(),
                copies => format!("{copies} saved copies of its TPM state are"),
            };
            let show = Command::StateShow(self.guest.arg.clone());
            notes.push(format!("{set_aside} set aside: {show}"));
        }
        if self.was_used {
            notes.push(
                "existing state stays in use; with a new TPM the guest loses what the old one \
                 held, and BitLocker asks for its recovery key"
                    .to_owned(),
            );
        }
        notes
    }
}

impl From<ResetError> for CommandError {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::Guest(error) => error.into(),
            ResetError::NoKey(guest) => Self::refused(format!(
                "no key of {} that is in use here has been used, so there is nothing to reset",
                guest.label()
            ))
            .with_hint(format!(
                "for what its start would do: {}",
                Command::Check(guest.arg)
            )),
            ResetError::NotDefined(guest) => Self::refused(format!(
                "this host has no key of {}, and libvirt has no definition of it, which may have one",
                guest.label()
            ))
            .with_hint(format!(
                "define it first: {}; then: {}",
                Command::VirshDefine(Arg::FILE),
                Command::Reset(guest.arg)
            )),
            ResetError::FleetSilent(guest, why) => Self::failed(format!(
                "this host has no key of {}, and the fleet's store, which may have one, did not \
                 answer: {why}",
                guest.label()
            ))
            .with_hint(format!(
                "exchange with the fleet: {}; then retry",
                Command::Sync
            )),
            ResetError::ManagedSave(guest) => Self::refused(format!(
                "{} has a managed save, and its TPM is in there",
                guest.label()
            ))
            .with_hint(format!(
                "start the guest, its TPM comes with it: {}; or discard the save first: {}",
                Command::VirshStart(guest.arg.clone()),
                Command::VirshManagedsaveRemove(guest.arg)
            )),
            ResetError::Unseen(guest, path, why) => {
                let path = path.display();
                Self::failed(format!(
                    "the TPM state of {} may be at {path}, which cannot be looked at: {why}",
                    guest.label()
                ))
                .with_hint("make that path accessible, or remove it if it is of no use; then retry")
            }
            ResetError::StateElsewhere(domain, found) => {
                let words = messages::refusal(&domain, &Refusal::TpmStateElsewhere(found));
                Self::refused(words.message).with_hint(words.hint)
            }
        }
    }
}
