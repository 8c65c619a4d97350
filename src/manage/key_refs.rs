//! `key unbind`, `key retire`, `key use`: which key references count. A wrapped key is kept.

use serde::Serialize;

use super::choose_key::choose;
use super::guests::{GuestError, GuestRef};
use super::host::{Host, HostError};
use crate::clock::Timestamp;
use crate::domain::TravellingKey;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::wrap::Generation;
use crate::keyring::unlock::Unlocker;
use crate::store::{Access, Store, StoreError};

/// What `key unbind` did.
#[derive(Debug, Serialize)]
pub(crate) struct Unbound {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    /// How many placeholders were deleted.
    pub(crate) placeholders: usize,
    /// How many keys were retired.
    pub(crate) retired: usize,
    /// Whether it was bound to a provider, or had a key in use.
    pub(crate) changed: bool,
    /// Whether its XML has keys of its that `sync` did not write, and so does not remove.
    pub(crate) left_in_xml: bool,
}

/// What `key retire` did.
#[derive(Debug, Serialize)]
pub(crate) struct Retired {
    pub(crate) id: KeyRefId,
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    /// Whether it was in use.
    pub(crate) changed: bool,
    /// Whether it was the guest's last key reference in use.
    #[serde(skip)]
    pub(crate) was_last: bool,
}

/// What `key use` did.
#[derive(Debug, Serialize)]
pub(crate) struct Used {
    /// The one that was named.
    pub(crate) id: KeyRefId,
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    /// The one that is in use now: another one where the key was wrapped once more.
    pub(crate) key_ref: KeyRefId,
    pub(crate) generation: Generation,
    /// A host that has a newer key of the guest may use that one.
    #[serde(skip)]
    pub(crate) may_be_passed_over: bool,
    /// The guest's other keys, which were in use.
    pub(crate) retired: Vec<KeyRefId>,
    pub(crate) changed: bool,
}

/// Why a key reference was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyRefError {
    /// The guest has none.
    #[error("no key reference")]
    None(GuestRef),
    /// No guest was found, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
}

impl<E: Into<GuestError>> From<E> for KeyRefError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

/// Stops managing the guest that `text` names.
pub(crate) fn unbind(host: &Host, text: &str) -> Result<Unbound, KeyRefError> {
    let guest = host.guest(text)?;
    let Some(mut store) = host.store(Access::Write)? else {
        return Err(KeyRefError::None(guest));
    };
    let counts = store.unbind(guest.uuid, Timestamp::now())?;
    let changed = counts.placeholders + counts.retired > 0;
    // Those that are there are retired.
    if !changed && store.all_key_refs(Some(guest.uuid), true)?.is_empty() {
        return Err(KeyRefError::None(guest));
    }
    let written = store.written_keys()?.remove(&guest.uuid);
    let written = written.unwrap_or_default();
    let is_left = |key: &TravellingKey| !written.contains(&key.wrapped_dek);
    let in_xml = host.definition(guest.uuid);
    let in_xml = in_xml.and_then(|(domain, _)| domain.travelling);
    let in_xml = in_xml.filter(|found| found.are_of(guest.uuid));
    Ok(Unbound {
        left_in_xml: in_xml.is_some_and(|found| found.keys.iter().any(is_left)),
        guest,
        placeholders: counts.placeholders,
        retired: counts.retired,
        changed,
    })
}

/// Retires a key reference.
pub(crate) fn retire(host: &Host, id: KeyRefId) -> Result<Retired, HostError> {
    let mut store = store_with(host, id)?;
    let domain = store.key_ref(id)?.domain;
    let changed = store.retire(id, Timestamp::now())?;
    Ok(Retired {
        id,
        guest: guest_of(&store, domain)?,
        changed,
        was_last: changed && !store.has_key_refs(domain)?,
    })
}

/// Makes a key reference the one key of its guest.
pub(crate) fn use_key(host: &Host, id: KeyRefId) -> Result<Used, HostError> {
    let mut store = store_with(host, id)?;
    let guest = store.key_ref(id)?.domain;
    let before = store.references(guest, Timestamp::now())?.key_refs;
    let definition = host.definition(guest).map(|(domain, _)| domain);
    let mut unlocker = Unlocker::new(&host.keyring());
    let chosen = choose(&mut store, &mut unlocker, definition.as_ref(), id)?;
    let used = chosen.used;
    let was_in_use = before.iter().any(|row| row.id == used.key_ref);
    let changed = !was_in_use || !used.retired.is_empty();
    // Its key is in use all the same.
    let others = used.retired.into_iter().filter(|retired| *retired != id);
    Ok(Used {
        id,
        guest: guest_of(&store, used.domain)?,
        key_ref: used.key_ref,
        generation: chosen.generation,
        may_be_passed_over: chosen.may_be_passed_over,
        changed,
        retired: others.collect(),
    })
}

/// The store in which this key reference is to be found.
fn store_with(host: &Host, id: KeyRefId) -> Result<Store, StoreError> {
    host.store(Access::Write)?.ok_or(StoreError::NoKeyRef(id))
}

fn guest_of(store: &Store, domain: DomainUuid) -> Result<GuestRef, StoreError> {
    Ok(GuestRef::of_uuid(domain, store.last_name(domain)?))
}
