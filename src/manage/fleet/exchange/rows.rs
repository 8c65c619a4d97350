//! Which rows of this host follow from what is known of keys.
//!
//! Rows are a union: a key of which a row of the guest has the DEK is that row. A key that opens the TPM state of a
//! guest of this host stays a candidate here, whatever others say: they are told so.

use std::collections::BTreeSet;

use super::{Exchange, ExchangeError, Exchanged};
use crate::fleet::claim::{Claim, KeyClaim};
use crate::fleet::status::{KeyStatus, Stated};
use crate::fleet::{FactId, Kind};
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::manage::host::default_deadline;
use crate::store::{KeyRefRecord, Merge, RewrappedRow, RowChange, StoreError};
use crate::verdict::facts::Provider;

/// How often it is tried again because a row changed in the meantime.
const ATTEMPTS: u32 = 8;

/// Of how many keys the rows are changed in one transaction, during which a start waits.
const KEYS_AT_ONCE: usize = 200;

/// How many key references a guest has at most that came from the fleet: whoever has a KEK can make keys.
const MAX_ROWS: usize = 64;

/// What follows from what is known of a key.
enum Decision {
    /// Its rows are as they should be.
    Nothing,
    /// A row changes.
    Change(Box<RowChange>),
    /// The fleet is told that it is wrong about this key of the guest.
    Objection(WrappedDek),
    /// That is not known yet.
    Later,
}

impl Exchange<'_> {
    /// Changes the rows that follow from what is known of keys. What an exchange leaves that ends before this, the
    /// next one does.
    pub(super) fn settle(&mut self, done: &mut Exchanged) -> Result<(), ExchangeError> {
        let pending = self.store.pending_keys()?;
        self.settle_keys(pending.into_iter().collect(), done)
    }

    /// Changes the rows of these keys alone. What cannot be decided yet waits for the next exchange.
    pub(super) fn settle_keys(
        &mut self,
        mut keys: BTreeSet<FactId>,
        done: &mut Exchanged,
    ) -> Result<(), ExchangeError> {
        loop {
            let before = keys.len();
            let in_turn: Vec<_> = keys.iter().copied().collect();
            for chunk in in_turn.chunks(KEYS_AT_ONCE) {
                for settled in self.change_rows(chunk, done)? {
                    keys.remove(&settled);
                }
            }
            if keys.len() == before {
                return Ok(());
            }
        }
    }

    /// Changes the rows of these keys, and returns the keys of which the rows are as they should be then.
    fn change_rows(
        &mut self,
        keys: &[FactId],
        done: &mut Exchanged,
    ) -> Result<Vec<FactId>, ExchangeError> {
        for _ in 0..ATTEMPTS {
            let merge = self.changes(keys)?;
            if merge.settled.is_empty() {
                return Ok(Vec::new());
            }
            self.store.set_deadline(default_deadline())?;
            match self.store.merge(&merge, self.now) {
                // Perhaps a provider did.
                Err(StoreError::Changed) => self.providers = self.store.providers()?,
                other => {
                    other?;
                    let adds = |change: &&RowChange| matches!(change, RowChange::Add { .. });
                    let added = merge.rows.iter().filter(adds).count();
                    done.added += added;
                    done.changed += merge.rows.len() - added;
                    return Ok(merge.settled);
                }
            }
        }
        Err(StoreError::Changed.into())
    }

    /// What follows from what is known of these keys, of each guest one change at most: two of its keys may be one DEK,
    /// and the second is decided when there is a row of the first.
    fn changes(&mut self, keys: &[FactId]) -> Result<Merge, ExchangeError> {
        let mut merge = Merge::default();
        let mut changed = BTreeSet::new();
        for id in keys {
            if let Some(key) = self.key(*id, &[]) {
                if changed.contains(&key.domain) {
                    continue;
                }
                match self.decide(*id, &key)? {
                    Decision::Nothing => {}
                    Decision::Change(change) => {
                        changed.insert(key.domain);
                        merge.rows.push(*change);
                    }
                    Decision::Objection(wrapped) => merge.objections.push((key.domain, wrapped)),
                    Decision::Later => continue,
                }
            }
            merge.settled.push(*id);
        }
        Ok(merge)
    }

    fn decide(&mut self, id: FactId, key: &KeyClaim) -> Result<Decision, ExchangeError> {
        let Some(provider) = self.provider_of(key.key_id).cloned() else {
            return Ok(Decision::Nothing);
        };
        let deadline = default_deadline();
        if self.unlocker.kek(key.key_id, deadline).is_err() {
            // It may open again: its key manager is away, perhaps.
            return Ok(Decision::Later);
        }
        let Ok(dek) = self.unlocker.open(&key.wrapped, key.domain, deadline) else {
            return Ok(Decision::Nothing);
        };
        let stated = self.store.stated_key(id)?.stated;
        let rows = self.store.all_key_refs(Some(key.domain), true)?;
        let change = match self.row_with(&rows, key, &dek) {
            None if rows.len() < MAX_ROWS => add(key, provider, stated),
            None => None,
            Some(row) if row.key_ref.wrapped_dek.as_ref() == Some(&key.wrapped) => {
                return self.same_row(row, key, &dek, stated);
            }
            // It may be the last other form of a key whose form here was pruned before.
            Some(row) if stated.status == KeyStatus::Pruned => {
                return self.own_form(row, key, &dek);
            }
            Some(row) => self.rewrap(row, key, provider, stated),
        };
        Ok(change.map_or(Decision::Nothing, |change| {
            Decision::Change(Box::new(change))
        }))
    }

    /// The row of the guest that has this DEK; best the one that has it as it is wrapped in the fact.
    fn row_with<'r>(
        &mut self,
        rows: &'r [KeyRefRecord],
        key: &KeyClaim,
        dek: &Dek,
    ) -> Option<&'r KeyRefRecord> {
        let is_same = |row: &&KeyRefRecord| row.key_ref.wrapped_dek.as_ref() == Some(&key.wrapped);
        rows.iter().find(is_same).or_else(|| {
            rows.iter().find(|row| {
                let wrapped = row.key_ref.wrapped_dek.as_ref();
                wrapped.is_some_and(|wrapped| {
                    let opened = self.unlocker.open(wrapped, key.domain, default_deadline());
                    opened.is_ok_and(|opened| opened.same_as(dek))
                })
            })
        })
    }

    /// The row has this key in another form: whether it is a candidate in its own.
    fn own_form(
        &mut self,
        row: &KeyRefRecord,
        key: &KeyClaim,
        dek: &Dek,
    ) -> Result<Decision, ExchangeError> {
        let wrapped = row.key_ref.wrapped_dek.clone();
        let claim = |wrapped| KeyClaim::new(key.domain, wrapped, key.provider.clone(), None);
        let Some(own) = wrapped.and_then(claim) else {
            return Ok(Decision::Nothing);
        };
        let id = FactId::of_key(own.domain, &own.wrapped);
        let known = self.store.stated_key(id)?;
        self.same_row(row, &own, dek, known.stated)
    }

    /// The row has this very key: whether it is a candidate.
    fn same_row(
        &mut self,
        row: &KeyRefRecord,
        key: &KeyClaim,
        dek: &Dek,
        stated: Stated,
    ) -> Result<Decision, ExchangeError> {
        let retire = |is_retired| {
            Decision::Change(Box::new(RowChange::Retire {
                key_ref: row.key_ref.id,
                seen: key.wrapped.clone(),
                is_retired,
            }))
        };
        let objection = || Decision::Objection(key.wrapped.clone());
        Ok(match (row.retired_at.is_some(), stated.status) {
            // libvirt does not say whether it is needed here.
            (false, KeyStatus::Retired | KeyStatus::Pruned) if !self.guests.are_known() => {
                Decision::Later
            }
            (false, KeyStatus::Retired) => match self.needs(key.domain, dek)? {
                Some(true) => objection(),
                Some(false) => retire(true),
                None => Decision::Later,
            },
            // Who has a pruned key keeps it.
            (false, KeyStatus::Pruned) => {
                let is_defined = self.guests.is_defined(key.domain);
                if is_defined && !self.has_twin(key, dek) {
                    objection()
                } else {
                    Decision::Nothing
                }
            }
            (true, KeyStatus::Live) if stated.revision > 0 => retire(false),
            _ => Decision::Nothing,
        })
    }

    /// Whether the fleet has the same DEK in another form that counts: wrapped by the next KEK.
    fn has_twin(&mut self, key: &KeyClaim, dek: &Dek) -> bool {
        let facts = self.store.facts_about(key.domain, Kind::Key);
        facts.unwrap_or_default().iter().any(|fact| {
            let Ok(Claim::Key(twin)) = Claim::read(fact) else {
                return false;
            };
            let is_live = || {
                let stated = self.store.stated_key(fact.id);
                stated.is_ok_and(|known| known.stated.status == KeyStatus::Live)
            };
            twin.wrapped != key.wrapped && is_live() && {
                let opened = self
                    .unlocker
                    .open(&twin.wrapped, key.domain, default_deadline());
                opened.is_ok_and(|opened| opened.same_as(dek))
            }
        })
    }

    /// Whether the key opens the TPM state of a guest of this host that no other host has had since. `None` where the
    /// state cannot be read at the moment.
    fn needs(&mut self, guest: DomainUuid, dek: &Dek) -> Result<Option<bool>, ExchangeError> {
        let placements = self.store.placements(guest)?;
        let was_last_elsewhere = placements.first().is_some_and(|newest| !newest.is_own);
        Ok(if was_last_elsewhere {
            Some(false)
        } else {
            self.guests.opens_state(guest, dek)
        })
    }

    /// The row has the DEK in another form: it takes that of the fact if the KEK of it follows that of the row, or
    /// the key was chosen again.
    fn rewrap(
        &self,
        row: &KeyRefRecord,
        key: &KeyClaim,
        provider: Provider,
        stated: Stated,
    ) -> Option<RowChange> {
        let seen = row.key_ref.wrapped_dek.as_ref()?;
        let of_row = self.provider_of(seen.key_id().ok()?);
        let follows = of_row.is_some_and(|it| it.previous_key_of() == Some(&provider.name));
        let same_kek = seen.key_id() == key.wrapped.key_id();
        let generation = |wrapped: &WrappedDek| wrapped.generation().unwrap_or_default();
        let was_chosen = generation(&key.wrapped) > generation(seen) && same_kek;
        if stated.status != KeyStatus::Live || !(follows || was_chosen) {
            return None;
        }
        Some(RowChange::Rewrap {
            row: RewrappedRow {
                key_ref: row.key_ref.id,
                seen: seen.clone(),
                key: NewKey::new(key.wrapped.clone(), key.key_id, provider.key_version),
            },
            provider,
        })
    }
}

/// The guest has no row with this DEK.
fn add(key: &KeyClaim, provider: Provider, stated: Stated) -> Option<RowChange> {
    let is_retired = match stated.status {
        KeyStatus::Live => false,
        KeyStatus::Retired => true,
        KeyStatus::Pruned => return None,
    };
    Some(RowChange::Add {
        domain: key.domain,
        key: NewKey::new(key.wrapped.clone(), key.key_id, provider.key_version),
        provider,
        is_retired,
    })
}
