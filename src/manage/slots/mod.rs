//! `provider slot ...`: the ways to a provider's key. The sealed key of this host and the recovery file are shown
//! as slots; the others are rows of the store, each a key that a key manager has wrapped.

mod add;
mod error;
mod list;
mod remove;
mod spec;
mod verify;

pub(crate) use add::{AddedSlot, add};
pub(crate) use error::SlotError;
pub(crate) use list::{ListedSlot, ListedSlots, list, slots_of};
pub(crate) use remove::{RemovedSlot, remove};
pub(crate) use spec::{BadSpec, SlotSpec};
pub(in crate::manage) use verify::{TRIED_EVERY, try_old};
pub(crate) use verify::{VerifiedSlots, verify};

use crate::clock::Timestamp;
use crate::config::KekCache;
use crate::ids::SlotUuid;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::KekPlace;
use crate::kms::{KeyManagers, KmsError, WrappedKek};
use crate::store::{Slot, Store};

/// Makes a slot of a KEK: the key manager wraps it, and has unwrapped it once. It is not stored yet.
pub(in crate::manage) fn make(
    managers: &mut KeyManagers,
    spec: &SlotSpec,
    label: Option<String>,
    kek: &Kek,
) -> Result<Slot, KmsError> {
    let kind = managers.kind(&spec.kms)?.to_owned();
    let wrapped = managers.wrap(&spec.kms, &spec.remote_key, kek)?;
    let now = Timestamp::now();
    Ok(Slot {
        uuid: SlotUuid::random(),
        key_id: kek.key_id(),
        kind,
        label,
        kms: spec.kms.clone(),
        remote_key: spec.remote_key.clone(),
        remote_version: wrapped.remote_version,
        blob: wrapped.blob,
        verified_at: Some(now),
        created_at: now,
    })
}

/// Where this host keeps a KEK with these slots: only one that a key manager opens can be brought back after a
/// reboot.
pub(in crate::manage) fn place(cache: KekCache, slots: &[Slot]) -> KekPlace {
    match cache {
        KekCache::Boot if !slots.is_empty() => KekPlace::Tmpfs,
        KekCache::Sealed | KekCache::Boot => KekPlace::Disk,
    }
}

/// Lets the key managers that open the present key wrap the new one. If one of them does not, that is an error: the
/// provider would be left with fewer ways to its key.
pub(in crate::manage) fn same_slots(
    store: &Store,
    managers: &mut KeyManagers,
    present: KeyId,
    new: &Kek,
) -> Result<Vec<Slot>, SlotError> {
    let slots = store.slots()?.into_iter();
    let slots = slots.filter(|slot| slot.key_id == present);
    let same = slots.map(|slot| {
        // A row that somebody has put into the store must not choose who gets the next key.
        open(managers, &slot)?;
        let spec: SlotSpec = format!("{}:{}", slot.kms, slot.remote_key).parse()?;
        make(managers, &spec, slot.label, new).map_err(SlotError::from)
    });
    same.collect()
}

/// Opens a KEK through a slot.
pub(in crate::manage) fn open(managers: &mut KeyManagers, slot: &Slot) -> Result<Kek, KmsError> {
    let wrapped = WrappedKek {
        blob: slot.blob.clone(),
        remote_version: slot.remote_version.clone(),
    };
    managers.unwrap(&slot.kms, &slot.remote_key, &wrapped, slot.key_id)
}
