//! The sentences of `adopt`: what became of a guest's key, and why a guest was not adopted.

use super::refusals::refused;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::guest_errors::not_recorded;
use crate::ids::SecretUuid;
use crate::manage::adopt::{AdoptError, NotAdopted, SecretOutcome, StoredKey};
use crate::manage::guests::GuestRef;
use crate::messages::{Arg, Command, Words, refusal};
use crate::verdict::code::Code;
use crate::verdict::facts::NotOpened;

impl From<AdoptError> for CommandError {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::Provider(error) => error.into(),
            AdoptError::Guest(error) => error.into(),
        }
    }
}

/// What became of the key of a guest that was adopted.
pub(super) fn adopted(stored: &StoredKey) -> String {
    let key = match (stored.is_new, stored.proven) {
        (true, true) => "the TPM state proves its key",
        (true, false) => "there is no TPM state to verify its key with",
        (false, true) => "the guard has its key, which opens the TPM state",
        (false, false) => "the guard has its key; there is no TPM state to verify it with",
    };
    let secret = match &stored.secret {
        SecretOutcome::Absent => "libvirt has no secret".to_owned(),
        SecretOutcome::Own => "libvirt's secret is the guard's own".to_owned(),
        SecretOutcome::Kept | SecretOutcome::ToRemove => "libvirt's secret stays".to_owned(),
        SecretOutcome::KeptFor(others) => {
            let others: Vec<_> = others.iter().map(GuestRef::label).collect();
            let others = others.join(", ");
            format!("libvirt's secret stays until {others} is adopted, too")
        }
        SecretOutcome::Removed => "libvirt's secret was removed".to_owned(),
    };
    format!("{key}; {secret}")
}

/// The key that was taken over is too short.
pub(super) fn guessable(guest: &GuestRef) -> String {
    format!(
        "the key of {} is so short that it can be guessed from a copy of its TPM state; renew it \
         once the guest is shut down: {}",
        guest.label(),
        Command::KeyRenew(guest.arg.clone())
    )
}

/// Why this guest was not adopted, or not completely. `secret` is the one that its vTPM names.
pub(super) fn not_adopted(
    error: NotAdopted,
    guest: &GuestRef,
    secret: Option<SecretUuid>,
) -> CommandError {
    let arg = guest.arg.clone();
    let uuid = secret.map_or(Arg::UUID, Arg::from);
    match error {
        NotAdopted::UnreadableXml(error) => {
            CommandError::refused(format!("its XML cannot be read: {error}")).with_hint(format!(
                "for details: {}",
                Command::ExplainCode(Code::DomainXmlInvalid.into())
            ))
        }
        NotAdopted::NotEncrypted { has_tpm } => CommandError::refused("it has no encrypted vTPM")
            .with_hint(if has_tpm {
                format!("encrypt it: {}", Command::Encrypt(arg))
            } else {
                format!("for its devices: {}", Command::VirshDumpxml(arg))
            }),
        NotAdopted::Refused {
            why,
            provider,
            daemons,
        } => refused(why, guest, secret, &provider, daemons),
        NotAdopted::WouldNotStart(why) => {
            let Words { message, hint } = refusal(guest.named(), &why);
            CommandError::refused(format!(
                "libvirt has no key of it, and it would not start: {}: {message}",
                why.code()
            ))
            .with_hint(hint)
        }
        NotAdopted::Changed => {
            CommandError::failed("its key, secret or TPM state changed in the meantime")
                .with_hint("try again; libvirt's secret is unchanged")
        }
        NotAdopted::NotOpened { key_ref, error } => CommandError::failed(format!(
            "key reference {key_ref} did not open again: {}",
            not_opened(error)
        ))
        .with_hint(format!(
            "libvirt's secret is unchanged; for details: {}",
            Command::KeyShow(arg)
        )),
        NotAdopted::NotUndefined(error) if error.is_silence() => error.into(),
        NotAdopted::NotUndefined(error) => CommandError::failed(format!(
            "its key is in the store, but the secret {uuid} stays: {error}"
        ))
        .with_hint(format!(
            "try again, or remove it: {}",
            Command::VirshSecretUndefine(uuid)
        )),
        NotAdopted::NotRecorded(error) => CommandError::failed(not_recorded(&error)),
        NotAdopted::FilesLeft(files) => {
            let names: Vec<_> = files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            let files = files.iter().map(|file| Arg::file(file)).collect();
            CommandError::failed(format!(
                "its key is in the store and libvirt has no secret {uuid} any more, but left \
                 behind {}",
                names.join(" and ")
            ))
            .with_hint(format!("remove what is left: {}", Command::Remove(files)))
        }
        NotAdopted::NotProvided(error) => CommandError::failed(format!(
            "it is adopted, but libvirt did not take the guard's own secret {uuid}: {error}"
        ))
        .with_hint("its next start tries again"),
        NotAdopted::Host(error) => error.into(),
    }
}

fn not_opened(error: NotOpened) -> String {
    match error {
        NotOpened::NoProvider { key_id } => format!("no provider has the key {}", key_id.short()),
        NotOpened::NotHere { key_id } => {
            format!("this host does not hold the key {}", key_id.short())
        }
        NotOpened::Expired { .. } => {
            "a key manager has opened its provider key too long ago".to_owned()
        }
        NotOpened::TimedOut { .. } => "its provider key did not open in time".to_owned(),
        NotOpened::Sealed { reason, .. } | NotOpened::Corrupt { reason, .. } => reason,
    }
}
