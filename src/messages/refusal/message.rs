//! What is wrong: the sentence of each refusal.

use super::{label, other_label, quoted};
use crate::domain::TpmVersion;
use crate::ids::KeyRefId;
use crate::messages::{count, date};
use crate::verdict::elsewhere::{ElsewhereKind, RelatedGuest, Relation, StateElsewhere};
use crate::verdict::facts::{CopyReason, Obstacle, StoreAccessError};
use crate::verdict::refusal::Refusal;

const STATE_GONE: &str = "the vTPM's key has been used, but the TPM state is gone";

#[allow(
    clippy::too_many_lines,
    reason = "one sentence for each refusal, and the compiler finds a missing one"
)]
pub(super) fn message(why: &Refusal) -> String {
    match why {
        Refusal::ProviderMissing {
            provider,
            key_id: Some(key_id),
        } => format!(
            "the vTPM's key is wrapped with key {} of provider {}, and no provider on this host \
             has that key",
            key_id.short(),
            quoted(provider)
        ),
        Refusal::ProviderMissing {
            provider,
            key_id: None,
        } => format!(
            "the vTPM is bound to provider {}, which is not on this host",
            quoted(provider)
        ),
        Refusal::AutoBindMissing { provider } => format!(
            "the vTPM has no key yet, and policy.auto_bind names provider {}, which is not on this \
             host",
            quoted(provider)
        ),
        Refusal::ProviderKeyMismatch {
            provider,
            has,
            wrapped_with,
        } => format!(
            "provider {} has key {}, but the vTPM's key is wrapped with {}",
            quoted(provider),
            has.short(),
            wrapped_with.short()
        ),
        Refusal::ProviderAmbiguous {
            provider,
            key_id,
            candidates,
        } => format!(
            "provider {} is gone, and several others have its key {}: {}",
            quoted(provider),
            key_id.short(),
            labels(candidates)
        ),
        Refusal::ProviderSealed {
            provider, reason, ..
        } => format!(
            "the key of provider {} cannot be opened on this host: {reason}",
            quoted(provider)
        ),
        Refusal::KekNotHere {
            provider,
            key_id,
            kms,
        } => format!(
            "the key {} of provider {} is not on this host; {} opens it",
            key_id.short(),
            quoted(provider),
            key_managers(kms)
        ),
        Refusal::KekExpired {
            provider,
            kms,
            opened_at,
        } => format!(
            "the key of provider {} may not be used any more: {} opened it {}, longer ago than provider.max_age",
            quoted(provider),
            key_managers(kms),
            opened_at.map_or_else(|| "never".to_owned(), |at| format!("last on {}", date(at)))
        ),
        Refusal::ProviderTimedOut { provider } => format!(
            "the key of provider {} did not open in time: the host's TPM is slow, or busy with \
             other starts",
            quoted(provider)
        ),
        Refusal::KeyMissing => "the vTPM has no key, and libvirt has no secret for it".to_owned(),
        Refusal::KeyMissingNotDefined { .. } => "the vTPM has no key, and the guest is not \
             defined in libvirt: its UUID may change at each attempt"
            .to_owned(),
        Refusal::KeyOfRelatedGuest { relative, .. } => relative_has_key(relative),
        Refusal::KeyMissingStateElsewhere(state) => {
            format!("the vTPM has no key, and {}", state_elsewhere(state))
        }
        Refusal::UsedKeyRetired { key_ref, .. } => format!(
            "the vTPM has no key in use, and its used key (key reference {key_ref}) is retired; the \
             TPM state is gone: libvirt would create a new, empty TPM"
        ),
        Refusal::KeyOfOriginal {
            original, is_lost, ..
        } => format!(
            "the vTPM has {}, and its XML has the key of guest {original}, of which it is a copy",
            if *is_lost {
                "state but no key"
            } else {
                "no key"
            }
        ),
        Refusal::XmlKeyCorrupt { reason, .. } => {
            format!("the key in the guest's XML cannot be opened: {reason}")
        }
        Refusal::FleetKeyTooNew { reason } => {
            format!("the guest's key in the fleet's store cannot be opened: {reason}")
        }
        Refusal::Unmanaged {
            is_clients: true, ..
        } => "the client that starts the guest brings its key, and policy.unmanaged forbids that"
            .to_owned(),
        Refusal::Unmanaged { .. } => {
            "libvirt has its own secret for the vTPM, and policy.unmanaged forbids that".to_owned()
        }
        Refusal::KeyInMemoryOnly { .. } => "no key reference in use has the guest's key, only \
             libvirt's memory, and policy.unmanaged forbids that"
            .to_owned(),
        Refusal::KeyLost => {
            "the vTPM already has state, and the store on this host has no keys and no providers"
                .to_owned()
        }
        Refusal::KeyUnknown => {
            "the vTPM already has state, and no key for it is known on this host".to_owned()
        }
        Refusal::KeyNotImported => {
            "the vTPM is receiving its state, and no key for it is known on this host".to_owned()
        }
        Refusal::KeysRetired { key_refs } => {
            let are = if key_refs.len() == 1 { "is" } else { "are" };
            format!(
                "the vTPM is receiving its state, and {}, which may have its key, {are} retired",
                rows(key_refs)
            )
        }
        Refusal::KeyRetired { key_ref } => {
            format!("key reference {key_ref} opens the TPM state, but it is retired")
        }
        Refusal::KeyOfOtherGuest { holder, .. } => format!(
            "the TPM state belongs to {}: its key opens it",
            other_label(holder)
        ),
        Refusal::ClientsKeyMissing { secret } => format!(
            "the guest's key comes from the client that starts it, and the secret {secret} has no \
             value"
        ),
        Refusal::KeyAmbiguous { key_refs } => format!(
            "{} may each hold the vTPM's key, and no TPM state shows which is right",
            rows(key_refs)
        ),
        Refusal::KeyDoesNotOpenTpm { key_refs } => {
            format!("the key of {} does not open the TPM state", rows(key_refs))
        }
        Refusal::HostValueDoesNotOpenTpm { secret } => {
            format!("libvirt's own secret {secret} does not open the TPM state")
        }
        Refusal::RetiredKeyOpensTpm { key_ref } => format!(
            "key reference {key_ref}, which is retired, opens the TPM state, and none in use does"
        ),
        Refusal::KeyCorrupt {
            key_ref, reason, ..
        } => {
            format!("the wrapped key of key reference {key_ref} cannot be opened: {reason}")
        }
        Refusal::TpmStateMissing => {
            format!("{STATE_GONE}: libvirt would create a new, empty TPM")
        }
        Refusal::TpmStateElsewhere(state) => state_elsewhere(state),
        Refusal::TpmStateUndefined => format!(
            "{STATE_GONE}, and the guest was redefined after its last start: undefining a guest \
             deletes its TPM state, unless --keep-tpm is given"
        ),
        Refusal::StateInSnapshots { names } => format!(
            "{STATE_GONE}: libvirt would create a new, empty TPM; these snapshots of the running \
             guest hold the old one: {}",
            labels(names)
        ),
        Refusal::SeenStateMissing { path, at } => format!(
            "the TPM had state in {} when the guest ran here on {}, and that state is gone: \
             libvirt would create a new, empty TPM",
            path.display(),
            date(*at)
        ),
        Refusal::RunsElsewhere(runs_on) => format!(
            "the guest runs on host {} since {}, as that host has said last, and policy.elsewhere \
             forbids a second run",
            quoted(&runs_on.host),
            date(runs_on.since)
        ),
        Refusal::SavedCopyOutdated {
            reason: CopyReason::Fleet,
            saved_at,
        } => format!(
            "{STATE_GONE}; the one of {} in the fleet's store is older than the guest's last run",
            date(*saved_at)
        ),
        Refusal::SavedCopyOutdated { saved_at, .. } => format!(
            "{STATE_GONE}; its saved copy of {} is older than the guest's last run",
            date(*saved_at)
        ),
        Refusal::TpmStateNotRestored { reason } => {
            format!("the TPM state is gone, and its saved copy could not be restored: {reason}")
        }
        Refusal::TpmStateDamaged { damage, .. } => {
            let what = match damage.link {
                // swtpm would follow it.
                Some(_) => "the TPM state is not read through a link",
                None => "swtpm would reject the TPM state with any key",
            };
            format!("{what}: {}", damage.how)
        }
        Refusal::TpmObstructed(hindrance) => hindered(hindrance),
        Refusal::SecretRefused { secret, reason } => {
            format!("libvirt rejected the secret {secret}: {reason}")
        }
        Refusal::SecretConflict { secret, reason } => {
            format!("the secret {secret} cannot be used for this vTPM: {reason}")
        }
        Refusal::SecretOfGuest { secret, guests } => format!(
            "the secret {secret}, which the domain XML names, belongs to {}, which has another key",
            guest_names(guests)
        ),
        Refusal::SecretInUse { secret, guest } => format!(
            "the secret {secret} is in use for the start of guest {}, whose domain XML names it \
             too and which has another key",
            quoted(guest)
        ),
        Refusal::LibvirtUnreachable { reason } => format!("libvirt is unreachable: {reason}"),
        Refusal::DefinitionsUnread { reason } => {
            format!("libvirt's definitions of its guests could not be read: {reason}")
        }
        Refusal::DeadlinePassed => "hook.deadline passed before the start was checked".to_owned(),
        Refusal::StagingTimePassed => {
            "the time in which keys are staged passed before the start was checked".to_owned()
        }
        Refusal::LibvirtStarting => {
            "libvirtd is still starting, and takes no key until its guests are up".to_owned()
        }
        Refusal::Store(StoreAccessError::Unavailable(reason)) => {
            format!("the store cannot be used: {reason}")
        }
        Refusal::Store(StoreAccessError::Corrupt(reason)) => {
            format!("the store is damaged: {reason}")
        }
        Refusal::Store(StoreAccessError::TooNew { found, known }) => format!(
            "the store has schema version {found}, but this program knows only versions up to \
             {known}"
        ),
        Refusal::DomainXmlInvalid { reason } => format!(
            "the domain XML cannot be read, so it is unknown whether its vTPM is encrypted: {reason}"
        ),
        Refusal::UnencryptedVtpm { .. } => {
            "the vTPM is not encrypted, and policy.unencrypted forbids that".to_owned()
        }
        Refusal::EncryptionMismatch {
            state_encrypted: true,
            ..
        } => "the TPM state is encrypted, but the domain XML has no <encryption>".to_owned(),
        Refusal::EncryptionMismatch {
            state_encrypted: false,
            ..
        } => "the domain XML has <encryption>, but the TPM state is not encrypted".to_owned(),
        Refusal::Internal { reason } => format!("internal error: {reason}"),
    }
}

fn relative_has_key(RelatedGuest { domain, by, .. }: &RelatedGuest) -> String {
    match by {
        Relation::Secret => format!(
            "the vTPM has no key, and the domain XML names the secret of {}, whose key has been \
             used: this is the same guest with a new UUID, or a copy of it",
            other_label(domain)
        ),
        Relation::Name => format!(
            "the vTPM has no key, and another guest of this name, {}, has a key that has been \
             used: this is the same guest with a new UUID, or a new guest",
            domain.uuid
        ),
    }
}

fn state_elsewhere(StateElsewhere { path, kind, .. }: &StateElsewhere) -> String {
    let path = path.display();
    match kind {
        ElsewhereKind::OtherVersion(TpmVersion::V1_2) => {
            format!("the domain XML asks for a TPM 2.0, but the guest has a TPM 1.2: {path}")
        }
        ElsewhereKind::OtherVersion(TpmVersion::V2_0) => {
            format!("the domain XML asks for a TPM 1.2, but the guest has a TPM 2.0: {path}")
        }
        ElsewhereKind::LastSeen => format!(
            "the domain XML does not name the place where the last start found the TPM state: \
             {path}"
        ),
        ElsewhereKind::OwnDirectory => format!(
            "the domain XML does not name the place where libvirt keeps the TPM state: {path}"
        ),
    }
}

fn hindered(hindrance: &Obstacle) -> String {
    match hindrance {
        Obstacle::InUse { holder, .. } => {
            format!("the TPM state is in use: {holder} holds its lock")
        }
        Obstacle::BadLock { path, what } => {
            format!("swtpm cannot lock the TPM state: {path}: {what}")
        }
        Obstacle::ClosedDirectory {
            path,
            mode,
            needed,
            user,
        } => format!(
            "swtpm, which runs as {user}, cannot reach the TPM state: {path} has mode {mode:04o} \
             and needs {needed:04o}"
        ),
    }
}

/// How many of a list are named. A refusal is one line, for libvirt's error and for a log.
const NAMED: usize = 5;

/// A list, or its beginning and how many others there are.
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let others = names.len().saturating_sub(NAMED);
    let beginning = names.take(NAMED).collect::<Vec<_>>().join(", ");
    match others {
        0 => beginning,
        others => format!("{beginning} and {}", count(others, "other")),
    }
}

fn guest_names(guests: &[String]) -> String {
    let names = some(guests.iter().map(|name| quoted(name)));
    match guests.len() {
        1 => format!("guest {names}"),
        _ => format!("guests {names}"),
    }
}

/// The sections of the configuration that say where key managers are.
fn key_managers(kms: &[String]) -> String {
    let sections: Vec<_> = kms.iter().map(|name| format!("kms.{name}")).collect();
    labels(&sections)
}

/// A list of names. Of snapshots there are as many as QEMU's user makes; the first ones are enough.
fn labels(names: &[String]) -> String {
    some(names.iter().map(|name| label(name)))
}

fn rows(key_refs: &[KeyRefId]) -> String {
    let ids: Vec<_> = key_refs.iter().map(ToString::to_string).collect();
    match ids.as_slice() {
        many if many.len() > NAMED => format!("key references {}", some(ids.into_iter())),
        [one] => format!("key reference {one}"),
        [head @ .., last] => format!("key references {} and {last}", head.join(", ")),
        [] => "no key reference".to_owned(),
    }
}
