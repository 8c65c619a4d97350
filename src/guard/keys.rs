//! The keys that judging a start opens.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Guard, before_the_answer};
use crate::clock::Deadline;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::wrap::WrappedDek;
use crate::keyring::{Keyring, KeyringError};
use crate::swtpm::{EncryptedState, StateFile};
use crate::verdict::facts::{
    DekNumber, KekState, KeyRef, NotOpened, Proof, Provider, References, Trial,
};

/// The KEKs that were opened, for all the guests that one guard judges: systemd takes longer to
/// open one than all the rest of a verdict. They are wiped with the guard.
#[derive(Default, Clone)]
pub(super) struct OpenedKeks(Rc<RefCell<BTreeMap<KeyId, Rc<Kek>>>>);

/// The opened keys of one start.
pub(super) struct Keys {
    /// The different DEKs; a [`DekNumber`] is an index here.
    deks: Vec<Dek>,
    keks: OpenedKeks,
    /// Why a KEK does not open. Not for longer than one start: the next may come in time.
    sealed: BTreeMap<KeyId, KekState>,
    keyring: Keyring,
}

impl Keys {
    /// None yet, but for the KEKs that this guard has opened already.
    pub(super) fn of(guard: &Guard) -> Self {
        Self::with(guard.keyring(), guard.opened_keks.clone())
    }

    fn with(keyring: Keyring, keks: OpenedKeks) -> Self {
        Self {
            deks: Vec::new(),
            keks,
            sealed: BTreeMap::new(),
            keyring,
        }
    }

    pub(super) fn dek(&self, number: DekNumber) -> Option<&Dek> {
        self.deks.get(number.0)
    }

    /// A KEK that was opened.
    pub(super) fn kek(&self, key_id: KeyId) -> Option<Rc<Kek>> {
        self.keks.0.borrow().get(&key_id).cloned()
    }

    /// Opens a KEK, early enough before the deadline that a refusal can still be told; why it
    /// does not open (never `Opens`) is asked once.
    pub(super) fn open_kek(
        &mut self,
        key_id: KeyId,
        deadline: Deadline,
    ) -> Result<Rc<Kek>, KekState> {
        if let Some(kek) = self.kek(key_id) {
            return Ok(kek);
        }
        if let Some(why) = self.sealed.get(&key_id) {
            return Err(why.clone());
        }
        match self.keyring.open(key_id, before_the_answer(deadline)) {
            Ok(kek) => {
                let kek = Rc::new(kek);
                self.keks.0.borrow_mut().insert(key_id, Rc::clone(&kek));
                Ok(kek)
            }
            Err(error) => {
                let why = match error {
                    KeyringError::TimedOut => KekState::TimedOut,
                    error => KekState::Sealed(error.to_string()),
                };
                self.sealed.insert(key_id, why.clone());
                Err(why)
            }
        }
    }

    /// The number of this DEK among those of the domain.
    pub(super) fn number(&mut self, dek: Dek) -> DekNumber {
        let known = self.deks.iter().position(|other| other.same_as(&dek));
        DekNumber(known.unwrap_or_else(|| {
            self.deks.push(dek);
            self.deks.len() - 1
        }))
    }

    /// Tries the wrapped DEK of each of these rows, and proves against the state what opens.
    pub(super) fn try_rows(
        &mut self,
        rows: &[KeyRef],
        providers: &[Provider],
        domain: DomainUuid,
        state: &StateFile,
        deadline: Deadline,
    ) -> BTreeMap<KeyRefId, Trial> {
        let mut trials = BTreeMap::new();
        let mut proofs = BTreeMap::new();
        for row in rows {
            let Some(wrapped) = &row.wrapped_dek else {
                continue;
            };
            let trial = match self.open(providers, wrapped, domain, deadline) {
                Ok((key_id, dek)) => {
                    let number = self.number(dek);
                    let proof = *proofs
                        .entry(number)
                        .or_insert_with(|| self.prove(number, state));
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

    /// Opens one wrapped DEK with the KEK that its header names: no other KEK could.
    fn open(
        &mut self,
        providers: &[Provider],
        wrapped: &WrappedDek,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<(KeyId, Dek), NotOpened> {
        let corrupt = |reason: String| NotOpened::Corrupt { reason };
        let key_id = wrapped
            .key_id()
            .map_err(|error| corrupt(error.to_string()))?;
        if !providers.iter().any(|provider| provider.key_id == key_id) {
            return Err(NotOpened::NoProvider { key_id });
        }
        let kek = self.open_kek(key_id, deadline).map_err(|why| match why {
            KekState::Sealed(reason) => NotOpened::Sealed { key_id, reason },
            KekState::TimedOut | KekState::Opens => NotOpened::TimedOut { key_id },
        })?;
        match wrapped.unwrap(&kek, domain) {
            Ok(Some(dek)) => Ok((key_id, dek)),
            Ok(None) => Err(NotOpened::NoProvider { key_id }),
            Err(error) => Err(corrupt(error.to_string())),
        }
    }

    /// Whether another domain's wrapped DEK opens this state.
    pub(super) fn opens_state(
        &mut self,
        providers: &[Provider],
        wrapped: &WrappedDek,
        domain: DomainUuid,
        state: &EncryptedState,
        deadline: Deadline,
    ) -> bool {
        let opened = self.open(providers, wrapped, domain, deadline);
        opened.is_ok_and(|(_, dek)| state.is_opened_by(&dek))
    }

    pub(super) fn prove(&self, number: DekNumber, state: &StateFile) -> Proof {
        match (state, self.dek(number)) {
            (StateFile::Encrypted(state), Some(dek)) if state.is_opened_by(dek) => Proof::Proven,
            (StateFile::Encrypted(_), _) => Proof::Refuted,
            _ => Proof::None,
        }
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
    let mut keys = Keys::with(keyring.clone(), OpenedKeks::default());
    keys.try_rows(
        &references.key_refs,
        &references.providers,
        domain,
        state,
        deadline,
    )
}
