//! Gathers the facts of one start: TPM state, rows, and what trying each key gave.

use std::collections::BTreeMap;

use super::Guard;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator, Vtpm};
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::keyring::Keyring;
use crate::key::wrap::WrappedDek;
use crate::store::{Access, Store, StoreError};
use crate::swtpm::{StateFile, read_state};
use crate::verdict::facts::{
    DekNumber, Facts, KekState, KeyRef, NotOpened, Proof, References, TpmState, Trial,
};

/// The facts, and what was opened on the way to them.
pub(super) struct Gathered {
    pub(super) facts: Facts,
    pub(super) keys: Keys,
    /// The store that the rows came from; `None` where there is none, or it is unusable.
    pub(super) store: Option<Store>,
}

/// The opened keys of one start.
#[derive(Default)]
pub(super) struct Keys {
    /// The different DEKs; a [`DekNumber`] is an index here.
    deks: Vec<Dek>,
    keks: BTreeMap<KeyId, Result<Kek, String>>,
}

impl Keys {
    pub(super) fn dek(&self, number: DekNumber) -> Option<&Dek> {
        self.deks.get(number.0)
    }

    pub(super) fn kek(&self, key_id: KeyId) -> Option<&Kek> {
        self.keks.get(&key_id)?.as_ref().ok()
    }

    fn open_kek(
        &mut self,
        keyring: &Keyring,
        key_id: KeyId,
        deadline: Deadline,
    ) -> Result<&Kek, &String> {
        let opened = || {
            keyring
                .open(key_id, deadline)
                .map_err(|error| error.to_string())
        };
        self.keks.entry(key_id).or_insert_with(opened).as_ref()
    }

    /// The number of this DEK among those of the domain.
    fn number(&mut self, dek: Dek) -> DekNumber {
        let known = self.deks.iter().position(|other| other.same_as(&dek));
        DekNumber(known.unwrap_or_else(|| {
            self.deks.push(dek);
            self.deks.len() - 1
        }))
    }

    /// Tries the wrapped DEK of each row, and proves against the state what opens.
    fn try_rows(
        &mut self,
        keyring: &Keyring,
        references: &References,
        domain: DomainUuid,
        state: &StateFile,
        deadline: Deadline,
    ) -> BTreeMap<KeyRefId, Trial> {
        let mut trials = BTreeMap::new();
        let mut proofs = BTreeMap::new();
        for row in &references.key_refs {
            let Some(wrapped) = &row.wrapped_dek else {
                continue;
            };
            let trial = match open(self, keyring, references, wrapped, domain, deadline) {
                Ok((key_id, dek)) => {
                    let number = self.number(dek);
                    let proof = *proofs
                        .entry(number)
                        .or_insert_with(|| prove(self, number, state));
                    Trial::Opened {
                        key_id,
                        dek: number,
                        proof,
                    }
                }
                Err(why) => Trial::NotOpened(why),
            };
            trials.insert(row.id, trial);
        }
        trials
    }
}

/// Tries rows as a start would, for who only wants to know what they open.
#[must_use]
pub fn try_rows(
    keyring: &Keyring,
    references: &References,
    domain: DomainUuid,
    state: &StateFile,
    deadline: Deadline,
) -> BTreeMap<KeyRefId, Trial> {
    Keys::default().try_rows(keyring, references, domain, state, deadline)
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
            host_secret: None,
            policy: guard.config.policy.clone(),
        },
        keys: Keys::default(),
        store: None,
    };
    let Ok(Domain {
        uuid,
        vtpm: Some(Vtpm::Emulator(vtpm)),
        ..
    }) = &gathered.facts.domain
    else {
        return gathered;
    };
    let (uuid, vtpm) = (*uuid, vtpm.clone());
    let state = read_state(&guard.libvirt_state_dir, uuid, &vtpm);
    gathered.facts.state = state.summary();
    if needs_rows(&vtpm, &state) {
        gathered.read_rows(guard, uuid, access, deadline);
        gathered.try_keys(&guard.keyring(), uuid, &state, deadline);
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

    fn try_keys(
        &mut self,
        keyring: &Keyring,
        domain: DomainUuid,
        state: &StateFile,
        deadline: Deadline,
    ) {
        let Self { facts, keys, .. } = self;
        let Ok(references) = &facts.references else {
            return;
        };
        facts.trials = keys.try_rows(keyring, references, domain, state, deadline);
        if facts.trials.is_empty() && facts.state == TpmState::Absent {
            for key_id in keks_for_a_new_key(references, facts.policy.auto_bind.as_deref()) {
                let tried = match keys.open_kek(keyring, key_id, deadline) {
                    Ok(_) => KekState::Opens,
                    Err(reason) => KekState::Sealed(reason.clone()),
                };
                facts.keks.insert(key_id, tried);
            }
        }
    }
}

/// Opens one wrapped DEK with the KEK that its header names: no other KEK could.
fn open(
    keys: &mut Keys,
    keyring: &Keyring,
    references: &References,
    wrapped: &WrappedDek,
    domain: DomainUuid,
    deadline: Deadline,
) -> Result<(KeyId, Dek), NotOpened> {
    let corrupt = |reason: String| NotOpened::Corrupt { reason };
    let key_id = wrapped
        .key_id()
        .map_err(|error| corrupt(error.to_string()))?;
    if !references
        .providers
        .iter()
        .any(|provider| provider.key_id == key_id)
    {
        return Err(NotOpened::NoProvider { key_id });
    }
    let kek = keys
        .open_kek(keyring, key_id, deadline)
        .map_err(|reason| NotOpened::Sealed {
            key_id,
            reason: reason.clone(),
        })?;
    match wrapped.unwrap(kek, domain) {
        Ok(Some(dek)) => Ok((key_id, dek)),
        Ok(None) => Err(NotOpened::NoProvider { key_id }),
        Err(error) => Err(corrupt(error.to_string())),
    }
}

fn prove(keys: &Keys, number: DekNumber, state: &StateFile) -> Proof {
    match (state, keys.dek(number)) {
        (StateFile::Encrypted(state), Some(dek)) if state.is_opened_by(dek) => Proof::Proven,
        (StateFile::Encrypted(_), _) => Proof::Refuted,
        _ => Proof::None,
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
