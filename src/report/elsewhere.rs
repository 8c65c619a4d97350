//! The sentences about a TPM and a key that this host has under another name.

use std::path::Path;

use super::shell_word;
use crate::domain::TpmVersion;
use crate::verdict::elsewhere::{ElsewhereKind, Kinship, OtherDomain, StateElsewhere};
use crate::verdict::refusal::Refusal;

/// What is wrong, and what helps.
pub(super) fn words(domain: &str, why: &Refusal) -> (String, String) {
    let guest = shell_word(domain);
    match why {
        Refusal::KeyMissingNotDefined { domain: uuid } => (
            "the vTPM has no key, and libvirt has no definition of this guest".to_owned(),
            format!(
                "where each attempt has a new UUID, as with virt-install, define it first (virsh \
                 define; virt-install --print-xml 1) or set policy.auto_bind; where {uuid} stays: \
                 vtpm-guard key bind {uuid} --provider NAME"
            ),
        ),
        Refusal::KeyOfRelative {
            relative,
            is_defined,
        } => {
            let other = &relative.domain;
            let clone = format!(
                "{}vtpm-guard key clone {} {guest}",
                define_first(*is_defined, "give it that key: "),
                argument(other, domain)
            );
            match relative.by {
                Kinship::Secret => (
                    format!(
                        "the vTPM has no key, and it names the secret of {}, whose key was used: \
                         this is the same guest under a new UUID, or a copy of it",
                        label(other)
                    ),
                    clone,
                ),
                Kinship::Name => (
                    format!(
                        "the vTPM has no key, and a guest of this name, {}, has a used one: this \
                         is the same guest under a new UUID, or a new guest",
                        other.uuid
                    ),
                    format!(
                        "{clone}; for a new guest: vtpm-guard key bind {guest} --provider NAME"
                    ),
                ),
            }
        }
        Refusal::KeyMissingStateElsewhere(state) => {
            let (message, hint) = state_elsewhere(&guest, state);
            (
                format!("the vTPM has no key, and {message}"),
                format!("{hint}; for a new TPM move that state away"),
            )
        }
        Refusal::KeyUnknown => (
            "the vTPM has its state already, and no key of this host is known to open it"
                .to_owned(),
            format!(
                "bring its key from the backup of a store that has it: vtpm-guard key import \
                 {guest} --from BACKUP"
            ),
        ),
        Refusal::KeyNotImported => (
            "the TPM's state is on its way, and this host has no key for it".to_owned(),
            format!(
                "bring its key from a backup of the other host's store: vtpm-guard key import \
                 {guest} --from BACKUP"
            ),
        ),
        Refusal::KeyRetired { key_ref, .. } => (
            format!("key reference {key_ref} opens the TPM's state, and it is retired"),
            format!("use it: vtpm-guard key use {key_ref}"),
        ),
        Refusal::KeyOfAnother {
            holder, is_defined, ..
        } => (
            format!(
                "the TPM's state is that of {}: its key opens it",
                label(holder)
            ),
            format!(
                "{}vtpm-guard key clone {} {guest}",
                define_first(*is_defined, "give this guest the key, too: "),
                argument(holder, domain)
            ),
        ),
        Refusal::TpmStateElsewhere(state) => {
            let (message, hint) = state_elsewhere(&guest, state);
            (
                message,
                format!(
                    "{hint}; for a new TPM move that state away, then: vtpm-guard reset {guest}"
                ),
            )
        }
        // The last of those that come here.
        _ => (
            "the vTPM's key was used before, but the TPM's state is gone, and the guest's \
             definition is newer than its last start: virsh undefine deletes the state, unless \
             it is told to keep it (--keep-tpm)"
                .to_owned(),
            format!(
                "bring the state back from a backup, or let a new TPM be made: vtpm-guard reset \
                 {guest}"
            ),
        ),
    }
}

/// The beginning of a hint whose command needs libvirt to know the guest.
fn define_first(is_defined: bool, otherwise: &str) -> String {
    if is_defined {
        return otherwise.to_owned();
    }
    "define it first (virsh define FILE), then: ".to_owned()
}

fn state_elsewhere(guest: &str, state: &StateElsewhere) -> (String, String) {
    let StateElsewhere { path, wanted, kind } = state;
    let (path, wanted) = (path.display(), quoted(wanted));
    match kind {
        ElsewhereKind::OtherVersion(version) => {
            let (version, other) = match version {
                TpmVersion::V1_2 => ("1.2", "2.0"),
                TpmVersion::V2_0 => ("2.0", "1.2"),
            };
            (
                format!("its XML asks for a TPM {other}, while its TPM is a {version}: {path}"),
                format!("set version='{version}' in the <backend> of the TPM: virsh edit {guest}"),
            )
        }
        ElsewhereKind::LastSeen => (
            format!(
                "its XML looks for the TPM's state elsewhere than the last start found it: {path}"
            ),
            format!(
                "let the <source> of the TPM name that place again: virsh edit {guest}; or move the state to {wanted}"
            ),
        ),
        ElsewhereKind::OwnDirectory => (
            format!(
                "its XML looks for the TPM's state in another place than libvirt kept it: {path}"
            ),
            format!(
                "remove the <source> of the TPM: virsh edit {guest}; or move the state to {wanted}"
            ),
        ),
    }
}

fn quoted(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

/// Another domain, in a sentence.
fn label(other: &OtherDomain) -> String {
    match &other.name {
        Some(name) => format!("\"{name}\" ({})", other.uuid),
        None => other.uuid.to_string(),
    }
}

/// Another domain, as the argument of a command: by name, unless that could be another guest's.
fn argument(other: &OtherDomain, guest: &str) -> String {
    match &other.name {
        Some(name) if other.is_defined && name != guest => shell_word(name),
        _ => other.uuid.to_string(),
    }
}
