//! Gathers the facts of one start: TPM state, rows, and the result of trying each key.

use std::collections::BTreeMap;
use std::time::Duration;

use super::context::Guard;
use super::copies::{AvailableCopies, available_copies};
use super::fleet::Line;
use super::keys::Keys;
use super::travelling::try_against;
use super::{arrival as arrivals, obstacle, saved_runs};
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator, UnreadableDomain, Vtpm};
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::store::{Access, Store, StoreError};
use crate::swtpm::{StateFile, read_state};
use crate::tpm_copies::SavedCopy;
use crate::verdict::facts::{
    CopyToRestore, Facts, Fleet, KeyRef, Provider, References, SavedTpm, TpmState, Travelling,
};

#[cfg(test)]
mod tests;

/// The facts, and what was opened to gather them.
pub(super) struct Gathered {
    pub(super) facts: Facts,
    pub(super) keys: Keys,
    /// The store that the rows came from; `None` if there is none, or it is unusable.
    pub(super) store: Option<Store>,
    /// The copy of `facts.saved`.
    pub(super) copy: Option<SavedCopy>,
    /// The state that keys are proven against: the TPM's, or the copy that will be restored.
    pub(super) state: StateFile,
}

impl Guard {
    /// Returns the state of this guest's TPM; `Absent` if it is not emulated.
    #[must_use]
    pub fn tpm_state(&self, domain: &Domain) -> TpmState {
        match &domain.vtpm {
            Some(Vtpm::Emulator(vtpm)) => {
                read_state(&self.config.libvirt.tpm_states(), domain.uuid, vtpm).summary()
            }
            _ => TpmState::Absent,
        }
    }
}

/// Gathers what the verdict on this guest depends on, and no more: for a guest without an emulated
/// TPM nothing is read.
pub(super) fn gather(
    guard: &Guard,
    domain: Result<Domain, UnreadableDomain>,
    access: Access,
    deadline: Deadline,
) -> Gathered {
    let mut gathered = Gathered {
        facts: Facts {
            domain,
            references: Ok(References::default()),
            trials: BTreeMap::new(),
            keks: BTreeMap::new(),
            state: TpmState::Absent,
            obstacle: None,
            saved: SavedTpm::default(),
            arrival: None,
            snapshots: Vec::new(),
            host_secret: None,
            elsewhere: None,
            retired: BTreeMap::new(),
            travelling: Travelling::default(),
            fleet: Fleet {
                question: Line::question(guard),
                ..Fleet::default()
            },
            policy: guard.config.policy.clone(),
        },
        keys: Keys::of(guard),
        store: None,
        copy: None,
        state: StateFile::Absent,
    };
    let Ok(domain) = &gathered.facts.domain else {
        return gathered;
    };
    let Some(Vtpm::Emulator(vtpm)) = domain.vtpm.clone() else {
        return gathered;
    };
    let (vtpm, uuid) = (&vtpm, domain.uuid);
    let state = read_state(&guard.config.libvirt.tpm_states(), uuid, vtpm);
    let saved = match state {
        StateFile::Absent | StateFile::Damaged(_) => available_copies(guard, domain, vtpm),
        _ => AvailableCopies::default(),
    };
    let (saved, state) = saved.for_the_place_of(guard, domain, vtpm, state);
    let needs_rows = needs_rows(vtpm, &state) || !saved.copies.is_empty();
    gathered.facts.state = state.summary();
    gathered.state = state;
    gathered.facts.saved.ended_normally = saved.ended_normally;
    if gathered.facts.state == TpmState::Absent {
        gathered.facts.snapshots = saved_runs::snapshots(guard, domain);
    }
    if needs_rows {
        gathered.read_rows(guard, uuid, access, deadline);
        gathered.find_arrival(guard);
        gathered.read_travelling();
        gathered.find_placement(guard, uuid);
        gathered.try_all(uuid, saved, deadline);
    }
    gathered.find_obstacle(guard, vtpm, access, deadline);
    gathered
}

/// Returns whether the store must be read. An unencrypted vTPM has no rows; but an encrypted state
/// under it is no contradiction while another state is arriving, which only the store knows.
fn needs_rows(vtpm: &Emulator, state: &StateFile) -> bool {
    let may_contradict = matches!(state, StateFile::Encrypted(_) | StateFile::Damaged(_));
    vtpm.secret_uuid.is_some() || may_contradict
}

impl StateFile {
    /// The fact that the core needs to know of it.
    pub(super) fn summary(&self) -> TpmState {
        match self {
            Self::Absent => TpmState::Absent,
            Self::Plain => TpmState::Plain,
            Self::Encrypted(_) => TpmState::Encrypted,
            Self::Damaged(damage) => TpmState::Damaged(damage.clone()),
            Self::Unreadable(how) => TpmState::Unreadable(how.clone()),
        }
    }
}

impl Gathered {
    /// Finds what prevents the start. For a guest whose vTPM is not encrypted, which libvirt starts
    /// itself, only a check without a start does this.
    fn find_obstacle(
        &mut self,
        guard: &Guard,
        vtpm: &Emulator,
        access: Access,
        deadline: Deadline,
    ) {
        let facts = &mut self.facts;
        let (Ok(domain), is_asked) = (&facts.domain, access == Access::Read) else {
            return;
        };
        if vtpm.secret_uuid.is_none() && !is_asked {
            return;
        }
        let waits = !is_asked && !facts.state_arrives();
        let longest = if waits {
            obstacle::LOCK_PATIENCE
        } else {
            Duration::ZERO
        };
        let patience = deadline.half().at_most(longest);
        facts.obstacle = obstacle::find(guard, domain, vtpm, patience);
    }

    fn read_rows(&mut self, guard: &Guard, domain: DomainUuid, access: Access, deadline: Deadline) {
        let opened = match guard.open_store(access, deadline) {
            // A store on a read-only file system still has the keys.
            Err(StoreError::Unavailable { .. }) if access != Access::Read => {
                guard.open_store(Access::Read, deadline)
            }
            opened => opened,
        };
        match opened {
            Ok(Some(store)) => {
                let rows = store.references(domain, Timestamp::now());
                self.facts.references = rows.map_err(|error| error.access_error());
                self.store = Some(store);
            }
            Ok(None) => {}
            Err(error) => self.facts.references = Err(error.access_error()),
        }
    }

    /// Finds out whether a state arrives in this start, announced or not.
    fn find_arrival(&mut self, guard: &Guard) {
        let Facts {
            domain: Ok(domain),
            references: Ok(references),
            arrival,
            snapshots,
            ..
        } = &mut self.facts
        else {
            return;
        };
        let announced = references.announced.as_ref();
        *arrival = arrivals::expected(guard, domain, announced, snapshots);
        references.state_arrives = arrival.is_some();
    }

    /// Tries the guest's keys on its TPM state, or on the copy that will be restored.
    pub(super) fn try_all(
        &mut self,
        domain: DomainUuid,
        saved: AvailableCopies,
        deadline: Deadline,
    ) {
        self.try_keys(domain, deadline);
        self.try_copies(domain, saved, deadline);
        // A state that is here proves nothing of one that is on its way.
        let arrives = self.facts.arrival.is_some() && self.brings_another_key();
        if arrives || self.facts.needs_the_xml() {
            self.try_travelling(domain, deadline);
            self.try_retired(domain, deadline);
        }
    }

    fn try_keys(&mut self, domain: DomainUuid, deadline: Deadline) {
        let Self {
            facts, keys, state, ..
        } = self;
        let Ok(References {
            key_refs,
            providers,
            ..
        }) = &facts.references
        else {
            return;
        };
        facts.trials = keys.try_rows(key_refs, providers, domain, state, deadline);
        if facts.trials.is_empty() && facts.state == TpmState::Absent {
            for key_id in keks_for_a_new_key(key_refs, providers, facts.policy.auto_bind.as_deref())
            {
                let state = keys.try_kek(key_id, providers, deadline);
                facts.keks.insert(key_id, state);
            }
        }
    }

    /// Chooses the latest copy that a key opens, or else the latest, and proves the keys against it
    /// if it will be restored.
    fn try_copies(&mut self, domain: DomainUuid, saved: AvailableCopies, deadline: Deadline) {
        let Self {
            facts, keys, store, ..
        } = self;
        facts.saved.unreadable = saved.unreadable;
        let mut chosen = None;
        let mut is_proven = false;
        for (copy, state) in saved.copies {
            let trials;
            (trials, is_proven) = match &facts.references {
                Ok(references) => {
                    let against = (domain, &state, deadline);
                    try_against(keys, references, &facts.travelling, against)
                }
                Err(_) => (BTreeMap::new(), false),
            };
            // What another host has saved counts only where it proves itself.
            if is_proven || chosen.is_none() && !copy.is_of_fleet() {
                chosen = Some((copy, state, trials));
            }
            if is_proven {
                break;
            }
        }
        let Some((copy, state, trials)) = chosen else {
            return;
        };
        facts.saved.copy = Some(CopyToRestore {
            reason: copy.manifest.reason,
            saved_at: copy.manifest.kept_at(),
            is_encrypted: matches!(state, StateFile::Encrypted(_)),
            is_proven,
            is_outdated: saved.run.is_later_than(&copy, |saved_at| {
                let store = store.as_ref();
                store.is_some_and(|store| store.may_have_run_since(domain, saved_at))
            }),
        });
        self.copy = Some(copy);
        if facts.copy_to_restore().is_some() {
            facts.trials = trials;
            self.state = state;
        }
    }

    /// Tries the retired rows, once: they may have the key of a state that has come back.
    pub(super) fn try_retired(&mut self, domain: DomainUuid, deadline: Deadline) {
        let Self {
            facts, keys, state, ..
        } = self;
        if !facts.retired.is_empty() {
            return;
        }
        if let Ok(References {
            retired, providers, ..
        }) = &facts.references
        {
            facts.retired = keys.try_rows(retired, providers, domain, state, deadline);
        }
    }
}

/// Returns the KEKs that may have to wrap a new key: those of the providers that the placeholders
/// name, or that `policy.auto_bind` names if there are no rows.
pub(super) fn keks_for_a_new_key(
    rows: &[KeyRef],
    providers: &[Provider],
    auto_bind: Option<&str>,
) -> Vec<KeyId> {
    let is_named = |provider: &&Provider| {
        rows.iter().any(|row| provider.named_by(row).is_some())
            || (rows.is_empty() && auto_bind == Some(provider.name.as_str()))
    };
    let named = providers.iter().filter(is_named);
    named.map(|provider| provider.key_id).collect()
}
