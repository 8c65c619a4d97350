//! `provider rotate`: a new key for a provider; every guest's key is re-wrapped with it.
//!
//! The store changes in one transaction: a kill leaves it as before, at most with one more
//! sealed key beside it that wraps nothing, and the command is run again. What an earlier rotation
//! missed (a key reference that another tool brought back) is re-wrapped first.

mod rows;

pub(crate) use self::rows::{LeftRow, RotatedRow, RowResult};

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::fleet::rotation::{self, HostResult, Patience, RotateError};
use super::host::{Host, HostError, default_deadline};
use super::provider_list::SealState;
use super::providers::{ProviderRef, ProvidersLock, refuse_previous_key};
use super::slots::{SlotError, place, same_slots};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::unlock::Unlocker;
use crate::keyring::{Keyring, KeyringError, StoredKek, WeakerSeal};
use crate::kms::KeyManagers;
use crate::store::{Access, KeyRefRecord, RewrappedRow, Rotation, Slot, Store, StoreError};
use crate::verdict::facts::{Provider, provider_of};

/// How often the rows are re-wrapped because somebody changed one of them in the meantime.
const ATTEMPTS: u32 = 8;

/// What `provider rotate` did.
#[derive(Debug, Serialize)]
pub(crate) struct RotatedProvider {
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    /// Whether it has a new key; else an earlier rotation was completed.
    pub(crate) rotated: bool,
    pub(crate) key_id: KeyId,
    pub(crate) key_version: i64,
    /// The key that it had, unless only an earlier rotation was completed.
    pub(crate) previous_key_id: Option<KeyId>,
    /// The previous keys that are kept on this host.
    #[serde(rename = "former_keys")]
    pub(crate) previous_keys: Vec<PreviousKey>,
    pub(crate) rewrapped: usize,
    pub(crate) not_opened: usize,
    pub(crate) key_refs: Vec<RotatedRow>,
    /// The other hosts of the fleet, and whether they have the new key.
    pub(crate) hosts: Vec<HostResult>,
    /// Why the fleet was not told.
    #[serde(skip)]
    pub(crate) not_told: Option<String>,
    /// Whether its key is in a recovery file.
    #[serde(skip)]
    pub(crate) is_exported: bool,
    #[serde(skip)]
    pub(crate) seal: SealState,
    /// How its new key was sealed, and why not more strongly.
    #[serde(skip)]
    pub(crate) stored: Option<StoredKek>,
    /// Previous keys that key references still need, and that do not open.
    #[serde(skip)]
    pub(crate) unusable: Vec<UnusableKey>,
}

/// A previous key that is kept.
#[derive(Debug, Serialize)]
pub(crate) struct PreviousKey {
    #[serde(rename = "name", serialize_with = "name")]
    pub(crate) provider: ProviderRef,
    pub(crate) key_id: KeyId,
    #[serde(skip)]
    pub(crate) is_exported: bool,
}

/// A previous key that does not open.
#[derive(Debug)]
pub(crate) struct UnusableKey {
    pub(crate) name: String,
    /// How many key references it wraps.
    pub(crate) key_refs: usize,
    pub(crate) error: Arc<KeyringError>,
}

/// One step of the work: this key reference of so many is re-wrapped next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotateStep {
    /// From 0.
    pub(crate) index: usize,
    pub(crate) of: usize,
    pub(crate) guest: DomainUuid,
}

/// As [`rotate`]; in a fleet only when the other hosts have opened the new key.
pub(crate) fn rotate_everywhere(
    host: &Host,
    text: &str,
    weaker: WeakerSeal,
    patience: Patience<'_>,
    waits: &mut dyn FnMut(&[HostResult]),
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, RotateError> {
    if !rotation::is_in_fleet(host).map_err(RotateError::Fleet)? {
        return Ok(rotate(host, text, weaker, progress)?);
    }
    // What an earlier rotation left comes first, before there is a key more.
    let completed = rotate_rows(host, text, progress)?;
    if completed.rewrapped > 0 {
        return Ok(completed);
    }
    let (_, before) = host.provider(text, Access::Read)?;
    let hosts = rotation::change_key(host, text, weaker, patience, waits)?;
    // The name stays whatever the provider was called.
    let mut rotated = rotate_rows(host, &before.uuid.to_string(), progress)?;
    rotated.rotated = true;
    rotated.previous_key_id = Some(before.key_id);
    rotated.hosts = hosts;
    let told = rotation::tell(host);
    rotated.not_told = told.err().map(|error| error.to_string());
    Ok(rotated)
}

/// Gives the provider that `text` names a new key; or, where an earlier rotation missed key
/// references that open, re-wraps those with its present one.
pub(crate) fn rotate(
    host: &Host,
    text: &str,
    weaker: WeakerSeal,
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, SlotError> {
    run(host, text, Some(weaker), progress)
}

/// Re-wraps what previous keys of the provider wrap with its present one.
fn rotate_rows(
    host: &Host,
    text: &str,
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, SlotError> {
    run(host, text, None, progress)
}

/// Completes an earlier rotation; where there is nothing to complete and `weaker` says how a new key may be sealed,
/// the provider gets one.
fn run(
    host: &Host,
    text: &str,
    weaker: Option<WeakerSeal>,
    progress: &mut dyn FnMut(RotateStep),
) -> Result<RotatedProvider, SlotError> {
    let config = host.config()?;
    let (mut store, found) = host.provider(text, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let before = store.provider_by_uuid(found.uuid)?;
    refuse_previous_key(&store, &before)?;
    let keyring = host.keyring();
    let mut work = Work {
        unlocker: Unlocker::new(&keyring),
        store: &mut store,
        progress,
        config: &config,
        managers: host.key_managers(&config),
    };
    let (missed, unusable) = work.complete(&before)?;
    let (rotated, stored, rows) = match weaker {
        Some(weaker) if missed.is_empty() => {
            let (stored, rows) = work.rotate(&keyring, &before, weaker)?;
            (true, Some(stored), rows)
        }
        _ => (false, None, missed),
    };
    let after = store.provider_by_uuid(before.uuid)?;
    let previous_keys = store.previous_keys(&after)?;
    let count = |result| {
        rows.iter()
            .filter(|row| row.result.word() == result)
            .count()
    };
    Ok(RotatedProvider {
        provider: (&after).into(),
        rotated,
        key_id: after.key_id,
        key_version: after.key_version,
        previous_key_id: rotated.then_some(before.key_id),
        previous_keys: previous_keys.iter().map(PreviousKey::new).collect(),
        rewrapped: count("rewrapped"),
        not_opened: count("not-opened"),
        key_refs: rows,
        hosts: Vec::new(),
        not_told: None,
        is_exported: after.exported_at.is_some(),
        seal: SealState::of(&keyring, after.key_id),
        stored,
        unusable,
    })
}

/// What the rows are re-wrapped with.
struct Work<'a> {
    unlocker: Unlocker,
    store: &'a mut Store,
    progress: &'a mut dyn FnMut(RotateStep),
    config: &'a Config,
    managers: KeyManagers,
}

impl Work<'_> {
    /// Re-wraps with the provider's present key what still opens under a previous one. No rows:
    /// there was nothing to complete.
    fn complete(
        &mut self,
        provider: &Provider,
    ) -> Result<(Vec<RotatedRow>, Vec<UnusableKey>), HostError> {
        let (mut rows, mut unusable) = (Vec::new(), Vec::new());
        for previous in self.store.previous_keys(provider)? {
            let records = self.store.key_refs_under(previous.key_id)?;
            if records.is_empty() {
                continue;
            }
            if let Err(error) = self.unlocker.kek(previous.key_id, default_deadline()) {
                unusable.push(UnusableKey {
                    name: previous.name,
                    key_refs: records.len(),
                    error,
                });
                continue;
            }
            self.unlocker.kek(provider.key_id, default_deadline())?;
            let (done, rewrapped) = self.rewrap(records, provider, |_| true)?;
            self.store.set_deadline(default_deadline())?;
            self.store.rewrap(provider, &rewrapped, Timestamp::now())?;
            rows.extend(done);
        }
        if !rows.iter().any(RotatedRow::is_rewrapped) {
            return Ok((Vec::new(), unusable));
        }
        let seen: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
        for record in self.store.key_refs_under(provider.key_id)? {
            if !seen.contains(&record.key_ref.id) {
                rows.push(RotatedRow::new(self.store, &record, RowResult::Already)?);
            }
        }
        Ok((rows, unusable))
    }

    /// Gives the provider a new key, and re-wraps all that its present one wraps.
    fn rotate(
        &mut self,
        keyring: &Keyring,
        provider: &Provider,
        weaker: WeakerSeal,
    ) -> Result<(StoredKek, Vec<RotatedRow>), SlotError> {
        self.unlocker.kek(provider.key_id, default_deadline())?;
        let new = Kek::generate()?;
        let slots = same_slots(self.store, &mut self.managers, provider.key_id, &new)?;
        // The key before the rows that need it: a kill in between leaves a key that nobody needs.
        let place = place(self.config.kek_cache, &slots);
        let stored = keyring.store_only_in(place, &new, weaker, default_deadline())?;
        // What was sealed must open, before anything is wrapped with it.
        if let Err(error) = self.unlocker.kek(new.key_id(), default_deadline()) {
            // The first error is the one to report; nothing was ever wrapped with this key.
            let _ = keyring.remove(new.key_id());
            return Err(error.into());
        }
        // From here on it stays, whatever fails: a commit that ended in an I/O error may be found
        // done after a crash, and then every guest needs it.
        let rotated = Provider {
            key_id: new.key_id(),
            key_version: provider.key_version + 1,
            ..provider.clone()
        };
        Ok((stored, self.carry_out(provider, &rotated, &slots)?))
    }

    fn carry_out(
        &mut self,
        provider: &Provider,
        rotated: &Provider,
        slots: &[Slot],
    ) -> Result<Vec<RotatedRow>, HostError> {
        for _ in 0..ATTEMPTS {
            self.store.set_deadline(default_deadline())?;
            let providers = self.store.providers()?;
            let has_twin = providers
                .iter()
                .any(|other| other.uuid != provider.uuid && other.key_id == provider.key_id);
            let is_ours = |row: &KeyRefRecord| {
                let named = provider_of(&row.key_ref, &providers);
                !has_twin || named.is_some_and(|named| named.uuid == provider.uuid)
            };
            let records = self.store.key_refs_under(provider.key_id)?;
            let (rows, rewrapped) = self.rewrap(records, rotated, is_ours)?;
            let given_up = rows.iter().filter(|row| !row.is_rewrapped());
            let given_up: Vec<_> = given_up.map(|row| row.id).collect();
            self.store.set_deadline(default_deadline())?;
            let written = self.store.rotate_provider(&Rotation {
                provider,
                key_id: rotated.key_id,
                key_version: rotated.key_version,
                rewrapped: &rewrapped,
                given_up: &given_up,
                slots,
                now: Timestamp::now(),
            });
            match written {
                Err(StoreError::Changed) => {}
                written => return Ok(written.map(|()| rows)?),
            }
        }
        Err(StoreError::Changed.into())
    }

    /// Wraps what opens with the key of this provider; nothing is written yet.
    fn rewrap(
        &mut self,
        records: Vec<KeyRefRecord>,
        provider: &Provider,
        is_ours: impl Fn(&KeyRefRecord) -> bool,
    ) -> Result<(Vec<RotatedRow>, Vec<RewrappedRow>), HostError> {
        let (mut rows, mut rewrapped) = (Vec::new(), Vec::new());
        let of = records.len();
        for (index, record) in records.into_iter().enumerate() {
            let guest = record.domain;
            (self.progress)(RotateStep { index, of, guest });
            let result = if is_ours(&record) {
                match self.rewrap_one(&record, provider) {
                    Ok(row) => {
                        rewrapped.push(row);
                        RowResult::Rewrapped
                    }
                    Err(why) => RowResult::Left(why),
                }
            } else {
                RowResult::Left(LeftRow::NotOurs)
            };
            rows.push(RotatedRow::new(self.store, &record, result)?);
        }
        Ok((rows, rewrapped))
    }

    fn rewrap_one(
        &mut self,
        record: &KeyRefRecord,
        provider: &Provider,
    ) -> Result<RewrappedRow, LeftRow> {
        let deadline = default_deadline();
        let seen = record.key_ref.wrapped_dek.clone();
        let seen = seen.ok_or(LeftRow::Placeholder)?;
        let opened = self.unlocker.open(&seen, record.domain, deadline);
        let dek = opened.map_err(LeftRow::NotOpened)?;
        let generation = record.key_ref.generation();
        let key = self
            .unlocker
            .wrap(&dek, provider, record.domain, generation, deadline)?;
        Ok(RewrappedRow {
            key_ref: record.key_ref.id,
            seen,
            key,
        })
    }
}

impl PreviousKey {
    fn new(provider: &Provider) -> Self {
        Self {
            provider: provider.into(),
            key_id: provider.key_id,
            is_exported: provider.exported_at.is_some(),
        }
    }
}

fn name<S: Serializer>(provider: &ProviderRef, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&provider.name)
}
