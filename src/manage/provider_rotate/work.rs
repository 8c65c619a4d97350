//! The work of a rotation: a new key for the provider, and rows that follow, some at a time.

use std::collections::BTreeSet;

use super::missed::{MissedRows, is_missed, is_previous, missed_rows};
use super::rows::{LeftRow, RotatedRow, RowResult};
use super::{RotateStep, UnusableKey};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ids::KeyRefId;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::unlock::Unlocker;
use crate::keyring::{Keyring, StoredKek, WeakerSeal};
use crate::kms::KeyManagers;
use crate::manage::host::{HostError, default_deadline};
use crate::manage::slots::{SlotError, place, same_slots};
use crate::store::{KeyChange, KeyRefRecord, RewrappedRow, Store, StoreError};
use crate::verdict::facts::{NotOpened, Provider, provider_of, provider_of_key};

/// How many rows are changed in one transaction, during which a start waits.
const ROWS_AT_ONCE: usize = 100;

/// How often rows are looked at again because somebody changed one of them in the meantime.
const ATTEMPTS: u32 = 8;

/// What the rows are re-wrapped with.
pub(super) struct Work<'a> {
    pub(super) unlocker: Unlocker,
    pub(super) store: &'a mut Store,
    pub(super) progress: &'a mut dyn FnMut(RotateStep),
    pub(super) config: &'a Config,
    pub(super) managers: KeyManagers,
    pub(super) reached: Reached,
}

/// How far a rotation has come: what stays done if it ends here.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// The provider has this new key.
    pub(super) new_key: Option<KeyId>,
    /// So many key references are done.
    pub(super) done: usize,
    /// Of so many.
    pub(super) of: usize,
}

/// What was done.
pub(super) struct Worked {
    /// How the provider's new key is sealed; `None` if it keeps the one that it has.
    pub(super) stored: Option<StoredKek>,
    pub(super) rows: Vec<RotatedRow>,
    pub(super) unusable: Vec<UnusableKey>,
}

impl Work<'_> {
    /// Completes an earlier rotation; where there is nothing to complete and `weaker` says how a new key may be
    /// sealed, the provider gets one. After an error `reached` says what stays done.
    pub(super) fn run(
        &mut self,
        keyring: &Keyring,
        provider: &Provider,
        weaker: Option<WeakerSeal>,
    ) -> Result<Worked, SlotError> {
        let (missed, unusable) = self.complete(provider)?;
        let (stored, mut rows) = match weaker {
            Some(weaker) if missed.is_empty() => {
                let (stored, rows) = self.rotate(keyring, provider, weaker)?;
                (Some(stored), rows)
            }
            _ => (None, missed),
        };
        let others = self.others(provider, &rows)?;
        rows.extend(others);
        Ok(Worked {
            stored,
            rows,
            unusable,
        })
    }

    /// Re-wraps with the provider's present key what an earlier rotation missed. No rows: there was nothing to complete.
    fn complete(
        &mut self,
        provider: &Provider,
    ) -> Result<(Vec<RotatedRow>, Vec<UnusableKey>), HostError> {
        let (mut rows, mut unusable) = (Vec::new(), Vec::new());
        for MissedRows {
            holder,
            rows: missed,
        } in missed_rows(self.store, provider)?
        {
            if let Err(error) = self.unlocker.kek(holder.key_id, default_deadline()) {
                unusable.push(UnusableKey {
                    is_previous: is_previous(&holder, provider),
                    name: holder.name,
                    key_id: holder.key_id,
                    key_refs: missed.len(),
                    error,
                });
                continue;
            }
            self.unlocker.kek(provider.key_id, default_deadline())?;
            let is_meant = |row: &KeyRefRecord| is_missed(row, &holder, provider);
            rows.extend(self.follow(&holder, provider, is_meant, |_| true)?);
        }
        if !rows.iter().any(RotatedRow::is_rewrapped) {
            return Ok((Vec::new(), unusable));
        }
        Ok((rows, unusable))
    }

    /// The provider's other key references, to which nothing was done: whoever reads the answer must not take one that
    /// still needs a previous key, or one that nobody has, for re-wrapped.
    fn others(
        &mut self,
        provider: &Provider,
        done: &[RotatedRow],
    ) -> Result<Vec<RotatedRow>, HostError> {
        self.store.set_deadline(default_deadline())?;
        let done: BTreeSet<_> = done.iter().map(|row| row.id).collect();
        let provider = self.store.provider_by_uuid(provider.uuid)?;
        let providers = self.store.providers()?;
        let mut others = Vec::new();
        for record in self.store.all_key_refs(None, true)? {
            if done.contains(&record.key_ref.id) {
                continue;
            }
            if let Some(result) = self.left(&record, &provider, &providers) {
                others.push(RotatedRow::new(self.store, &record, result)?);
            }
        }
        Ok(others)
    }

    /// What became of a row to which nothing was done; `None` if it is not the provider's, or has no key.
    fn left(
        &mut self,
        record: &KeyRefRecord,
        provider: &Provider,
        providers: &[Provider],
    ) -> Option<RowResult> {
        let row = &record.key_ref;
        let wrapped = row.wrapped_dek.as_ref()?;
        let key_id = row.key_id();
        let Some(holder) = provider_of_key(row, providers) else {
            // No provider has its key. Whose it is only the row itself says.
            let key_id = key_id?;
            let named = provider_of(row, providers)?;
            let is_ours = named.uuid == provider.uuid || is_previous(named, provider);
            let why = LeftRow::NotOpened(NotOpened::NoProvider { key_id });
            return is_ours.then_some(RowResult::Left(why));
        };
        if key_id == Some(provider.key_id) {
            let is_ours = holder.uuid == provider.uuid;
            let result = if is_ours {
                RowResult::Already
            } else {
                RowResult::Left(LeftRow::NotOurs)
            };
            return Some(result);
        }
        if holder.uuid != provider.uuid && !is_missed(record, holder, provider) {
            let names_it = row.provider_uuid == Some(provider.uuid);
            return names_it.then_some(RowResult::Left(LeftRow::Announced(holder.key_id)));
        }
        let opened = self
            .unlocker
            .open(wrapped, record.domain, default_deadline());
        let why = opened.map_or_else(LeftRow::NotOpened, |_| LeftRow::Changed);
        Some(RowResult::Left(why))
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
        let before = self.store.providers()?;
        let has_twin = before
            .iter()
            .any(|other| other.uuid != provider.uuid && other.key_id == provider.key_id);
        let is_ours = |row: &KeyRefRecord| {
            let named = provider_of(&row.key_ref, &before);
            !has_twin || named.is_some_and(|named| named.uuid == provider.uuid)
        };
        // A row that does not follow at once would be the twin's: no previous key is kept beside that.
        let (mut rows, rewrapped) = if has_twin {
            let records = self.store.key_refs_under(provider.key_id)?;
            self.rewrap(&records, &rotated, is_ours, (0, records.len()))?
        } else {
            (Vec::new(), Vec::new())
        };
        self.store.set_deadline(default_deadline())?;
        self.store.change_key(&KeyChange {
            provider,
            key_id: rotated.key_id,
            key_version: rotated.key_version,
            slots: &slots,
            rewrapped: &rewrapped,
            now: Timestamp::now(),
        })?;
        self.reached = Reached {
            new_key: Some(rotated.key_id),
            done: rows.len(),
            of: rows.len(),
        };
        if !has_twin {
            rows = self.follow(provider, &rotated, |_| true, is_ours)?;
        }
        Ok((stored, rows))
    }

    /// Re-wraps the rows under the key of `before` with that of `provider`: those that are meant, as far as they are
    /// its own and open. `Changed` if others keep changing them; what is done by then stays.
    fn follow(
        &mut self,
        before: &Provider,
        provider: &Provider,
        is_meant: impl Fn(&KeyRefRecord) -> bool,
        is_ours: impl Fn(&KeyRefRecord) -> bool,
    ) -> Result<Vec<RotatedRow>, HostError> {
        let mut done: Vec<RotatedRow> = Vec::new();
        let mut known: BTreeSet<KeyRefId> = BTreeSet::new();
        let before_it = self.reached.done;
        for _ in 0..ATTEMPTS {
            self.store.set_deadline(default_deadline())?;
            let mut records = self.store.key_refs_under(before.key_id)?;
            records.retain(|row| is_meant(row) && !known.contains(&row.key_ref.id));
            if records.is_empty() {
                return Ok(done);
            }
            let of = done.len() + records.len();
            self.reached.of = before_it + of;
            for records in records.chunks(ROWS_AT_ONCE) {
                let (rows, rewrapped) =
                    self.rewrap(records, provider, &is_ours, (done.len(), of))?;
                self.store.set_deadline(default_deadline())?;
                match self.store.rewrap(provider, &rewrapped, Timestamp::now()) {
                    // They are looked at again.
                    Err(StoreError::Changed) => continue,
                    written => written?,
                }
                Store::let_others_in();
                known.extend(rows.iter().map(|row| row.id));
                done.extend(rows);
                self.reached.done = before_it + done.len();
            }
        }
        Err(StoreError::Changed.into())
    }

    /// Wraps what opens with the key of this provider; nothing is written yet.
    fn rewrap(
        &mut self,
        records: &[KeyRefRecord],
        provider: &Provider,
        is_ours: impl Fn(&KeyRefRecord) -> bool,
        (first, of): (usize, usize),
    ) -> Result<(Vec<RotatedRow>, Vec<RewrappedRow>), HostError> {
        let (mut rows, mut rewrapped) = (Vec::new(), Vec::new());
        for (index, record) in (first..).zip(records) {
            let guest = record.domain;
            (self.progress)(RotateStep { index, of, guest });
            let result = if is_ours(record) {
                match self.rewrap_one(record, provider) {
                    Ok(row) => {
                        rewrapped.push(row);
                        RowResult::Rewrapped
                    }
                    Err(why) => RowResult::Left(why),
                }
            } else {
                RowResult::Left(LeftRow::NotOurs)
            };
            rows.push(RotatedRow::new(self.store, record, result)?);
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
