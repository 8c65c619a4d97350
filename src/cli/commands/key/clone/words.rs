//! What `key clone` says: why not, and what helps.

use super::Pair;
use crate::cli::ui::error::CommandError;
use crate::guard::Guard;
use crate::ids::{KeyRefId, SecretUuid};
use crate::manage::stopped_guest::DefinedGuest;
use crate::messages::Arg;
use crate::swtpm::state_path;

pub(crate) fn not_encrypted(clone: &DefinedGuest) -> CommandError {
    CommandError::refused(format!(
        "the vTPM of {} is not encrypted, so it needs no key",
        clone.label()
    ))
    .with_hint(format!(
        "let its XML name a secret: virsh edit {}, <encryption secret='{}'/>",
        clone.arg(),
        SecretUuid::random()
    ))
}

pub(crate) fn plain(clone: &DefinedGuest) -> CommandError {
    CommandError::refused(format!(
        "the TPM state of {} is not encrypted, and its XML says that it is",
        clone.label()
    ))
    .with_hint(format!(
        "encrypt it with a key of its own: vtpm-guard encrypt {}",
        clone.arg()
    ))
}

pub(crate) fn not_opened(pair: &Pair) -> CommandError {
    let (original, clone) = (pair.original.label(), pair.clone.label());
    CommandError::refused(format!(
        "no key of {original} that opens on this host opens the TPM state of {clone}"
    ))
    .with_hint(format!(
        "see what its keys need: vtpm-guard key show {}",
        pair.original.arg()
    ))
}

pub(crate) fn own_key_is_retired(clone: &DefinedGuest, key_ref: KeyRefId) -> CommandError {
    CommandError::refused(format!(
        "{} has the key of its TPM state already, and it is retired",
        clone.label()
    ))
    .with_hint(format!("use it: vtpm-guard key use {key_ref}"))
}

pub(crate) fn runs(clone: &DefinedGuest) -> CommandError {
    CommandError::refused(format!("{} is running", clone.label()))
        .with_hint(format!("stop it first: virsh shutdown {}", clone.arg()))
}

/// The original's TPM is used and gone: the clone's start would make a new one.
pub(crate) fn no_state_left(pair: &Pair, guard: &Guard) -> CommandError {
    let (original, clone) = (pair.original.label(), &pair.clone);
    let place = state_path(
        &guard.config.libvirt.tpm_states(),
        clone.uuid(),
        &clone.vtpm,
    );
    CommandError::refused(format!(
        "no TPM state that a key of {original} opens is left on this host"
    ))
    .with_hint(format!(
        "bring it back from a backup to {}, then again; for a new TPM: vtpm-guard key bind {} \
         --provider NAME",
        Arg::file(&place),
        clone.arg()
    ))
}

pub(crate) fn not_bound(pair: &Pair) -> CommandError {
    let (label, clone) = (pair.original.label(), &pair.clone);
    CommandError::refused(format!("{label} is bound to no provider of this host")).with_hint(
        format!(
            "bind the clone: vtpm-guard key bind {} --provider NAME",
            clone.arg()
        ),
    )
}

/// libvirt has one value for a secret, and these guests would have a key each.
pub(crate) fn one_secret_for_two_keys(pair: &Pair) -> CommandError {
    CommandError::refused(format!(
        "{} and {} name the same libvirt secret {}, which cannot hold the keys of both",
        pair.original.label(),
        pair.clone.label(),
        pair.secret
    ))
    .with_hint(own_secret(&pair.clone))
}

pub(crate) fn own_secret(clone: &DefinedGuest) -> String {
    format!(
        "give the clone a secret of its own: virsh edit {}, <encryption secret='{}'/>",
        clone.arg(),
        SecretUuid::random()
    )
}
