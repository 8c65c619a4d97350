//! `key renew`: replaces the key of a stopped guest's TPM.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::guest_errors::{not_recorded, old_state};
use crate::cli::ui::host_errors::but;
use crate::cli::ui::printer::Printer;
use crate::manage::renew::{RenewError, Renewed, renew};

use crate::messages::{Command, quoted};

pub(super) fn run(context: &Context, guest: &str) -> Result<(), CommandError> {
    let renewed = renew(&context.host, guest)?;
    context.output.print(&renewed)
}

impl Answer for Renewed {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(
            out,
            "{} has a new key of provider {} (key reference {}), replacing key reference {}",
            self.guest.label(),
            quoted(&self.provider.name),
            self.key_ref,
            self.replaced
        )
    }

    fn notes(&self) -> Vec<String> {
        let not_retired = self.not_retired.as_ref().map(|error| {
            format!("the old key stays in use beside the new one until the next start: {error}")
        });
        let not_recorded = self.not_recorded.as_ref().map(not_recorded);
        let old = "a backup of the previous TPM state, or a saved file of libvirt, is opened by the \
                   old key only, which is ";
        let kept = if not_retired.is_some() {
            "in use"
        } else {
            "retired, not deleted"
        };
        let old_state = old_state(self.old_state.as_ref(), &self.guest);
        let errors = not_retired.into_iter().chain(not_recorded).chain(old_state);
        errors.chain([format!("{old}{kept}")]).collect()
    }
}

impl From<RenewError> for CommandError {
    fn from(error: RenewError) -> Self {
        match error {
            RenewError::Stopped(error) => error.into(),
            RenewError::NotEncrypted(guest) => {
                Self::refused(format!("the vTPM of {} is not encrypted", guest.label()))
                    .with_hint(format!("encrypt it: {}", Command::Encrypt(guest.arg)))
            }
            RenewError::KeptByLibvirt {
                guest,
                secret,
                directory,
            } => Self::refused(format!(
                "libvirt has a key of {} itself, as the secret {secret} in {}, and would write the \
                 new one there too",
                guest.label(),
                directory.display()
            ))
            .with_hint(format!("adopt it first: {}", Command::Adopt(guest.arg))),
            RenewError::NoState(guest) => Self::refused(format!(
                "{} has no TPM state that could be re-encrypted",
                guest.label()
            ))
            .with_hint(format!(
                "for what its start would do: {}",
                Command::Check(guest.arg)
            )),
            RenewError::NoKeyOpens(guest, untried) => Self::refused(format!(
                "no key of {} opens its TPM state on this host, so it cannot be replaced{}",
                guest.label(),
                but(untried)
            ))
            .with_hint(format!(
                "show which keys open: {}",
                Command::KeyShow(guest.arg)
            )),
            RenewError::Starting(guest) => Self::refused(format!(
                "{} is starting: its TPM keeps its key",
                guest.label()
            ))
            .with_hint(format!(
                "shut it down first: {}",
                Command::VirshShutdown(guest.arg)
            )),
            RenewError::KeyLeft {
                guest,
                error,
                not_retired,
            } => Self::failed(format!(
                "could not re-encrypt the TPM state of {}: {error}; its new key stays in the store \
                 until its next start: {not_retired}",
                guest.label()
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use crate::cli::ui::answer::Answer;
    use crate::manage::renew::{Renewed, renew};
    use crate::manage::tests::fixture::Fixture;
    use crate::store::StoreError;

    #[test]
    fn an_old_key_that_stays_in_use_is_not_said_to_be_retired() {
        let fixture = Fixture::new();
        fixture.guest_in_use("vm1");
        let mut renewed = renew(&fixture.host, "vm1").unwrap();
        let last = |renewed: &Renewed| renewed.notes().pop().unwrap();
        assert!(last(&renewed).ends_with("which is retired, not deleted"));
        renewed.not_retired = Some(StoreError::Changed);
        assert!(last(&renewed).ends_with("which is in use"));
    }
}
