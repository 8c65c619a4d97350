//! `key import`: a guest's key from the backup of another host's store, as it is wrapped.
//!
//! The guest moves, its key moves with it; the provider key comes by `provider import`. It is wrapped
//! once more only where the guest has another UUID by now, or has had keys here that are not older.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::guests::{GuestError, GuestRef, refuse_ambiguous};
use super::host::{Host, HostError, default_deadline};
use crate::clock::Timestamp;
use crate::guard::try_rows;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::{UnwrapError, WrappedDek};
use crate::keyring::unlock::Unlocker;
use crate::store::{Access, AddKey, KeyRefRecord, OtherKeys, Store, StoreError};
use crate::swtpm::StateFile;
use crate::verdict::facts::{Provider, Trial, for_new_keys};

/// What `key import` did.
#[derive(Debug, Serialize)]
pub(crate) struct ImportedKey {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) key_ref: KeyRefId,
    /// The provider's name.
    pub(crate) provider: String,
    /// Whether the key was not here before.
    pub(crate) changed: bool,
    /// Whether the key was here, and is retired.
    #[serde(skip)]
    pub(crate) is_retired: bool,
    /// The provider whose previous key wraps it.
    #[serde(skip)]
    pub(crate) rotated: Option<Provider>,
}

/// Why a key was not imported. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportKeyError {
    /// No guest was found, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
    /// The backup cannot be read. That says nothing about this host's store.
    #[error(transparent)]
    Backup(StoreError),
    /// The backup knows no guest of this name.
    #[error("unknown to the backup")]
    UnknownGuest(String),
    /// The backup has keys of several guests of this name.
    #[error("several guests")]
    SeveralGuests(String, Vec<DomainUuid>),
    /// The backup has no key under the guest's UUID, but one of another guest of its name.
    #[error("a namesake")]
    Namesake {
        guest: GuestRef,
        backup: PathBuf,
        other: DomainUuid,
    },
    /// The backup has no key of the guest.
    #[error("no key")]
    NoKey(GuestRef, PathBuf),
    /// It has so many keys in use.
    #[error("several keys")]
    SeveralKeys(GuestRef, PathBuf, usize),
    /// The provider of this name, with this key, is not on this host.
    #[error("no provider")]
    NoProvider(GuestRef, String, Option<KeyId>),
    /// The guest has another key in use here, in this row, which is not damaged.
    #[error("another key in use")]
    OtherKeyInUse(GuestRef, KeyRefId),
    /// The wrapped key does not authenticate, or is not wrapped in a format that is known.
    #[error("{1}")]
    NotUnwrapped(GuestRef, UnwrapError),
}

impl<E: Into<GuestError>> From<E> for ImportKeyError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

/// Imports the key of the guest that `text` names from this backup, in which `old` may name it.
pub(crate) fn import(
    host: &Host,
    text: &str,
    backup: &Path,
    old: Option<&str>,
) -> Result<ImportedKey, ImportKeyError> {
    let copy = Store::open_copy(backup, default_deadline()).map_err(ImportKeyError::Backup)?;
    let guest = find(host, &copy, text)?;
    let old = match old {
        Some(old) => find_in(&copy, old)?,
        None => same_guest(&copy, &guest, backup)?,
    };
    let (record, wrapped) = key_in_use(&copy, &old, backup)?;
    let no_provider = |key_id| {
        let name = record.key_ref.provider_name.clone();
        ImportKeyError::NoProvider(old.clone(), name, key_id)
    };
    let store = host.store(Access::Write)?;
    let mut store = store.ok_or_else(|| no_provider(None))?;
    let providers = store.providers()?;
    let known = store.all_key_refs(Some(guest.uuid), true)?;
    let is_same = |row: &&KeyRefRecord| row.key_ref.wrapped_dek.as_ref() == Some(&wrapped);
    if let Some(row) = known.iter().find(is_same) {
        return Ok(already_here(guest, row));
    }
    let damaged = |why| ImportKeyError::NotUnwrapped(old.clone(), why);
    let key_id = wrapped.key_id().map_err(damaged)?;
    let provider = providers.iter().find(|provider| provider.key_id == key_id);
    let provider = provider.ok_or_else(|| no_provider(Some(key_id)))?;
    let mut unlocker = Unlocker::new(&host.keyring());
    let kek = unlocker.kek(key_id, default_deadline())?;
    let dek = wrapped.unwrap(&kek, old.uuid);
    let dek = dek.map_err(damaged)?;
    let dek = dek.ok_or_else(|| no_provider(Some(key_id)))?;
    // One that was retired here comes back as it is wrapped there; that of another UUID never was it.
    let counts = |row: &&KeyRefRecord| row.retired_at.is_none() || old.uuid != guest.uuid;
    let held = row_with(&mut unlocker, &known, &providers, guest.uuid, &dek);
    if let Some(row) = held.filter(counts) {
        return Ok(already_here(guest, row));
    }
    let its = record.key_ref.generation();
    let references = store.references(guest.uuid, Timestamp::now())?;
    let definition = host.definition(guest.uuid).map(|(domain, _)| domain);
    let (domain, deadline) = (definition.as_ref(), default_deadline());
    let generation = unlocker.generation_of_chosen(&dek, its, &references, domain, deadline);
    let key = if (old.uuid, its) == (guest.uuid, generation) {
        NewKey::new(wrapped, provider.key_id, provider.key_version)
    } else {
        unlocker.wrap(&dek, provider, guest.uuid, generation, default_deadline())?
    };
    let damaged = all_damaged(host, &store, guest.uuid)?;
    let added = store.add_key(&AddKey {
        domain: guest.uuid,
        provider: provider.uuid,
        key: &key,
        secret_uuid: record.key_ref.secret_uuid,
        first_used_at: record.key_ref.first_used_at,
        others: OtherKeys::Retire(&damaged),
        now: Timestamp::now(),
    });
    let key_ref = match added {
        Err(StoreError::HasKey { key_ref, .. }) => {
            return Err(ImportKeyError::OtherKeyInUse(guest, key_ref));
        }
        added => added?,
    };
    let present = for_new_keys(provider, &providers);
    Ok(ImportedKey {
        guest,
        key_ref,
        provider: provider.name.clone(),
        changed: true,
        is_retired: false,
        rotated: (present.uuid != provider.uuid).then(|| present.clone()),
    })
}

/// The guest has this very key.
fn already_here(guest: GuestRef, row: &KeyRefRecord) -> ImportedKey {
    ImportedKey {
        guest,
        key_ref: row.key_ref.id,
        provider: row.key_ref.provider_name.clone(),
        changed: false,
        is_retired: row.retired_at.is_some(),
        rotated: None,
    }
}

/// The row of these that holds this DEK.
fn row_with<'a>(
    unlocker: &mut Unlocker,
    rows: &'a [KeyRefRecord],
    providers: &[Provider],
    guest: DomainUuid,
    dek: &Dek,
) -> Option<&'a KeyRefRecord> {
    let own = rows.iter().map(|row| row.key_ref.clone());
    let opened = unlocker.open_rows(own, providers, guest, default_deadline());
    let same = opened.iter().find(|key| key.dek.same_as(dek))?.key_ref.id;
    rows.iter().find(|row| row.key_ref.id == same)
}

/// The keys that the guest has in use here, if all are damaged (VG206): the one from the backup takes their place.
fn all_damaged(host: &Host, store: &Store, guest: DomainUuid) -> Result<Vec<KeyRefId>, HostError> {
    let references = store.references(guest, Timestamp::now())?;
    let (keyring, deadline) = (host.keyring(), default_deadline());
    let trials = try_rows(&keyring, &references, guest, &StateFile::Absent, deadline);
    if trials.values().all(Trial::is_damaged) {
        return Ok(trials.into_keys().collect());
    }
    Ok(Vec::new())
}

/// The guest as this host knows it; it need not know it yet, and the copy knows its name.
fn find(host: &Host, copy: &Store, text: &str) -> Result<GuestRef, ImportKeyError> {
    let asked = host.libvirt().guests_called(text, default_deadline());
    if let Ok(guests) = &asked
        && let Some(guest) = host.pick(text, guests)?
    {
        return Ok(guest.into());
    }
    find_in(copy, text).map_err(|error| match (error, asked) {
        // libvirt might have known it.
        (ImportKeyError::UnknownGuest(_), Err(silent)) => GuestError::NeedsUuid(silent).into(),
        (error, _) => error,
    })
}

/// The guest as the copy knows it.
fn find_in(copy: &Store, text: &str) -> Result<GuestRef, ImportKeyError> {
    refuse_ambiguous(copy, text)?;
    if let Ok(uuid) = DomainUuid::parse(text) {
        return Ok(GuestRef::of_uuid(uuid, None));
    }
    let users = copy.users_of_name(text)?;
    let uuid = match users[..] {
        [] => copy.domain_uuid_by_name(text)?,
        [uuid] => Some(uuid),
        _ => return Err(ImportKeyError::SeveralGuests(text.to_owned(), users)),
    };
    let uuid = uuid.ok_or_else(|| ImportKeyError::UnknownGuest(text.to_owned()))?;
    // On this host that name may be another guest's.
    Ok(GuestRef::of_uuid(uuid, Some(text.to_owned())))
}

/// The guest in the copy: by its UUID. A key of another guest of its name is taken only when
/// that guest is named.
fn same_guest(copy: &Store, guest: &GuestRef, backup: &Path) -> Result<GuestRef, ImportKeyError> {
    let has_key = |row: &KeyRefRecord| row.key_ref.wrapped_dek.is_some();
    let rows = copy.all_key_refs(Some(guest.uuid), false)?;
    let namesakes = match &guest.name {
        Some(name) if !rows.iter().any(has_key) => copy.users_of_name(name)?,
        _ => Vec::new(),
    };
    match namesakes.first() {
        None => Ok(GuestRef::of_uuid(guest.uuid, guest.name.clone())),
        Some(other) => Err(ImportKeyError::Namesake {
            guest: guest.clone(),
            backup: backup.to_owned(),
            other: *other,
        }),
    }
}

/// The one key of the guest that is in use in the copy.
fn key_in_use(
    copy: &Store,
    guest: &GuestRef,
    backup: &Path,
) -> Result<(KeyRefRecord, WrappedDek), ImportKeyError> {
    let rows = copy.all_key_refs(Some(guest.uuid), false)?.into_iter();
    let keyed = rows.filter_map(|row| Some((row.key_ref.wrapped_dek.clone()?, row)));
    let mut keyed: Vec<_> = keyed.collect();
    let (guest, backup) = (guest.clone(), backup.to_owned());
    match (keyed.pop(), keyed.len()) {
        (Some((wrapped, row)), 0) => Ok((row, wrapped)),
        (None, _) => Err(ImportKeyError::NoKey(guest, backup)),
        (Some(_), others) => Err(ImportKeyError::SeveralKeys(guest, backup, others + 1)),
    }
}
