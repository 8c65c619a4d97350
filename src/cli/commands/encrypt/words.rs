//! What `encrypt` says: why not, and what helps.

use std::io;

use crate::cli::ui::error::CommandError;
use crate::host::dirs::StateDir;
use crate::ids::SecretUuid;
use crate::libvirt::secret::SecretError;
use crate::manage::stopped_guest::DefinedGuest;

pub(crate) fn no_provider() -> CommandError {
    CommandError::usage("there is no default provider")
        .with_hint("name one: --provider NAME; or choose one: vtpm-guard provider set-default NAME")
}

/// Nothing to encrypt: the guest's first start makes an encrypted TPM if its XML says so.
pub(crate) fn no_state(known: &DefinedGuest) -> CommandError {
    let word = known.arg();
    let hint = match known.vtpm.secret_uuid {
        Some(_) => format!("see what its start would do: vtpm-guard check {word}"),
        None => format!(
            "let its first start make an encrypted one: vtpm-guard key bind {word} --provider \
             NAME; virsh edit {word}, in the TPM's <backend>: <encryption secret='{}'/>",
            SecretUuid::random()
        ),
    };
    CommandError::refused(format!(
        "{} has no TPM state that could be encrypted",
        known.label()
    ))
    .with_hint(hint)
}

pub(crate) fn not_ours(known: &DefinedGuest) -> CommandError {
    let word = known.arg();
    CommandError::refused(format!(
        "the TPM state of {} is encrypted already, and no key in the store opens it on this host",
        known.label()
    ))
    .with_hint(format!(
        "see what its keys need: vtpm-guard key show {word}"
    ))
}

pub(crate) fn not_kept(state_dir: &StateDir, error: &io::Error) -> CommandError {
    CommandError::failed(format!(
        "the plain state cannot be kept in {}: {error}; nothing was changed",
        state_dir.plain_states().display()
    ))
}

pub(crate) fn not_redefined(known: &DefinedGuest, error: &SecretError) -> CommandError {
    CommandError::failed(format!(
        "the XML of {} was not changed: {error}",
        known.label()
    ))
}

pub(crate) fn redefined_meanwhile(known: &DefinedGuest) -> CommandError {
    CommandError::failed(format!(
        "the XML of {} was changed by somebody else just now",
        known.label()
    ))
    .with_hint("try again")
}

/// Only going on makes it whole.
pub(crate) fn unfinished(known: &DefinedGuest, error: &CommandError) -> CommandError {
    let label = known.label();
    CommandError::failed(format!(
        "the encryption of the TPM of {label} is not finished: {error}"
    ))
    .with_hint(format!(
        "run it again, it goes on from here: vtpm-guard encrypt {}",
        known.arg()
    ))
}
