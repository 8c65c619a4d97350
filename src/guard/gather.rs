//! Gathers the facts of one start: TPM state, rows, and what trying each key gave.

use std::collections::BTreeMap;

use super::keys::Keys;
use super::{Guard, copies};
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator, Vtpm};
use crate::ids::DomainUuid;
use crate::kept::KeptState;
use crate::key::id::KeyId;
use crate::store::{Access, Store, StoreError};
use crate::swtpm::{StateFile, read_state};
use crate::verdict::facts::{Facts, KekState, Kept, KeptCopy, KeyRef, References, TpmState, Trial};

/// The facts, and what was opened on the way to them.
pub(super) struct Gathered {
    pub(super) facts: Facts,
    pub(super) keys: Keys,
    /// The store that the rows came from; `None` where there is none, or it is unusable.
    pub(super) store: Option<Store>,
    /// The copy of `facts.kept`.
    pub(super) copy: Option<KeptState>,
}

impl Guard {
    /// The state of this domain's TPM; of one that is not emulated, `Absent`.
    #[must_use]
    pub fn tpm_state(&self, domain: &Domain) -> TpmState {
        match &domain.vtpm {
            Some(Vtpm::Emulator(vtpm)) => {
                read_state(&self.libvirt_state_dir, domain.uuid, vtpm).summary()
            }
            _ => TpmState::Absent,
        }
    }
}

/// Gathers what the verdict on this domain depends on, and no more: for a domain without an
/// emulated TPM nothing is read.
pub(super) fn gather(
    guard: &Guard,
    domain: Result<Domain, String>,
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
            kept: Kept::default(),
            host_secret: None,
            elsewhere: None,
            policy: guard.config.policy.clone(),
        },
        keys: Keys::of(guard),
        store: None,
        copy: None,
    };
    let Ok(domain) = &gathered.facts.domain else {
        return gathered;
    };
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return gathered;
    };
    let uuid = domain.uuid;
    let state = read_state(&guard.libvirt_state_dir, uuid, vtpm);
    let (copies, ended_normally) = match state {
        StateFile::Absent => copies::standing_by(guard, domain, vtpm),
        _ => (Vec::new(), false),
    };
    let needs_rows = needs_rows(vtpm, &state) || !copies.is_empty();
    gathered.facts.state = state.summary();
    gathered.facts.kept.ended_normally = ended_normally;
    if needs_rows {
        gathered.read_rows(guard, uuid, access, deadline);
        gathered.try_keys(uuid, &state, deadline);
        gathered.try_copies(uuid, copies, deadline);
    }
    gathered
}

/// An unencrypted vTPM has no rows; but encrypted state under it is no contradiction while
/// other state is on its way, and only the store knows that.
fn needs_rows(vtpm: &Emulator, state: &StateFile) -> bool {
    vtpm.secret_uuid.is_some() || matches!(state, StateFile::Encrypted(_))
}

impl StateFile {
    /// The fact that the core needs to know of it.
    pub(super) fn summary(&self) -> TpmState {
        match self {
            Self::Absent => TpmState::Absent,
            Self::Plain => TpmState::Plain,
            Self::Encrypted(_) => TpmState::Encrypted,
            Self::Unreadable(how) => TpmState::Unreadable(how.clone()),
        }
    }
}

impl Gathered {
    fn read_rows(&mut self, guard: &Guard, domain: DomainUuid, access: Access, deadline: Deadline) {
        let opened = match guard.open_store(access, deadline) {
            // A store on a read-only file system can still say which key it is.
            Err(StoreError::Unavailable { .. }) if access != Access::Read => {
                guard.open_store(Access::Read, deadline)
            }
            opened => opened,
        };
        match opened {
            Ok(Some(store)) => {
                let rows = store.references(domain, Timestamp::now());
                self.facts.references = rows.map_err(|error| error.trouble());
                self.store = Some(store);
            }
            Ok(None) => {}
            Err(error) => self.facts.references = Err(error.trouble()),
        }
    }

    fn try_keys(&mut self, domain: DomainUuid, state: &StateFile, deadline: Deadline) {
        let Self { facts, keys, .. } = self;
        let Ok(references) = &facts.references else {
            return;
        };
        facts.trials = keys.try_rows(references, domain, state, deadline);
        if facts.trials.is_empty() && facts.state == TpmState::Absent {
            for key_id in keks_for_a_new_key(references, facts.policy.auto_bind.as_deref()) {
                let tried = match keys.open_kek(key_id, deadline) {
                    Ok(_) => KekState::Opens,
                    Err(reason) => KekState::Sealed(reason),
                };
                facts.keks.insert(key_id, tried);
            }
        }
    }

    /// Chooses the copy that a key opens, of several the latest, and else the latest; and proves
    /// the keys against it, if it takes the place of the state.
    fn try_copies(
        &mut self,
        domain: DomainUuid,
        copies: Vec<(KeptState, StateFile)>,
        deadline: Deadline,
    ) {
        let Self { facts, keys, .. } = self;
        let mut chosen = None;
        for (copy, state) in copies {
            let trials = match &facts.references {
                Ok(references) => keys.try_rows(references, domain, &state, deadline),
                Err(_) => BTreeMap::new(),
            };
            let is_proven = trials.values().any(Trial::is_proven);
            if chosen.is_none() || is_proven {
                chosen = Some((copy, state, trials));
            }
            if is_proven {
                break;
            }
        }
        let Some((copy, state, trials)) = chosen else {
            return;
        };
        facts.kept.copy = Some(KeptCopy {
            occasion: copy.manifest.occasion,
            kept_at: copy.manifest.kept_at(),
            is_encrypted: matches!(state, StateFile::Encrypted(_)),
        });
        self.copy = Some(copy);
        if facts.copy_in_place().is_some() {
            facts.trials = trials;
        }
    }
}

/// The KEKs that may have to wrap a new key: those of the providers that the placeholders,
/// or without any row `policy.auto_bind`, name.
fn keks_for_a_new_key(references: &References, auto_bind: Option<&str>) -> Vec<KeyId> {
    let names_it = |row: &KeyRef, uuid, name: &str| {
        row.provider_uuid == Some(uuid) || row.provider_name == name
    };
    let is_named = |uuid, name: &str| {
        let rows = &references.key_refs;
        rows.iter().any(|row| names_it(row, uuid, name))
            || (rows.is_empty() && auto_bind == Some(name))
    };
    let providers = references.providers.iter();
    providers
        .filter(|p| is_named(p.uuid, &p.name))
        .map(|p| p.key_id)
        .collect()
}
