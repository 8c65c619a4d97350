//! A model host: a real store, provider keys in memory, and the TPM states that are on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::super::{Exchange, ExchangeError, Exchanged, Guests};
use super::shared::Memory;
use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid};
use crate::key::dek::Dek;
use crate::key::kek::Kek;
use crate::key::new_key::NewKey;
use crate::key::wrap::{Generation, WrappedDek};
use crate::keyring::Keyring;
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::manage::host::default_deadline;
use crate::store::{
    Access, AddKey, KeyChange, KeyRefRecord, NewProvider, OtherKeys, RewrappedRow, Store,
};
use crate::verdict::facts::Provider;

pub(super) struct Host {
    pub(super) dir: TempDir,
    pub(super) store: Store,
    /// The bytes of the provider keys that open here.
    pub(super) keks: Vec<[u8; Kek::LEN]>,
    pub(super) tpms: Tpms,
}

/// The guests that are defined on a host, and the key of each TPM state that is there.
#[derive(Default)]
pub(super) struct Tpms {
    pub(super) defined: BTreeSet<DomainUuid>,
    pub(super) states: BTreeMap<DomainUuid, Vec<u8>>,
    /// libvirt does not say which guests are defined.
    pub(super) are_unknown: bool,
    /// The states cannot be read.
    pub(super) are_unreadable: bool,
}

impl Guests for Tpms {
    fn are_known(&self) -> bool {
        !self.are_unknown
    }

    fn defined(&self) -> Vec<DomainUuid> {
        let all = self.defined.iter().copied();
        all.filter(|_| !self.are_unknown).collect()
    }

    fn is_defined(&self, guest: DomainUuid) -> bool {
        !self.are_unknown && self.defined.contains(&guest)
    }

    fn opens_state(&mut self, guest: DomainUuid, dek: &Dek) -> Option<bool> {
        let is_opened = || self.states.get(&guest).is_some_and(|it| it == dek.expose());
        (!self.are_unreadable).then(|| self.is_defined(guest) && is_opened())
    }
}

pub(super) fn kek(bytes: &[u8; Kek::LEN]) -> Kek {
    Kek::from_slice(bytes).unwrap()
}

/// A provider of this key, to be created.
pub(super) fn new_provider(name: &str, bytes: &[u8; Kek::LEN]) -> NewProvider {
    NewProvider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id: kek(bytes).key_id(),
        key_version: 1,
        is_default: false,
        exported_at: None,
    }
}

pub(super) fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(bytes.to_vec().into())
}

pub(super) fn guest(number: u8) -> DomainUuid {
    DomainUuid::parse(&format!("d0000000-0000-4000-8000-0000000000{number:02x}")).unwrap()
}

/// A guest among more than [`guest`] has numbers for.
pub(super) fn one_of_many(number: usize) -> DomainUuid {
    DomainUuid::parse(&format!("e0000000-0000-4000-8000-{number:012}")).unwrap()
}

impl Host {
    /// A host that has joined, with these provider keys. On tmpfs where there is one: a model opens thousands.
    pub(super) fn new(name: &str, providers: &[(&str, [u8; Kek::LEN])]) -> Self {
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            TempDir::new_in(shm)
        } else {
            TempDir::new()
        };
        let dir = dir.unwrap();
        let deadline = Deadline::after(Duration::from_secs(600));
        let mut host = Self {
            store: Store::open(dir.path(), Access::Create, deadline).unwrap(),
            dir,
            keks: Vec::new(),
            tpms: Tpms::default(),
        };
        for (name, bytes) in providers {
            host.add_provider(name, *bytes);
        }
        host.store.join_fleet(name, Timestamp(1)).unwrap();
        host
    }

    pub(super) fn add_provider(&mut self, name: &str, bytes: [u8; Kek::LEN]) {
        let new = new_provider(name, &bytes);
        self.store.create_provider(&new, &[], Timestamp(1)).unwrap();
        self.keks.push(bytes);
    }

    pub(super) fn unlocker(&self) -> Unlocker {
        let keks = self.keks.iter().map(kek);
        Unlocker::sharing(
            Keyring::at(self.dir.path().join("keys")),
            UnsealedKeks::of(keks),
        )
    }

    pub(super) fn sync(
        &mut self,
        shared: &mut Memory,
        compare: bool,
        now: Timestamp,
    ) -> Result<Exchanged, ExchangeError> {
        let mut unlocker = self.unlocker();
        Exchange::new(&mut self.store, &mut unlocker, &mut self.tpms, shared, now)?.run(compare)
    }

    pub(super) fn rows(&self, guest: DomainUuid) -> Vec<KeyRefRecord> {
        self.store.all_key_refs(Some(guest), true).unwrap()
    }

    /// A copy of its store, as `store backup` makes it.
    pub(super) fn backup(&self) -> PathBuf {
        let file = self.dir.path().join("backup.db");
        self.store.backup(&file, default_deadline()).unwrap();
        file
    }

    /// Puts it back, as `store restore` does.
    pub(super) fn restore(&mut self, backup: &Path) {
        let restored = Store::restore(
            self.dir.path(),
            backup,
            Timestamp::now(),
            default_deadline(),
        );
        restored.unwrap();
    }

    pub(super) fn provider(&self, name: &str) -> Provider {
        self.store.provider(name).unwrap()
    }

    /// Gives a guest a key of these bytes under this provider, as `key renew` and a first start do.
    pub(super) fn make_key(
        &mut self,
        guest: DomainUuid,
        provider: &str,
        bytes: &[u8],
        now: Timestamp,
    ) {
        let provider = self.provider(provider);
        let of_provider = |it: &&[u8; Kek::LEN]| kek(it).key_id() == provider.key_id;
        let kek = kek(self.keks.iter().find(of_provider).unwrap());
        let generations = self.rows(guest).into_iter();
        let generations = generations.filter_map(|row| row.key_ref.wrapped_dek?.generation().ok());
        let generation = generations.max().map_or(Generation(0), Generation::next);
        let wrapped = WrappedDek::wrap(&kek, &dek(bytes), guest, generation).unwrap();
        let key = NewKey::new(wrapped, provider.key_id, provider.key_version);
        let in_use = self.rows(guest).into_iter();
        let in_use = in_use.filter(|row| row.retired_at.is_none());
        let in_use: Vec<_> = in_use.map(|row| row.key_ref.id).collect();
        self.store
            .add_key(&AddKey {
                domain: guest,
                provider: provider.uuid,
                key: &key,
                secret_uuid: None,
                first_used_at: Some(now),
                others: OtherKeys::Retire(&in_use),
                now,
            })
            .unwrap();
    }

    /// Gives a provider another key, which is here already, as `provider rotate` does.
    pub(super) fn rotate(&mut self, name: &str, bytes: [u8; Kek::LEN], now: Timestamp) {
        let provider = self.provider(name);
        let new = kek(&bytes);
        let mut unlocker = self.unlocker();
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut rewrapped = Vec::new();
        for row in self.store.key_refs_under(provider.key_id).unwrap() {
            let seen = row.key_ref.wrapped_dek.unwrap();
            let Ok(dek) = unlocker.open(&seen, row.domain, deadline) else {
                continue;
            };
            let generation = seen.generation().unwrap();
            let wrapped = WrappedDek::wrap(&new, &dek, row.domain, generation).unwrap();
            rewrapped.push(RewrappedRow {
                key_ref: row.key_ref.id,
                seen,
                key: NewKey::new(wrapped, new.key_id(), provider.key_version + 1),
            });
        }
        let change = KeyChange {
            provider: &provider,
            key_id: new.key_id(),
            key_version: provider.key_version + 1,
            slots: &[],
            rewrapped: &[],
            now,
        };
        self.store.change_key(&change).unwrap();
        let rotated = self.provider(name);
        self.store.rewrap(&rotated, &rewrapped, now).unwrap();
        if !self.keks.contains(&bytes) {
            self.keks.push(bytes);
        }
    }

    /// The rows of a guest that are candidates and have this DEK.
    pub(super) fn candidates(&self, guest: DomainUuid, bytes: &[u8]) -> Vec<KeyRefId> {
        self.with_dek(guest, bytes)
            .into_iter()
            .filter(|row| row.retired_at.is_none())
            .map(|row| row.key_ref.id)
            .collect()
    }

    /// The rows of a guest that have this DEK.
    pub(super) fn with_dek(&self, guest: DomainUuid, bytes: &[u8]) -> Vec<KeyRefRecord> {
        let mut unlocker = self.unlocker();
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut rows = self.rows(guest);
        rows.retain(|row| {
            let wrapped = row.key_ref.wrapped_dek.as_ref();
            wrapped.is_some_and(|wrapped| {
                let opened = unlocker.open(wrapped, guest, deadline);
                opened.is_ok_and(|it| it.same_as(&dek(bytes)))
            })
        });
        rows
    }
}
