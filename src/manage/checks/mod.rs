//! What `doctor` examines: what can make the guard fail silently, or a start fail later. One file
//! for each examination; all of them only read.

mod configuration;
mod copies;
mod drop_in;
mod finding;
mod fleet;
mod hook;
mod host_tpm;
mod libvirt_dirs;
mod nightly;
mod other_hooks;
mod plaintext;
mod recovery;
mod room;
mod rotation;
mod selinux;
mod slots;
mod staged;
mod starts;
mod store;
mod systemd;
mod travelling;
mod trust;
mod unsealing;

pub(crate) use finding::{
    CannotRun, Denied, Distrusted, Finding, HookFinding, HostFinding, KeyFinding, Volatile,
};
#[cfg(feature = "internals")]
pub use libvirt_dirs::directory_in;
pub(crate) use recovery::RecoveryFiles;

use super::dry_start::UnsealedKeks;
use super::guests::ListedGuest;
use super::host::Host;
use super::persist_state::DeletedStates;
use super::shared_secrets;
use crate::ids::DomainUuid;
use crate::store::Access;
use crate::verdict::facts::Provider;

/// Examines the host, and these recovery files. What one examination cannot see because another
/// reports it, such as a store that cannot be read, it leaves out.
pub(crate) fn examine(host: &Host, recovery: &RecoveryFiles<'_>) -> Vec<Finding> {
    // Whether libvirt answers comes first: what asks it afterwards does not wait again. Its guests are
    // listed once, and each provider key is opened once.
    let (mut found, guests) = configuration::examine(host);
    let guests = guests.as_deref();
    let defined = guests.unwrap_or_default();
    let listed: Vec<_> = defined.iter().cloned().map(ListedGuest::from).collect();
    let keks = UnsealedKeks::default();
    found.extend(hook::examine(host));
    found.extend(selinux::examine(host));
    found.extend(other_hooks::examine(&host.libvirt_dirs()));
    found.extend(libvirt_dirs::examine(host, defined));
    found.extend(systemd::examine(host));
    found.extend(staged::examine(host));
    found.extend(trust::examine(host));
    found.extend(store::examine(host));
    found.extend(unsealing::examine(host, &keks));
    found.extend(rotation::examine(host, &keks));
    found.extend(slots::examine(host));
    found.extend(recovery::examine(host, recovery));
    found.extend(plaintext::in_libvirt(host, guests.map(|_| &listed[..])));
    found.extend(shared(host, &listed, &keks));
    found.extend(starts::examine(host, &listed, &keks));
    found.extend(deleted(host, &listed));
    found.extend(travelling::examine(host, &listed));
    found.extend(fleet::examine(host));
    found.extend(copies::examine(host));
    found.extend(plaintext::kept_by_encrypt(host, guests));
    found.extend(plaintext::in_state_files(host, &listed));
    found.extend(room::examine(host));
    found.extend(nightly::examine(host));
    found.extend(host_tpm::examine(host));
    found
}

fn shared(host: &Host, guests: &[ListedGuest], keks: &UnsealedKeks) -> Vec<Finding> {
    let shared = shared_secrets::find(host, guests, keks).unwrap_or_default();
    let findings = shared.into_iter().map(KeyFinding::Shared);
    findings.map(Finding::from).collect()
}

/// What libvirt deletes, although it is needed.
fn deleted(host: &Host, guests: &[ListedGuest]) -> Vec<Finding> {
    let deleted = DeletedStates::find(host, guests).unwrap_or_default();
    let at_stop = Some(deleted.at_stop).filter(|guests| !guests.is_empty());
    let at_undefine = Some(deleted.at_undefine).filter(|guests| !guests.is_empty());
    let at_stop = at_stop.map(KeyFinding::DeletedAtStop).into_iter();
    let found = at_stop.chain(at_undefine.map(KeyFinding::DeletedAtUndefine));
    found.map(Finding::from).collect()
}

/// The providers; none where the store cannot be read.
fn providers(host: &Host) -> Vec<Provider> {
    let store = host.store(Access::Read).ok().flatten();
    let providers = store.and_then(|store| store.providers().ok());
    providers.unwrap_or_default()
}

/// The guest's name in the history.
fn last_name(host: &Host, guest: DomainUuid) -> Option<String> {
    let store = host.store(Access::Read).ok().flatten()?;
    store.last_name(guest).ok().flatten()
}
