//! `encrypt`: encrypts a stopped guest's TPM state and updates its XML.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::guest_errors::{not_recorded, old_state};
use crate::cli::ui::host_errors::but;
use crate::cli::ui::printer::Printer;
use crate::manage::encrypt::{EncryptAction, EncryptError, EncryptResult, encrypt};
use crate::manage::persist_state::Survival;
use crate::messages::{Arg, Command, quoted};

pub(crate) fn run(
    context: &Context,
    guest: &str,
    provider: Option<&str>,
    persistent_state: bool,
) -> Result<ExitCode, CommandError> {
    let mut encrypted = encrypt(&context.host, guest, provider)?;
    encrypted.survival = Survival::of(&context.host, guest, persistent_state)
        .map_err(|error| describe::not_persisted("the TPM is encrypted", error))?;
    context.output.print(&encrypted)?;
    Ok(ExitCode::SUCCESS)
}

impl Answer for EncryptResult {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let Self {
            key_ref,
            secret_uuid: secret,
            ..
        } = self;
        let (guest, provider) = (self.guest.label(), quoted(&self.provider.name));
        match self.action {
            EncryptAction::Encrypted => writeln!(
                out,
                "the TPM of {guest} is encrypted with a key of provider {provider} (key \
                 reference {key_ref}); its XML names the secret {secret}"
            ),
            EncryptAction::Completed => writeln!(
                out,
                "the TPM of {guest} was encrypted already (key reference {key_ref}); its XML \
                 names the secret {secret} now"
            ),
            EncryptAction::None if self.old_state.is_some() => writeln!(
                out,
                "the TPM of {guest} is encrypted already (key reference {key_ref} of provider \
                 {provider}); what was left of an earlier state in its file is overwritten"
            ),
            EncryptAction::None => writeln!(
                out,
                "the TPM of {guest} is encrypted already (key reference {key_ref} of provider \
                 {provider}): nothing changed"
            ),
        }?;
        if self.survival.persistent_state_set {
            writeln!(out, "{}", describe::persistent_state_set(&self.guest))?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let kept = self.plain_state.as_ref().map(|path| {
            format!(
                "the plain state is kept until the guest has started with the encrypted one: {}",
                path.display()
            )
        });
        let not_recorded = self.not_recorded.as_ref().map(not_recorded);
        let old_state = old_state(self.old_state.as_ref(), &self.guest);
        let notes = not_recorded.into_iter().chain(old_state).chain(kept);
        notes.chain(describe::survival(&self.survival)).collect()
    }
}

impl From<EncryptError> for CommandError {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::Stopped(error) => error.into(),
            EncryptError::Provider(error) => error.into(),
            EncryptError::NoState {
                guest,
                is_encrypted,
            } => {
                let hint = if is_encrypted {
                    let check = Command::Check(guest.arg.clone());
                    format!("for what its start would do: {check}")
                } else {
                    format!(
                        "let its first start make an encrypted one: {}; {}",
                        Command::KeyBind(guest.arg.clone(), Arg::NAME),
                        describe::name_secret(guest.arg.clone())
                    )
                };
                let guest = guest.label();
                Self::refused(format!("{guest} has no TPM state that could be encrypted"))
                    .with_hint(hint)
            }
            EncryptError::NoKeyOpens(guest, untried) => Self::refused(format!(
                "the TPM state of {} is encrypted already, and no key in the store opens it on \
                 this host{}",
                guest.label(),
                but(untried)
            ))
            .with_hint(format!(
                "show which keys open: {}",
                Command::KeyShow(guest.arg)
            )),
            EncryptError::NotErased(guest, error) => Self::failed(format!(
                "what is left of an earlier TPM state in the file of {} could not be overwritten: {error}",
                guest.label()
            )),
            EncryptError::NotSaved(error) => Self::failed(format!(
                "cannot save the plain state: {error}; nothing has changed"
            )),
            EncryptError::NotRedefined(guest, error) => describe::not_redefined(guest, error),
            EncryptError::Redefined(guest) => Self::failed(format!(
                "somebody else has just changed the XML of {}",
                guest.label()
            ))
            .with_hint("try again"),
            EncryptError::Unfinished { guest, cause } => Self::failed(format!(
                "the encryption of the TPM of {} is not finished: {}",
                guest.label(),
                Self::from(*cause)
            ))
            .with_hint(format!(
                "run it again to resume: {}",
                Command::Encrypt(guest.arg)
            )),
            EncryptError::NotUndone { error, left } => Self::failed(format!(
                "{}; what it made is left for the next run: {}",
                Self::from(*error),
                Self::from(left)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::host::path_error::PathError;
    use crate::ids::DomainUuid;
    use crate::libvirt::secret::SecretError;
    use crate::manage::guests::GuestRef;
    use crate::manage::host::HostError;
    use crate::manage::stopped_guest::StoppedError;
    use crate::store::StoreError;
    use crate::swtpm::OldState;

    #[test]
    fn an_old_state_that_is_left_is_told_with_the_command_that_helps() {
        let guest = GuestRef::called(DomainUuid::random(), "vm1");
        let failed = std::io::Error::from(ErrorKind::StorageFull);
        let note = old_state(Some(&OldState::Left(failed)), &guest).unwrap_or_default();
        assert!(note.contains("vtpm-guard encrypt vm1"), "{note}");
        for told_elsewhere in [None, Some(OldState::Erased)] {
            assert_eq!(old_state(told_elsewhere.as_ref(), &guest), None);
        }
    }

    #[test]
    fn an_error_says_what_has_changed_and_names_the_command_that_helps() {
        let guest = || GuestRef::called(DomainUuid::random(), "vm1");
        let no_state = |is_encrypted| EncryptError::NoState {
            guest: guest(),
            is_encrypted,
        };
        let full = PathError::new("/plain-state", ErrorKind::StorageFull);
        let not_redefined =
            || EncryptError::NotRedefined(guest(), SecretError::Refused("no".to_owned()));
        let cause = StoppedError::from(SecretError::Unreachable("no answer".to_owned()));
        let unfinished = EncryptError::Unfinished {
            guest: guest(),
            cause: Box::new(cause),
        };
        let not_undone = EncryptError::NotUndone {
            error: Box::new(not_redefined()),
            left: HostError::from(StoreError::Locked),
        };
        for (error, message, hint, is_refusal) in [
            (no_state(true), "no TPM state", "vtpm-guard check vm1", true),
            (no_state(false), "no TPM state", "virsh edit vm1", true),
            (
                EncryptError::NoKeyOpens(guest(), Some("broken".to_owned())),
                "on this host; one key could not be tried: broken",
                "vtpm-guard key show vm1",
                true,
            ),
            (
                EncryptError::NotErased(guest(), ErrorKind::StorageFull.into()),
                "in the file of vm1 could not be overwritten",
                "",
                false,
            ),
            (EncryptError::NotSaved(full), "/plain-state", "", false),
            (
                not_redefined(),
                "the XML of vm1 was not changed: libvirt refused: no",
                "virsh dumpxml vm1",
                false,
            ),
            (
                EncryptError::NotRedefined(guest(), SecretError::Starting),
                "the XML of vm1 was not changed: libvirt is unreachable: libvirtd is still starting",
                "virsh -c qemu:///system list",
                false,
            ),
            (
                EncryptError::Redefined(guest()),
                "somebody else",
                "try again",
                false,
            ),
            (
                unfinished,
                "is not finished: libvirt is unreachable: no answer",
                "vtpm-guard encrypt vm1",
                false,
            ),
            (
                not_undone,
                "was not changed: libvirt refused: no; what it made is left",
                "",
                false,
            ),
        ] {
            let error = CommandError::from(error);
            assert!(error.to_string().contains(message), "{error}");
            let shown = error.hint().unwrap_or_default();
            assert!(shown.contains(hint), "{shown}");
            assert_eq!(error.is_refusal(), is_refusal, "{error}");
        }
    }
}
