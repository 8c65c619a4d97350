//! Gathers the facts of one start: TPM state, rows, and what trying each key gave.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::Keys;
use super::status::is_running;
use super::{Guard, arriving, before_the_answer, copies, hindrance};
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator, UnreadableDomain, Vtpm};
use crate::ids::{DomainUuid, SecretUuid};
use crate::kept::KeptState;
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::secret::{Found, Purpose, Value};
use crate::store::{Access, Store, StoreError};
use crate::swtpm::{StateFile, read_state};
use crate::verdict::facts::{
    Facts, ForeignSecret, HostSecret, HostValue, KekState, Kept, KeptCopy, KeyRef, Provider,
    References, TpmState, Trial,
};

/// The facts, and what was opened on the way to them.
pub(super) struct Gathered {
    pub(super) facts: Facts,
    pub(super) keys: Keys,
    /// The store that the rows came from; `None` where there is none, or it is unusable.
    pub(super) store: Option<Store>,
    /// The copy of `facts.kept`.
    pub(super) copy: Option<KeptState>,
    /// The state that keys are proven against: the TPM's, or the copy that takes its place.
    state: StateFile,
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
            hindrance: None,
            kept: Kept::default(),
            arrival: None,
            snapshots: Vec::new(),
            host_secret: None,
            retired: BTreeMap::new(),
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
    let state = read_state(&guard.libvirt_state_dir, uuid, vtpm);
    let (copies, ended_normally) = match state {
        StateFile::Absent | StateFile::Damaged(_) => copies::standing_by(guard, domain, vtpm),
        _ => (Vec::new(), false),
    };
    let needs_rows = needs_rows(vtpm, &state) || !copies.is_empty();
    gathered.facts.state = state.summary();
    gathered.state = state;
    gathered.facts.kept.ended_normally = ended_normally;
    if gathered.facts.state == TpmState::Absent {
        gathered.facts.snapshots = arriving::snapshots(guard, domain);
    }
    if needs_rows {
        gathered.read_rows(guard, uuid, access, deadline);
        gathered.look_for_arrival(guard);
        gathered.try_keys(uuid, deadline);
        gathered.try_copies(uuid, copies, deadline);
        if !gathered.facts.trials.values().any(Trial::is_proven) {
            gathered.try_retired(uuid, deadline);
        }
    }
    gathered.look_for_hindrance(guard, vtpm, access, deadline);
    gathered
}

/// An unencrypted vTPM has no rows; but encrypted state under it is no contradiction while
/// other state is on its way, and only the store knows that.
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
            Self::Damaged(how) => TpmState::Damaged(how.clone()),
            Self::Unreadable(how) => TpmState::Unreadable(how.clone()),
        }
    }
}

impl Gathered {
    /// A start that the guard judges is hindered; of a guest whose vTPM is not encrypted, which is
    /// libvirt's affair, only who asks is told.
    fn look_for_hindrance(
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
        let arrives = facts
            .references
            .as_ref()
            .is_ok_and(|found| found.state_arrives);
        let waits = !is_asked && !arrives;
        let longest = if waits {
            hindrance::FOR_THE_LOCK
        } else {
            Duration::ZERO
        };
        let patience = deadline.at_most(longest.min(deadline.remaining() / 2));
        facts.hindrance = hindrance::look(guard, domain, vtpm, patience);
    }

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

    /// Whether what was announced is for this start; and what is on its way unannounced.
    fn look_for_arrival(&mut self, guard: &Guard) {
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
        *arrival = arriving::arrival(guard, domain, announced, snapshots);
        references.state_arrives = arrival.is_some();
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
                let tried = match keys.open_kek(key_id, deadline) {
                    Ok(_) => KekState::Opens,
                    Err(why) => why,
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
        let mut is_proven = false;
        for (copy, state) in copies {
            let trials = match &facts.references {
                Ok(References {
                    key_refs,
                    providers,
                    ..
                }) => keys.try_rows(key_refs, providers, domain, &state, deadline),
                Err(_) => BTreeMap::new(),
            };
            is_proven = trials.values().any(Trial::is_proven);
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
            is_proven,
        });
        self.copy = Some(copy);
        if facts.copy_in_place().is_some() {
            facts.trials = trials;
            self.state = state;
        }
    }

    /// Tries the retired rows: they may hold the key of a state that has come back.
    fn try_retired(&mut self, domain: DomainUuid, deadline: Deadline) {
        let Self {
            facts, keys, state, ..
        } = self;
        if let Ok(References {
            retired, providers, ..
        }) = &facts.references
        {
            facts.retired = keys.try_rows(retired, providers, domain, state, deadline);
        }
    }

    /// The value of libvirt's own secret, if it is known.
    pub(super) fn host_value(&self) -> Option<Dek> {
        match &self.facts.host_secret {
            Some(HostSecret::Foreign(ForeignSecret {
                value: HostValue::Known { dek, .. },
                ..
            })) => self.keys.dek(*dek).map(Dek::copy),
            _ => None,
        }
    }

    /// Asks libvirt for its secret of the UUID that the domain XML names, and its own files for
    /// other guests that name it.
    ///
    /// `foresees` is for a look at a start that nobody makes now: a guest whose client brings its
    /// key at each start is seen as with that key.
    pub(super) fn ask_host_secret(&mut self, guard: &Guard, foresees: bool, deadline: Deadline) {
        let (Some(secrets), Some((secret, domain))) = (&guard.secrets, self.facts.secret()) else {
            self.facts.host_secret = Some(HostSecret::Absent);
            return;
        };
        let domain = domain.uuid;
        let answer = match secrets.inspect(secret, before_the_answer(deadline)) {
            Ok(None) if foresees && self.is_started_by_a_client(guard) => {
                HostSecret::Foreign(ForeignSecret {
                    is_ephemeral: true,
                    is_private: true,
                    serves_anything: false,
                    value: HostValue::Hidden,
                    named_by: Vec::new(),
                })
            }
            Ok(None) => HostSecret::Absent,
            Ok(Some(found)) => self.understand(guard, secret, domain, found, deadline),
            Err(error) => HostSecret::Unreachable(error.to_string()),
        };
        self.facts.host_secret = Some(answer);
    }

    /// Whether whoever starts the guest brings its key: its last start says so, or that it runs
    /// and neither the guard nor libvirt has a key.
    fn is_started_by_a_client(&self, guard: &Guard) -> bool {
        let (Ok(domain), Ok(references)) = (&self.facts.domain, &self.facts.references) else {
            return false;
        };
        references.clients_key || references.key_refs.is_empty() && is_running(guard, domain)
    }

    fn understand(
        &mut self,
        guard: &Guard,
        secret: SecretUuid,
        domain: DomainUuid,
        found: Found,
        deadline: Deadline,
    ) -> HostSecret {
        let Found { definition, value } = found;
        if definition.purpose == Purpose::Other {
            let usage = definition.usage;
            return HostSecret::Conflict(format!(
                "it is not one for a vTPM; its usage is \"{usage}\""
            ));
        }
        if let Some(other) = definition.guards_domain() {
            return HostSecret::Guards(other);
        }
        let value = match value {
            Value::None => HostValue::None,
            // No byte is a value to libvirt.
            Value::Told(dek) if dek.expose().is_empty() => HostValue::None,
            Value::Told(dek) => {
                let dek = self.keys.number(dek);
                let proof = self.keys.prove(dek, &self.state);
                HostValue::Known { dek, proof }
            }
            Value::Private => HostValue::Hidden,
        };
        let mut named_by = Vec::new();
        if !self.is_settled(value) {
            self.try_retired(domain, deadline);
            named_by = self.guests_with_another_key(guard, secret, domain, deadline);
        }
        HostSecret::Foreign(ForeignSecret {
            is_ephemeral: definition.is_ephemeral,
            is_private: definition.is_private,
            serves_anything: definition.purpose == Purpose::Anything,
            value,
            named_by,
        })
    }

    /// Whether it does not matter who else names the secret: nothing of it will be replaced.
    fn is_settled(&self, value: HostValue) -> bool {
        let has_rows = (self.facts.references.as_ref())
            .is_ok_and(|references| !references.key_refs.is_empty());
        let is_held = |trial: &Trial| match (trial, value) {
            (Trial::Opened { dek, .. }, HostValue::Known { dek: known, .. }) => *dek == known,
            _ => false,
        };
        value == HostValue::None || !has_rows || self.facts.trials.values().any(is_held)
    }

    /// The other guests that name this secret, by name, without those that are known to have a
    /// key of this guest: they share it on purpose.
    fn guests_with_another_key(
        &mut self,
        guard: &Guard,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Vec<String> {
        let mut others = guard.definition_files().naming(secret);
        others.retain(|other| other.uuid != domain);
        others.retain(|other| !self.shares_a_key_with(other.uuid, deadline));
        others.into_iter().map(|other| other.name).collect()
    }

    fn shares_a_key_with(&mut self, other: DomainUuid, deadline: Deadline) -> bool {
        let Self {
            facts, keys, store, ..
        } = self;
        let rows = store
            .as_ref()
            .map(|store| store.references(other, Timestamp::now()));
        let Some(Ok(References {
            key_refs,
            providers,
            ..
        })) = rows
        else {
            return false;
        };
        let dek = |trial: &Trial| match trial {
            Trial::Opened { dek, .. } => Some(*dek),
            Trial::NotOpened(_) => None,
        };
        let ours: Vec<_> = facts.trials.values().filter_map(dek).collect();
        let theirs = keys.try_rows(&key_refs, &providers, other, &StateFile::Absent, deadline);
        let mut theirs = theirs.values().filter_map(dek);
        theirs.any(|dek| ours.contains(&dek))
    }
}

/// The KEKs that may have to wrap a new key: those of the providers that the placeholders,
/// or without any row `policy.auto_bind`, name.
fn keks_for_a_new_key(
    rows: &[KeyRef],
    providers: &[Provider],
    auto_bind: Option<&str>,
) -> Vec<KeyId> {
    let names_it = |row: &KeyRef, uuid, name: &str| {
        row.provider_uuid == Some(uuid) || row.provider_name == name
    };
    let is_named = |uuid, name: &str| {
        rows.iter().any(|row| names_it(row, uuid, name))
            || (rows.is_empty() && auto_bind == Some(name))
    };
    providers
        .iter()
        .filter(|p| is_named(p.uuid, &p.name))
        .map(|p| p.key_id)
        .collect()
}
