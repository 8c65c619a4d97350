//! What the store says of the keys that travel, read in one go.

use std::collections::BTreeMap;

use crate::domain;
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::Guest;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::travelling::KnownKeys;
use crate::store::{Access, KeyRefRecord, WrittenKeys};
use crate::verdict::facts::NotOpened;

/// The rows of all guests, and the keys that were written into their metadata.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Whether keys are to be in metadata.
    pub(crate) wrapped: bool,
    rows: BTreeMap<DomainUuid, Vec<KeyRefRecord>>,
    written: WrittenKeys,
}

impl Facts {
    pub(crate) fn read(host: &Host, wrapped: bool) -> Result<Self, HostError> {
        let mut facts = Self {
            wrapped,
            ..Self::default()
        };
        let Some(store) = host.store(Access::Read)? else {
            return Ok(facts);
        };
        for row in store.all_key_refs(None, true)? {
            facts.rows.entry(row.domain).or_default().push(row);
        }
        facts.written = store.written_keys()?;
        Ok(facts)
    }

    /// Whether there is nothing to write and nothing to remove, whatever guests there are.
    pub(super) fn concern_nobody(&self) -> bool {
        self.written.is_empty() && (!self.wrapped || self.rows.is_empty())
    }

    /// Whether these, the guest's keys, are to be in its metadata.
    pub(super) fn writes(&self, guest: &Guest, known: &KnownKeys) -> bool {
        // What cannot be read may have an encrypted vTPM.
        let is_encrypted = || {
            let read = domain::read(guest.xml.as_bytes());
            read.map_or(true, |read| read.encrypted_vtpm().is_some())
        };
        self.wrapped && known.travel() && is_encrypted()
    }

    /// The guest's keys.
    pub(crate) fn known(&self, guest: DomainUuid) -> KnownKeys {
        let rows = self.rows.get(&guest).map(Vec::as_slice);
        KnownKeys {
            written: self.written.get(&guest).cloned().unwrap_or_default(),
            ..KnownKeys::of(rows.unwrap_or_default())
        }
    }

    /// Whether a row of this guest has this key, perhaps wrapped by another provider key, or nobody
    /// could have it: its provider key is here, and it does not authenticate. A row of a lower
    /// generation does not have it: the key was chosen again on another host.
    pub(crate) fn hold(
        &self,
        unlocker: &mut Unlocker,
        guest: DomainUuid,
        key: &WrappedDek,
    ) -> bool {
        let rows = self.rows.get(&guest).map(Vec::as_slice).unwrap_or_default();
        let wrapped = rows
            .iter()
            .filter_map(|row| row.key_ref.wrapped_dek.as_ref());
        if wrapped.clone().any(|row| row == key) {
            return true;
        }
        let generation = key.generation().unwrap_or_default();
        let mut not_older =
            wrapped.filter(|row| row.generation().unwrap_or_default() >= generation);
        let mut open = |key| unlocker.open(key, guest, default_deadline());
        match open(key) {
            Ok(dek) => not_older.any(|row| open(row).is_ok_and(|row| row.same_as(&dek))),
            // A key of a newer format is none of that.
            Err(NotOpened::Corrupt { .. }) => key.key_id().is_ok(),
            Err(_) => false,
        }
    }

    pub(super) fn written_guests(&self) -> impl Iterator<Item = DomainUuid> {
        self.written.keys().copied()
    }
}
