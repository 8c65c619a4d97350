//! What `key clone` says: why not, and what helps.

use super::Pair;
use crate::admin::error::AdminError;
use crate::admin::stopped::Known;
use crate::ids::SecretUuid;

pub(super) fn not_encrypted(clone: &Known) -> AdminError {
    AdminError::refused(format!(
        "the vTPM of {} is not encrypted, so it needs no key",
        clone.label()
    ))
    .with_hint(format!(
        "let its XML name a secret: virsh edit {}, <encryption secret='{}'/>",
        clone.arg(),
        SecretUuid::random()
    ))
}

pub(super) fn plain(clone: &Known) -> AdminError {
    AdminError::refused(format!(
        "the TPM state of {} is not encrypted, and its XML says that it is",
        clone.label()
    ))
    .with_hint(format!(
        "encrypt it with a key of its own: vtpm-guard encrypt {}",
        clone.arg()
    ))
}

pub(super) fn not_opened(pair: &Pair) -> AdminError {
    let (original, clone) = (pair.original.label(), pair.clone.label());
    AdminError::refused(format!(
        "no key of {original} that opens on this host opens the TPM state of {clone}"
    ))
    .with_hint(format!(
        "see what its keys need: vtpm-guard key show {}",
        pair.original.arg()
    ))
}

pub(super) fn not_bound(original: &Known, clone: &Known) -> AdminError {
    let label = original.label();
    AdminError::refused(format!("{label} is bound to no provider of this host")).with_hint(format!(
        "bind the clone: vtpm-guard key bind {} --provider NAME",
        clone.arg()
    ))
}

/// libvirt has one value for a secret, and these guests would have a key each.
pub(super) fn one_secret_for_two_keys(pair: &Pair) -> AdminError {
    AdminError::refused(format!(
        "{} and {} name the same libvirt secret {}, which cannot hold the keys of both",
        pair.original.label(),
        pair.clone.label(),
        pair.secret
    ))
    .with_hint(own_secret(&pair.clone))
}

pub(super) fn own_secret(clone: &Known) -> String {
    format!(
        "give the clone a secret of its own: virsh edit {}, <encryption secret='{}'/>",
        clone.arg(),
        SecretUuid::random()
    )
}
