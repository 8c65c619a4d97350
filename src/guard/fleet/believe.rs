//! What of the shared store's answer counts. Keys and states prove themselves later; what is only said must be signed
//! with a KEK of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, TravellingKey};
use crate::fleet::claim::{BadClaim, Claim, KeyClaim, PlacementClaim};
use crate::fleet::status::{KeyStatus, Stated};
use crate::fleet::tpm_state::{SignedState, StateNote};
use crate::fleet::{Fact, FactId, Found, Kind, State};
use crate::guard::keys::Keys;
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::store::Store;
use crate::verdict::facts::References;

/// Of how many keys of an answer is thought at all.
const MAX_KEYS: usize = 64;

/// What the shared store has of a guest, as far as that counts.
#[derive(Default)]
pub(super) struct Believed {
    /// Its keys that no host has retired, those whose KEK this host has first.
    pub(super) keys: Vec<TravellingKey>,
    /// Where it is, as other hosts have said.
    pub(super) placements: Vec<PlacementClaim>,
    /// What may be its TPM states.
    pub(super) states: Vec<DatedState>,
    /// How much did not count.
    pub(super) ignored: usize,
    /// The end of the last run that a host has signed, and what this host itself has said of one later.
    newest: Option<Timestamp>,
    /// What this host itself has said last of a run that its own store does not know: that is of a backup, and the copies
    /// of TPM states beside it may be, too.
    forgotten: Option<Timestamp>,
}

/// What may be a TPM state of the guest.
pub(super) struct DatedState {
    pub(super) data: Vec<u8>,
    pub(super) note: StateNote,
    pub(super) at: Timestamp,
    /// Whether that time is signed.
    pub(super) is_dated: bool,
}

impl Believed {
    pub(super) fn of(
        found: Found,
        domain: &Domain,
        references: &References,
        store: Option<&Store>,
        keys: &mut Keys,
        deadline: Deadline,
    ) -> Self {
        let mut reader = Reader {
            domain: domain.uuid,
            held: references.providers.iter().map(|it| it.key_id).collect(),
            keys,
            deadline,
            own: None,
            believed: Self::default(),
            statuses: BTreeMap::new(),
            its_keks: BTreeSet::new(),
            candidates: Vec::new(),
            too_new: Vec::new(),
        };
        reader.own = store
            .and_then(|store| store.membership().ok().flatten())
            .map(|own| own.host);
        let rows = references.key_refs.iter().chain(&references.retired);
        let wrapped = rows.filter_map(|row| row.wrapped_dek.as_ref()?.key_id().ok());
        reader.its_keks.extend(wrapped);
        // A key before what is said of it.
        let is_key = |fact: &&Fact| fact.kind == Kind::Key;
        for fact in found.facts.iter().filter(is_key) {
            reader.read(fact);
        }
        for fact in found.facts.iter().filter(|fact| !is_key(fact)) {
            reader.read(fact);
        }
        for state in found.states {
            reader.read_state(state);
        }
        // Of the moment itself it knows.
        let before = |at: Timestamp| Timestamp(at.0.saturating_sub(1));
        let is_known = |at| store.is_some_and(|it| it.has_own_run_since(domain.uuid, before(at)));
        let believed = reader.finish(store);
        Self {
            forgotten: believed.forgotten.filter(|at| !is_known(*at)),
            ..believed
        }
    }

    /// Whether a host has begun or ended a run after this time.
    pub(super) fn has_run_since(&self, at: Timestamp) -> bool {
        self.has_run_elsewhere_since(at) || self.newest.is_some_and(|newest| newest > at)
    }

    /// Whether there was a run after this time of which this host's own store knows nothing.
    pub(super) fn has_unknown_run_since(&self, at: Timestamp) -> bool {
        self.has_run_elsewhere_since(at) || self.forgotten.is_some_and(|last| last > at)
    }

    fn has_run_elsewhere_since(&self, at: Timestamp) -> bool {
        self.placements.iter().any(|it| it.at > at.0)
    }
}

/// Reads an answer.
struct Reader<'a> {
    domain: DomainUuid,
    /// The KEKs of this host's providers.
    held: Vec<KeyId>,
    keys: &'a mut Keys,
    deadline: Deadline,
    /// Who this host is in the fleet.
    own: Option<crate::ids::HostUuid>,
    believed: Believed,
    /// By key, and by the KEK that it was signed with.
    statuses: BTreeMap<(FactId, KeyId), Stated>,
    /// The KEKs that wrap keys of this guest, here or in the answer.
    its_keks: BTreeSet<KeyId>,
    candidates: Vec<Candidate>,
    /// Its keys that only a later release could open.
    too_new: Vec<TravellingKey>,
}

/// A key of the answer.
struct Candidate {
    id: FactId,
    claim: KeyClaim,
    /// Whether it opens here as this guest's.
    opens: bool,
}

impl Reader<'_> {
    fn read(&mut self, fact: &Fact) {
        match Claim::read(fact) {
            Ok(Claim::Key(claim)) if claim.domain == self.domain => {
                let (id, opens) = (fact.id, self.opens(&claim));
                if opens {
                    self.its_keks.insert(claim.key_id);
                }
                self.candidates.push(Candidate { id, claim, opens });
            }
            // Of a KEK that is not here nothing can be said.
            Ok(Claim::Status(signed)) => {
                if let Some(kek) = self.kek(signed.key_id) {
                    match signed.check(&kek) {
                        // It counts for the key of this guest which that KEK wraps: see `finish`.
                        Ok(says) if says.domain == self.domain => {
                            let said = (says.key, signed.key_id);
                            let stated = self.statuses.entry(said).or_insert(Stated::NEW);
                            *stated = (*stated).max(says.stated());
                        }
                        _ => self.believed.ignored += 1,
                    }
                }
            }
            Ok(Claim::Placement(signed)) => {
                if let Some(kek) = self.kek(signed.key_id) {
                    match signed.check(&kek) {
                        // What this host itself did is in its own store, unless that is an older one: then a run of it
                        // makes states old, and runs nowhere else.
                        Ok(says) if says.domain == self.domain && Some(says.host) == self.own => {
                            if self.wraps_a_key(signed.key_id) {
                                let at = Some(Timestamp(says.at));
                                let believed = &mut self.believed;
                                believed.newest = believed.newest.max(at);
                                believed.forgotten = believed.forgotten.max(at);
                            }
                        }
                        Ok(says)
                            if says.domain == self.domain && self.wraps_a_key(signed.key_id) =>
                        {
                            self.believed.placements.push(says.clone());
                        }
                        _ => self.believed.ignored += 1,
                    }
                }
            }
            // Whether it is the guest's, a later release could say. It opens nothing, and only names what is missing.
            Err(BadClaim::KeyTooNew(key)) if key.domain == self.domain => {
                self.too_new.push(TravellingKey {
                    wrapped_dek: key.wrapped,
                    provider: key.provider,
                });
            }
            Ok(Claim::Key(_)) | Err(_) => self.believed.ignored += 1,
            // What else goes with the keys is for `sync`.
            Ok(_) => {}
        }
    }

    fn read_state(&mut self, state: State) {
        let State { info, data } = state;
        let read = SignedState::read(&info, self.domain);
        let (Some(signed), Some(data)) = (read, data) else {
            self.believed.ignored += 1;
            return;
        };
        let is_itself = FactId::of_state(self.domain, &data) == info.id;
        let kek = self.kek(signed.key_id);
        let kek = kek.filter(|_| self.wraps_a_key(signed.key_id));
        let checked = kek.and_then(|kek| signed.check(&kek).cloned());
        let is_dated = checked.is_some();
        let claim = checked.unwrap_or_else(|| signed.unverified().clone());
        let at = Timestamp(claim.at);
        if is_dated {
            self.believed.newest = self.believed.newest.max(Some(at));
        }
        if is_itself {
            self.believed.states.push(DatedState {
                data,
                note: claim.note,
                at,
                is_dated,
            });
        } else {
            self.believed.ignored += 1;
        }
    }

    /// Whether a key is the guest's, and opens here.
    fn opens(&mut self, claim: &KeyClaim) -> bool {
        let is_held = self.held.contains(&claim.key_id);
        let (unlocker, deadline) = (self.keys.unlocker(), self.deadline);
        is_held && unlocker.open(&claim.wrapped, self.domain, deadline).is_ok()
    }

    /// Whether a key of this guest is wrapped by this KEK: who has another one has no say in this guest.
    fn wraps_a_key(&self, key_id: KeyId) -> bool {
        self.its_keks.contains(&key_id)
    }

    /// A KEK of this host.
    fn kek(&mut self, key_id: KeyId) -> Option<Arc<Kek>> {
        if !self.held.contains(&key_id) {
            return None;
        }
        self.keys.kek(key_id, self.deadline)
    }

    /// The keys that no host has retired, as far as the answer and this host's store know.
    fn finish(mut self, store: Option<&Store>) -> Believed {
        let is_live = |id: FactId, key_id: KeyId| {
            let here = store.and_then(|store| store.stated_key(id).ok());
            let here = here.map_or(Stated::NEW, |known| known.stated);
            let there = self.statuses.get(&(id, key_id)).copied();
            let there = there.unwrap_or(Stated::NEW);
            here.max(there).status == KeyStatus::Live
        };
        let mut live = self.candidates;
        live.retain(|key| is_live(key.id, key.claim.key_id));
        // Those that open here first: none that was made up takes the place of one.
        live.sort_by_key(|key| (!key.opens, !self.held.contains(&key.claim.key_id)));
        live.truncate(MAX_KEYS);
        self.believed.keys = live
            .into_iter()
            .map(|key| TravellingKey {
                wrapped_dek: key.claim.wrapped,
                provider: key.claim.provider,
            })
            .chain(self.too_new)
            .take(MAX_KEYS)
            .collect();
        self.believed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_forgotten_makes_old_what_is_from_before_it() {
        let believed = Believed {
            forgotten: Some(Timestamp(5)),
            ..Believed::default()
        };
        let is_old = |at| believed.has_unknown_run_since(Timestamp(at));
        assert_eq!([4, 5, 6].map(is_old), [true, false, false]);
    }
}
