//! The sentence and the hint of each refusal.

use std::path::Path;

use super::{Arg, Named, date, label, quoted};
use crate::ids::KeyRefId;
use crate::verdict::facts::{Obstacle, StoreAccessError};
use crate::verdict::refusal::Refusal;

/// What is wrong, and the command that mends it. Neither ends in a full stop: they are parts
/// of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// What is wrong.
    pub message: String,
    /// What helps.
    pub hint: String,
}

/// The words of a refusal of this guest's start.
#[must_use]
pub fn refusal<'a>(guest: impl Into<Named<'a>>, why: &Refusal) -> Words {
    let guest = guest.into();
    let domain = &Arg::guest(guest);
    let (message, hint) = match why {
        Refusal::ProviderMissing { .. }
        | Refusal::ProviderKeyMismatch { .. }
        | Refusal::ProviderAmbiguous { .. }
        | Refusal::ProviderSealed { .. }
        | Refusal::ProviderTimedOut { .. } => provider_words(domain, why),
        Refusal::SecretRefused { .. }
        | Refusal::LibvirtUnreachable { .. }
        | Refusal::DeadlinePassed
        | Refusal::LibvirtStarting
        | Refusal::SecretConflict { .. }
        | Refusal::SecretOfGuest { .. }
        | Refusal::SecretInUse { .. } => libvirt_words(domain, why),
        Refusal::Store(trouble) => store_words(trouble),
        Refusal::DomainXmlInvalid { reason } => (
            format!("the domain XML cannot be read: {reason}"),
            "whether its vTPM is encrypted is not known; for details: vtpm-guard check --xml FILE"
                .to_owned(),
        ),
        Refusal::UnencryptedVtpm => (
            "its vTPM is not encrypted, and policy.unencrypted refuses that".to_owned(),
            format!("encrypt it: vtpm-guard encrypt {domain} --provider NAME"),
        ),
        Refusal::KeyMissingNotDefined { .. }
        | Refusal::KeyOfRelatedGuest { .. }
        | Refusal::KeyMissingStateElsewhere(_)
        | Refusal::KeyUnknown
        | Refusal::KeyNotImported
        | Refusal::KeyRetired { .. }
        | Refusal::KeyOfOtherGuest { .. }
        | Refusal::TpmStateElsewhere(_)
        | Refusal::TpmStateUndefined => super::elsewhere::words(guest, why),
        Refusal::TpmStateDamaged { .. } | Refusal::TpmObstructed(_) => state_words(domain, why),
        Refusal::Internal { reason } => (
            format!("a fault of vtpm-guard: {reason}"),
            "please report it; what the guard saw: vtpm-guard history".to_owned(),
        ),
        Refusal::TpmStateMissing
        | Refusal::StateInSnapshots { .. }
        | Refusal::SeenStateMissing { .. }
        | Refusal::TpmStateNotRestored { .. } => missing_state_words(domain, why),
        _ => key_words(domain, why),
    };
    Words { message, hint }
}

fn provider_words(domain: &Arg, why: &Refusal) -> (String, String) {
    match why {
        Refusal::ProviderMissing {
            provider,
            key_id: Some(key_id),
        } => (
            format!(
                "the vTPM's key is wrapped with key {} of provider {}, and no provider on this \
                 host has it",
                key_id.short(),
                quoted(provider)
            ),
            "import it: vtpm-guard provider import FILE".to_owned(),
        ),
        Refusal::ProviderMissing {
            provider,
            key_id: None,
        } => (
            format!(
                "the vTPM is bound to provider {}, which is not on this host",
                quoted(provider)
            ),
            format!(
                "import it: vtpm-guard provider import FILE, or bind to another: \
                 vtpm-guard key bind {domain} --provider NAME"
            ),
        ),
        Refusal::ProviderKeyMismatch {
            provider,
            has,
            wrapped_with,
        } => (
            format!(
                "provider {} has key {}, but the vTPM's key is wrapped with {}",
                quoted(provider),
                has.short(),
                wrapped_with.short()
            ),
            "import the original: vtpm-guard provider import FILE".to_owned(),
        ),
        Refusal::ProviderAmbiguous {
            provider,
            key_id,
            candidates,
        } => (
            format!(
                "provider {} is gone, and several others have its key {}: {}",
                quoted(provider),
                key_id.short(),
                labels(candidates)
            ),
            format!("say which: vtpm-guard key bind {domain} --provider NAME"),
        ),
        Refusal::ProviderSealed { provider, reason } => (
            format!(
                "the key of provider {} cannot be opened on this host: {reason}",
                quoted(provider)
            ),
            "restore it: vtpm-guard provider import FILE".to_owned(),
        ),
        Refusal::ProviderTimedOut { provider } => (
            format!(
                "the key of provider \"{provider}\" did not open in time: its TPM is slow, or busy \
                 with other starts"
            ),
            format!("start it again: virsh start {domain}"),
        ),
        _ => unreachable!("only refusals about providers come here"),
    }
}

fn key_words(domain: &Arg, why: &Refusal) -> (String, String) {
    match why {
        Refusal::Unmanaged => (
            "libvirt has a secret of its own for the vTPM, and policy.unmanaged refuses that"
                .to_owned(),
            format!("take it over: vtpm-guard adopt {domain} --provider NAME"),
        ),
        Refusal::KeyLost => (
            "the vTPM has its state already, and the store of this host knows no key and no provider"
                .to_owned(),
            "restore the store from its backup: vtpm-guard store restore FILE".to_owned(),
        ),
        Refusal::ClientsKeyMissing { secret } => (
            format!(
                "the guest's key comes from whoever starts it, and libvirt was given none for the \
                 secret {secret}"
            ),
            format!(
                "start it with that client; if its key is to stay on this host, give libvirt the \
                 value and: vtpm-guard adopt {domain} --provider NAME"
            ),
        ),
        Refusal::KeyAmbiguous { key_refs } => (
            format!(
                "{} may each hold the vTPM's key, and no TPM state tells which is right",
                rows(key_refs)
            ),
            format!("compare and choose: vtpm-guard key show {domain}, vtpm-guard key use ID"),
        ),
        Refusal::KeyDoesNotOpenTpm { key_refs } => (
            format!(
                "the key of {} does not open the TPM's state",
                rows(key_refs)
            ),
            format!(
                "bring back the TPM state that belongs to it, or another key: \
                 vtpm-guard key show {domain}"
            ),
        ),
        Refusal::HostValueDoesNotOpenTpm { secret } => (
            format!("libvirt's own secret {secret} does not open the TPM's state"),
            format!(
                "give it the value that this TPM was made with: virsh secret-set-value {secret} \
                 --plain --file FILE; or restore the TPM state that belongs to its value"
            ),
        ),
        Refusal::RetiredKeyOpensTpm { key_ref } => (
            format!(
                "the TPM's state is opened by key reference {key_ref}, which is retired, and by none in use"
            ),
            format!("use it again: vtpm-guard key use {key_ref}"),
        ),
        Refusal::KeyCorrupt { key_ref, reason } => (
            format!(
                "the wrapped key of {} does not open: {reason}",
                rows(&[*key_ref])
            ),
            format!(
                "take the whole one from a backup of the store: vtpm-guard key import {domain} --from \
                 BACKUP"
            ),
        ),
        Refusal::EncryptionMismatch {
            state_encrypted: true,
        } => (
            "the TPM's state is encrypted, but the domain XML has no <encryption>".to_owned(),
            format!(
                "put it back, if the store has the key: vtpm-guard encrypt {domain}; else by hand: \
                 virsh edit {domain}"
            ),
        ),
        Refusal::EncryptionMismatch {
            state_encrypted: false,
        } => (
            "the domain XML says that the vTPM is encrypted, but its state is not".to_owned(),
            format!(
                "encrypt the state: vtpm-guard encrypt {domain} --provider NAME; or take <encryption> \
                 out of the XML: virsh edit {domain}"
            ),
        ),
        _ => (
            "the vTPM has no key, and libvirt has no secret for it".to_owned(),
            format!("bind it to a provider: vtpm-guard key bind {domain} --provider NAME"),
        ),
    }
}

fn state_words(domain: &Arg, why: &Refusal) -> (String, String) {
    match why {
        Refusal::TpmStateDamaged { how } => (
            format!("swtpm would refuse the TPM's state, whatever the key: {how}"),
            format!(
                "restore the file from a backup, or a saved copy: vtpm-guard state show {domain}"
            ),
        ),
        Refusal::TpmObstructed(Obstacle::InUse { holder, pid }) => (
            format!("the TPM's state is in use: {holder} holds its lock"),
            match pid {
                Some(pid) => format!(
                    "for details: ps -fp {pid}; if it is left over: kill {pid}, then: virsh start \
                     {domain}"
                ),
                None => format!("stop the guest where it runs, then: virsh start {domain}"),
            },
        ),
        Refusal::TpmObstructed(Obstacle::BadLock { path, what }) => (
            format!("swtpm cannot lock the TPM's state: {path}: {what}"),
            format!(
                "move it away: mv {0} {0}.old, then: virsh start {domain}",
                Arg::file(Path::new(path))
            ),
        ),
        Refusal::TpmObstructed(Obstacle::ClosedDirectory {
            path,
            mode,
            needed,
            user,
        }) => (
            format!(
                "swtpm, which runs as {user}, cannot reach the TPM's state: {path} has mode \
                 {mode:04o} and needs {needed:04o}"
            ),
            format!(
                "open it: chmod {needed:04o} {}, then: virsh start {domain}",
                Arg::file(Path::new(path))
            ),
        ),
        _ => unreachable!("only refusals about the TPM's state come here"),
    }
}

/// What is said of a TPM's state that is gone.
fn missing_state_words(domain: &Arg, why: &Refusal) -> (String, String) {
    match why {
        Refusal::TpmStateMissing => (
            "the vTPM's key was used before, but the TPM's state is gone: libvirt would make a \
             new, empty TPM"
                .to_owned(),
            format!("bring the state back, or let a new TPM be made: vtpm-guard reset {domain}"),
        ),
        Refusal::StateInSnapshots { names } => (
            format!(
                "the vTPM's key was used before, but the TPM's state is gone: libvirt would make a \
                 new, empty TPM; snapshots of the running guest hold the old one: {}",
                names
                    .iter()
                    .map(|name| label(name))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            // A newer libvirt starts a guest that goes back to a snapshot just like any other.
            format!(
                "go back to one: virsh snapshot-revert {domain} NAME; where this refuses that too, \
                 first: vtpm-guard reset {domain}"
            ),
        ),
        Refusal::SeenStateMissing { path, at } => (
            format!(
                "its TPM had state in {} when it ran here on {}, and that is gone: libvirt would \
                 make a new, empty TPM",
                path.display(),
                date(*at)
            ),
            format!("bring the state back, or let a new TPM be made: vtpm-guard reset {domain}"),
        ),
        Refusal::TpmStateNotRestored { reason } => (
            format!("the TPM's state is gone, and its kept copy could not be put back: {reason}"),
            format!("fix that, or restore it by hand: vtpm-guard state restore {domain}"),
        ),
        _ => unreachable!("only refusals about the TPM's state come here"),
    }
}

fn libvirt_words(domain: &Arg, why: &Refusal) -> (String, String) {
    match why {
        Refusal::SecretRefused { secret, reason } => (
            format!("libvirt did not take the secret {secret}: {reason}"),
            format!("see what it has: virsh secret-dumpxml {secret}"),
        ),
        Refusal::SecretConflict { secret, reason } => (
            format!("the secret {secret} cannot be used for this vTPM: {reason}"),
            format!(
                "see whose it is: virsh secret-list; if nothing needs it: virsh secret-undefine \
                 UUID; else name another secret in the XML: virsh edit {domain}"
            ),
        ),
        Refusal::SecretOfGuest { secret, guests } => (
            format!(
                "the secret {secret} that its XML names belongs to {}, which has another key",
                guest_names(guests)
            ),
            own_secret(domain),
        ),
        Refusal::SecretInUse { secret, guest } => (
            format!(
                "the secret {secret} is in use for the start of guest {}, which names it in its \
                 XML too and has another key",
                quoted(guest)
            ),
            own_secret(domain),
        ),
        Refusal::LibvirtUnreachable { reason } => (
            format!("libvirt did not answer: {reason}"),
            "see whether its secret driver answers: vtpm-guard doctor".to_owned(),
        ),
        Refusal::DeadlinePassed => (
            "the start was not judged before hook.deadline passed".to_owned(),
            format!(
                "find out what does not answer: vtpm-guard doctor; then start it again: virsh start \
                 {domain}"
            ),
        ),
        Refusal::LibvirtStarting => (
            "libvirtd is still starting, and takes no key until its guests are up".to_owned(),
            format!(
                "start it afterwards: virsh start {domain}; why its key was not staged: vtpm-guard \
                 doctor"
            ),
        ),
        _ => unreachable!("only refusals about libvirt come here"),
    }
}

/// What helps where guests with different keys name one secret.
fn own_secret(domain: &Arg) -> String {
    format!(
        "give it a secret UUID of its own in <encryption secret=…> (uuidgen makes one): \
         virsh edit {domain}"
    )
}

fn guest_names(guests: &[String]) -> String {
    let quoted: Vec<_> = guests.iter().map(|name| quoted(name)).collect();
    match quoted.as_slice() {
        [one] => format!("guest {one}"),
        several => format!("guests {}", several.join(", ")),
    }
}

fn store_words(trouble: &StoreAccessError) -> (String, String) {
    match trouble {
        StoreAccessError::Unavailable(reason) => (
            format!("the store cannot be used: {reason}"),
            "see what is wrong with it: vtpm-guard store check".to_owned(),
        ),
        StoreAccessError::Corrupt(reason) => (
            format!("the store is damaged: {reason}"),
            "bring back a backup: vtpm-guard store restore FILE".to_owned(),
        ),
        StoreAccessError::TooNew { found, known } => (
            format!(
                "the store has schema version {found}, and this program knows versions up to \
                 {known}"
            ),
            "reinstall the newer version, or restore a backup: vtpm-guard store restore FILE"
                .to_owned(),
        ),
    }
}

fn labels(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| label(name)).collect();
    names.join(", ")
}

fn rows(key_refs: &[KeyRefId]) -> String {
    let ids: Vec<_> = key_refs.iter().map(ToString::to_string).collect();
    match ids.as_slice() {
        [one] => format!("key reference {one}"),
        [head @ .., last] => format!("key references {} and {last}", head.join(", ")),
        [] => "no key reference".to_owned(),
    }
}
