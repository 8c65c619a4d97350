//! Learn: which facts are believed, and which rows of this host follow from them.
//!
//! A wrapped key is believed if it opens, with a KEK of this host, as that guest's. What a key counts as, and where a
//! guest is, is believed if it was signed with the KEK of the key. Names, slots and successors are kept: they count
//! only when somebody accepts them, or they prove themselves.
//!
//! Rows are a union: a key of which a row of the guest has the DEK is that row. A key that opens the TPM state of a
//! guest of this host stays a candidate here, whatever others say: they are told so.

use std::collections::BTreeSet;

use super::{Exchange, ExchangeError, Exchanged};
use crate::fleet::claim::{BadClaim, Claim, KeyClaim, PlacementClaim};
use crate::fleet::status::{KeyStatus, Stated};
use crate::fleet::{Fact, FactId, Kind};
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::manage::host::default_deadline;
use crate::store::{KeyRefRecord, KnownFact, Merge, RewrappedRow, RowChange, StoreError};
use crate::verdict::facts::Provider;

/// How often it is tried again because a row changed in the meantime.
const ATTEMPTS: u32 = 8;

/// Of how many keys the rows are changed in one transaction, during which a start waits.
const KEYS_AT_ONCE: usize = 200;

/// How far ahead of this host's clock another one may be, in milliseconds: what is later is no honest mistake, and
/// would count for ever.
const MAX_AHEAD: i64 = 24 * 60 * 60 * 1000;

/// How many key references a guest has at most that came from the fleet: whoever has a KEK can make keys.
const MAX_ROWS: usize = 64;

/// How many facts of a kind that concerns everybody are kept: a hostile store has no end of them.
const MAX_FACTS_FOR_ALL: usize = 10_000;

/// Why a fact is not kept.
enum NotKept {
    /// It is not believed.
    Rejected(BadClaim),
    /// It is of no use here.
    Unneeded,
}

impl From<BadClaim> for NotKept {
    fn from(bad: BadClaim) -> Self {
        Self::Rejected(bad)
    }
}

impl Exchange<'_> {
    /// Takes facts in, and moves the cursor on with them.
    pub(super) fn learn(
        &mut self,
        facts: &[Fact],
        cursor: Option<String>,
        done: &mut Exchanged,
    ) -> Result<(), ExchangeError> {
        let mut merge = Merge {
            cursor,
            ..Merge::default()
        };
        let mut room = MAX_FACTS_FOR_ALL.saturating_sub(self.store.fact_ids(super::ALWAYS)?.len());
        for fact in facts {
            if self.store.knows_fact(fact.id)? {
                continue;
            }
            let claim = match self.believe(fact, &merge.facts) {
                Ok(claim) => claim,
                Err(NotKept::Unneeded) => continue,
                Err(NotKept::Rejected(bad)) => {
                    tracing::debug!(fact = %fact.id, "not believed: {bad}");
                    done.rejected += 1;
                    continue;
                }
            };
            done.pulled += 1;
            match &claim {
                Claim::Key(_) => merge.pending.push(fact.id),
                Claim::Status(status) => merge.pending.push(status.says.key),
                Claim::Placement(placement) => {
                    merge.placements.push(placement.says.clone());
                    continue;
                }
                _ if room == 0 => continue,
                _ => room -= 1,
            }
            let fact = fact.clone();
            merge.facts.push(KnownFact { fact, claim });
        }
        // The facts first: what they say of rows is read from all that is known.
        self.store.set_deadline(default_deadline())?;
        self.store.merge(&merge, self.now)?;
        self.settle(done)
    }

    /// Changes the rows that follow from what is known of keys. What an exchange leaves that ends before this, the
    /// next one does.
    pub(super) fn settle(&mut self, done: &mut Exchanged) -> Result<(), ExchangeError> {
        let keys = self.store.pending_keys()?;
        for keys in keys.chunks(KEYS_AT_ONCE) {
            self.change_rows(keys, done)?;
        }
        Ok(())
    }

    fn change_rows(&mut self, keys: &[FactId], done: &mut Exchanged) -> Result<(), ExchangeError> {
        for _ in 0..ATTEMPTS {
            let mut merge = Merge {
                settled: keys.to_vec(),
                ..Merge::default()
            };
            let mut seen = BTreeSet::new();
            for key in keys {
                self.rows_of(*key, &mut seen, &mut merge)?;
            }
            let adds = |change: &&RowChange| matches!(change, RowChange::Add { .. });
            let added = merge.rows.iter().filter(adds).count();
            self.store.set_deadline(default_deadline())?;
            match self.store.merge(&merge, self.now) {
                Err(StoreError::Changed) => {}
                other => {
                    other?;
                    done.added += added;
                    done.changed += merge.rows.len() - added;
                    return Ok(());
                }
            }
        }
        Err(StoreError::Changed.into())
    }

    /// Whether a fact is believed, and what it says. `kept` has those that were believed with it.
    fn believe(&mut self, fact: &Fact, kept: &[KnownFact]) -> Result<Claim, NotKept> {
        let claim = Claim::read(fact)?;
        match &claim {
            Claim::Key(key) => {
                self.provider_of(key.key_id).ok_or(NotKept::Unneeded)?;
                if (fact.domain, fact.key_id) != (Some(key.domain), Some(key.key_id)) {
                    return Err(BadClaim::OtherId.into());
                }
                let opened = self
                    .unlocker
                    .open(&key.wrapped, key.domain, default_deadline());
                opened.map_err(|_| BadClaim::NotSigned(key.key_id))?;
            }
            Claim::Status(status) => {
                let kek = self.held(status.key_id)?;
                let says = status.check(&kek)?;
                // Whoever has another provider's key has no say in this one's.
                let is_its =
                    |key: &KeyClaim| (key.key_id, key.domain) == (status.key_id, says.domain);
                let key = self.key(says.key, kept).ok_or(NotKept::Unneeded)?;
                if !is_its(&key) {
                    return Err(BadClaim::NotSigned(key.key_id).into());
                }
            }
            Claim::Placement(placement) => {
                let kek = self.held(placement.key_id)?;
                let says = placement.check(&kek)?;
                // What this host did it knows itself.
                if says.host == self.host {
                    return Err(NotKept::Unneeded);
                }
                let is_of_the_future = says.at > self.now.0.saturating_add(MAX_AHEAD);
                if is_of_the_future || !self.has_key_under(says, placement.key_id, kept) {
                    return Err(BadClaim::NotSigned(placement.key_id).into());
                }
            }
            Claim::Provider(_) | Claim::Slot(_) | Claim::Successor(_) | Claim::Host(_) => {}
            // Nobody asked for those.
            Claim::Event(_) | Claim::Report(_) => return Err(NotKept::Unneeded),
        }
        Ok(claim)
    }

    fn held(&mut self, key_id: KeyId) -> Result<std::sync::Arc<crate::key::kek::Kek>, NotKept> {
        let kek = self.unlocker.kek(key_id, default_deadline());
        kek.map_err(|_| NotKept::Unneeded)
    }

    /// Whether a key of the guest is known that this KEK wraps: who has another one has no say in this guest.
    fn has_key_under(&self, says: &PlacementClaim, key_id: KeyId, kept: &[KnownFact]) -> bool {
        let is_its = |fact: &Fact| {
            fact.kind == Kind::Key
                && fact.domain == Some(says.domain)
                && fact.key_id == Some(key_id)
        };
        let known = self.store.facts_about(says.domain, Kind::Key);
        kept.iter().any(|known| is_its(&known.fact))
            || known.is_ok_and(|facts| facts.iter().any(is_its))
    }

    /// A key that was believed, now or before.
    fn key(&self, id: FactId, kept: &[KnownFact]) -> Option<KeyClaim> {
        let claim = match kept.iter().rev().find(|known| known.fact.id == id) {
            Some(known) => known.claim.clone(),
            None => Claim::read(self.store.facts(&[id]).ok()?.first()?).ok()?,
        };
        match claim {
            Claim::Key(key) => Some(key),
            _ => None,
        }
    }

    /// The provider of this host that has a KEK.
    fn provider_of(&self, key_id: KeyId) -> Option<&Provider> {
        self.providers.iter().find(|it| it.key_id == key_id)
    }

    /// Adds the changes of rows that follow from what is known of a key. `seen` has the guests with a change: a
    /// second one is decided when the first is made.
    fn rows_of(
        &mut self,
        id: FactId,
        seen: &mut BTreeSet<DomainUuid>,
        merge: &mut Merge,
    ) -> Result<(), ExchangeError> {
        let Some(key) = self.key(id, &[]) else {
            return Ok(());
        };
        let Some(provider) = self.provider_of(key.key_id).cloned() else {
            return Ok(());
        };
        let Ok(dek) = self
            .unlocker
            .open(&key.wrapped, key.domain, default_deadline())
        else {
            return Ok(());
        };
        let stated = self.store.stated_key(id)?.stated;
        let rows = self.store.all_key_refs(Some(key.domain), true)?;
        let change = match self.row_with(&rows, &key, &dek) {
            None if rows.len() < MAX_ROWS => add(&key, provider, stated),
            None => None,
            Some(row) if row.key_ref.wrapped_dek.as_ref() == Some(&key.wrapped) => {
                self.same_row(row, &key, &dek, stated, merge)
            }
            Some(row) => self.rewrap(row, &key, provider, stated),
        };
        let Some(change) = change else {
            return Ok(());
        };
        if seen.insert(key.domain) {
            merge.rows.push(change);
        } else {
            // Of two keys of one guest in one page, which may be one DEK, the second sees the row of the first.
            self.store.merge(
                &Merge {
                    rows: std::mem::take(&mut merge.rows),
                    ..Merge::default()
                },
                self.now,
            )?;
            seen.clear();
            return self.rows_of(id, seen, merge);
        }
        Ok(())
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

    /// The row has this very key: whether it is a candidate.
    fn same_row(
        &mut self,
        row: &KeyRefRecord,
        key: &KeyClaim,
        dek: &Dek,
        stated: Stated,
        merge: &mut Merge,
    ) -> Option<RowChange> {
        let is_retired = match (row.retired_at.is_some(), stated.status) {
            // libvirt does not say whether it is needed here: it is looked at again.
            (false, KeyStatus::Retired | KeyStatus::Pruned) if !self.guests.are_known() => {
                merge
                    .settled
                    .retain(|settled| *settled != FactId::of_key(key.domain, &key.wrapped));
                return None;
            }
            (false, KeyStatus::Retired) if self.needs(key.domain, dek) => {
                merge.objections.push((key.domain, key.wrapped.clone()));
                return None;
            }
            (false, KeyStatus::Pruned)
                if self.guests.defined().contains(&key.domain) && !self.has_twin(key, dek) =>
            {
                merge.objections.push((key.domain, key.wrapped.clone()));
                return None;
            }
            (false, KeyStatus::Retired) => true,
            (true, KeyStatus::Live) if stated.revision > 0 => false,
            _ => return None,
        };
        Some(RowChange::Retire {
            key_ref: row.key_ref.id,
            seen: key.wrapped.clone(),
            is_retired,
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

    /// Whether the key opens the TPM state of a guest of this host that no other host has had since.
    fn needs(&mut self, guest: DomainUuid, dek: &Dek) -> bool {
        let placements = self.store.placements(guest).unwrap_or_default();
        let was_last_elsewhere = placements.first().is_some_and(|newest| !newest.is_own);
        !was_last_elsewhere && self.guests.opens_state(guest, dek)
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
