//! What a start has to do with the fleet: the question to the shared store on a miss, and where the guest runs.
//!
//! | file | job |
//! | --- | --- |
//! | `line` | asks the shared store, at most once for each start |
//! | `believe` | what of its answer counts |
//! | `notes` | what a run leaves for the fleet |

mod believe;
mod line;
pub(super) mod notes;

pub(super) use line::Line;

use super::context::Guard;
use super::copies::{AvailableCopies, available_copies};
use super::gather::{Gathered, gather};
use super::travelling::try_against;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator};
use crate::fleet::FactId;
use crate::fleet::claim::PlacementClaim;
use crate::ids::DomainUuid;
use crate::store::{Access, Store};
use crate::swtpm::{StateFile, StatePath, future_owner, read_state};
use crate::tpm_copies::{SavedCopy, sort_latest_first};
use crate::verdict::facts::{FleetQuestion, NotOpened, RunsOn, StoreAccessError, TpmState, Trial};
use believe::{Believed, DatedState};

impl Gathered {
    /// Finds out where the guest runs, as far as the hosts of the fleet have said so before.
    pub(super) fn find_placement(&mut self, guard: &Guard, domain: DomainUuid) {
        if guard.config.fleet.store.is_none() {
            return;
        }
        if let Some(store) = &self.store {
            let others = said_of_others(store, domain);
            self.facts.fleet.runs_on = runs_on(store, domain, &others);
        }
    }

    /// Asks the shared store about the guest, and gathers again with what it has.
    pub(super) fn ask_fleet(&mut self, guard: &Guard, deadline: Deadline) {
        let Ok(domain) = self.facts.domain.clone() else {
            return;
        };
        let found = match guard.line.ask(guard, domain.uuid, deadline) {
            Ok(found) => found,
            Err(why) => {
                tracing::warn!(domain = domain.name, %why, "the fleet's store was not heard");
                self.facts.fleet.question = FleetQuestion::Silent(why);
                return;
            }
        };
        self.facts.fleet.question = FleetQuestion::Answered;
        let (Some((vtpm, _)), Ok(references)) =
            (domain.encrypted_vtpm(), self.facts.references.clone())
        else {
            return;
        };
        let store = self.store.as_ref();
        let mut believed =
            Believed::of(found, &domain, &references, store, &mut self.keys, deadline);
        for key in &believed.keys {
            let now = Timestamp::now();
            let travelling = &mut self.facts.travelling;
            travelling.add_of_fleet(key, &domain, &references, now);
        }
        if let Some(store) = &self.store {
            let known = said_of_others(store, domain.uuid);
            believed.placements.extend(known);
            self.facts.fleet.runs_on = runs_on(store, domain.uuid, &believed.placements);
        }
        let states = std::mem::take(&mut believed.states);
        let number = states.len();
        self.gather_again(guard, &domain, vtpm, &believed, states, deadline);
        let uses_a_state = self.copy.as_ref().is_some_and(SavedCopy::is_of_fleet);
        let keys = self.facts.travelling.keys.iter();
        let forged = keys.filter(|key| {
            let trial = self.facts.trials.get(&key.id);
            key.id.is_of_fleet() && trial.is_some_and(Trial::is_damaged)
        });
        let missed = number > 0 && !uses_a_state && self.facts.state == TpmState::Absent;
        self.facts.fleet.ignored = believed.ignored + forged.count() + usize::from(missed);
    }

    /// Tries keys and copies again. What was concluded from the state before is forgotten.
    fn gather_again(
        &mut self,
        guard: &Guard,
        domain: &Domain,
        vtpm: &Emulator,
        believed: &Believed,
        states: Vec<DatedState>,
        deadline: Deadline,
    ) {
        let uuid = domain.uuid;
        let state = read_state(&guard.config.libvirt.tpm_states(), uuid, vtpm);
        let mut saved = AvailableCopies::default();
        if matches!(state, StateFile::Absent | StateFile::Damaged(_)) {
            saved = available_copies(guard, domain, vtpm);
            // What other hosts have done since, this one may not have heard before; nor what it has done itself, where
            // its store and its copies are of a backup.
            for (copy, _) in &mut saved.copies {
                copy.is_followed = believed.has_unknown_run_since(copy.manifest.kept_at());
            }
            saved
                .copies
                .extend(self.copies_of_fleet(guard, domain, vtpm, believed, states));
            sort_latest_first(&mut saved.copies, |(copy, _)| copy);
        }
        (saved, self.state) = saved.for_the_place_of(guard, domain, vtpm, state);
        if matches!(self.state, StateFile::Damaged(_)) {
            // Why a copy of another host cannot take its place.
            self.facts.state = self.state.summary();
        }
        self.copy = None;
        self.facts.saved.copy = None;
        self.facts.host_secret = None;
        self.facts.elsewhere = None;
        self.facts.retired.clear();
        self.try_all(uuid, saved, deadline);
    }

    /// The states of the shared store, as copies that this host could have saved. Only those that a key opens are
    /// used.
    fn copies_of_fleet(
        &mut self,
        guard: &Guard,
        domain: &Domain,
        vtpm: &Emulator,
        believed: &Believed,
        states: Vec<DatedState>,
    ) -> Vec<(SavedCopy, StateFile)> {
        if states.is_empty() {
            return Vec::new();
        }
        let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
        let owner = future_owner(&place, &guard.config.libvirt.qemu_conf());
        let fits = |state: &DatedState| {
            let note = &state.note;
            (note.tpm_version, note.backend) == (vtpm.version, place.backend())
        };
        let states = states.into_iter().filter(fits);
        let copies = states.map(|state| {
            let about = (vtpm.version, state.at);
            let mut copy = SavedCopy::of_fleet(state.data, &domain.name, about, &place, owner);
            let store = self.store.as_ref();
            let has_started =
                store.is_some_and(|store| store.has_started_since(domain.uuid, state.at));
            copy.is_followed = !state.is_dated
                || has_started
                || store.is_some_and(|store| store.has_run_noted_since(domain.uuid, state.at))
                || believed.has_run_since(state.at);
            let content = copy.state();
            (copy, content)
        });
        let copies = copies.filter(|(_, state)| matches!(state, StateFile::Encrypted(_)));
        copies.collect()
    }
}

/// A TPM state of the shared store.
pub struct FleetCopy {
    /// Its identity there.
    pub id: FactId,
    /// The state, as a copy that this host could have saved.
    pub copy: SavedCopy,
    /// Whether a key of the guest opens it.
    pub is_opened: bool,
    /// Where none does: why one could not be tried.
    pub untried: Option<NotOpened>,
}

/// Why it is not known which TPM states of a guest the shared store has.
#[derive(Debug, thiserror::Error)]
pub enum StatesUnknown {
    /// It did not answer: why.
    #[error("the fleet's store did not answer: {0}")]
    Silent(String),
    /// The store of this host, without which none of them is believed, cannot be read.
    #[error("the store cannot be read")]
    Access(StoreAccessError),
}

/// Asks the shared store for the TPM states of a guest, for a person who chooses one.
pub fn states_in_fleet(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<Vec<FleetCopy>, StatesUnknown> {
    let found = guard.line.ask(guard, domain.uuid, deadline);
    let mut found = found.map_err(StatesUnknown::Silent)?;
    let older = line::older_states(guard, domain.uuid, &found.states, deadline);
    found.states.extend(older.map_err(StatesUnknown::Silent)?);
    let mut gathered = gather(guard, Ok(domain.clone()), Access::Read, deadline);
    let references = gathered.facts.references.clone();
    let references = references.map_err(StatesUnknown::Access)?;
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(Vec::new());
    };
    let store = gathered.store.as_ref();
    let mut believed = Believed::of(
        found,
        domain,
        &references,
        store,
        &mut gathered.keys,
        deadline,
    );
    let mut travelling = gathered.facts.travelling.clone();
    for key in &believed.keys {
        travelling.add_of_fleet(key, domain, &references, Timestamp::now());
    }
    let states = std::mem::take(&mut believed.states);
    let copies = gathered.copies_of_fleet(guard, domain, vtpm, &believed, states);
    let copies = copies.into_iter().map(|(copy, state)| {
        let against = (domain.uuid, &state, deadline);
        let (trials, is_opened) =
            try_against(&mut gathered.keys, &references, &travelling, against);
        let untried = trials.values().find_map(Trial::untried);
        FleetCopy {
            id: copy.id_in_fleet(domain.uuid),
            copy,
            is_opened,
            untried: untried.filter(|_| !is_opened).cloned(),
        }
    });
    Ok(copies.collect())
}

/// What other hosts have said of where the guest is.
fn said_of_others(store: &Store, domain: DomainUuid) -> Vec<PlacementClaim> {
    let known = store.placements(domain).unwrap_or_else(|error| {
        tracing::warn!(%domain, %error, "where other hosts have run the guest cannot be read");
        Vec::new()
    });
    let others = known.into_iter().filter(|it| !it.is_own);
    others.map(|it| it.placement).collect()
}

/// The host that says that the guest runs there, of several the last one, unless the guest has begun a run here since.
fn runs_on(store: &Store, domain: DomainUuid, others: &[PlacementClaim]) -> Option<RunsOn> {
    let has_stopped = |claim: &PlacementClaim| {
        let mut same = others.iter().filter(|it| it.host == claim.host);
        same.any(|it| it.at > claim.at)
    };
    let running = others
        .iter()
        .filter(|claim| claim.running && !has_stopped(claim));
    let newest = running.max_by_key(|claim| claim.at)?;
    let since = Timestamp(newest.at);
    (!store.has_own_run_since(domain, since)).then(|| RunsOn {
        host: newest.host_name.clone(),
        since,
    })
}
