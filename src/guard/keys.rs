//! The keys that are opened to judge a start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::context::Guard;
use super::deadlines::before_the_answer;
use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::wrap::WrappedDek;
use crate::keyring::unlock::Unlocker;
use crate::keyring::{Keyring, KeyringError};
use crate::swtpm::{EncryptedState, StateFile};
use crate::verdict::facts::{
    DekNumber, KekState, KeyRef, NotOpened, Proof, Provider, References, Trial,
};

/// The opened keys of one start.
pub(super) struct Keys {
    /// The different DEKs; a [`DekNumber`] is an index here.
    deks: Vec<Dek>,
    unlocker: Unlocker,
    /// How long a start waits for a KEK, however long its caller may wait: a check foresees what the
    /// hook finds.
    longest: Option<Duration>,
    /// How long a KEK may be used after a key manager has opened it, in milliseconds.
    max_age: Option<i64>,
}

impl Keys {
    /// No keys yet. KEKs that this guard has unsealed are not unsealed again.
    pub(super) fn of(guard: &Guard) -> Self {
        Self {
            longest: Some(guard.config.hook_deadline),
            max_age: guard.config.kek_max_age_ms(),
            ..Self::with(guard.unlocker())
        }
    }

    /// The same for what decides about saved copies: a key that may not be used for a start still tells which of them
    /// it opens.
    pub(super) fn of_any_age(guard: &Guard) -> Self {
        Self {
            max_age: None,
            ..Self::of(guard)
        }
    }

    fn with(unlocker: Unlocker) -> Self {
        Self {
            deks: Vec::new(),
            unlocker,
            longest: None,
            max_age: None,
        }
    }

    /// The deadline for a KEK: early enough that a refusal can still be reported.
    fn for_kek(&self, deadline: Deadline) -> Deadline {
        let deadline = self
            .longest
            .map_or(deadline, |longest| deadline.at_most(longest));
        before_the_answer(deadline)
    }

    /// Whether a key manager has opened this KEK longer ago than `provider.max_age`.
    fn has_expired(&self, key_id: KeyId, providers: &[Provider]) -> bool {
        let mut holders = providers.iter().filter(|it| it.key_id == key_id);
        let is_older = |max_age| holders.any(|it| it.kms.is_older_than(max_age, Timestamp::now()));
        self.max_age.is_some_and(is_older)
    }

    pub(super) fn dek(&self, number: DekNumber) -> Option<&Dek> {
        self.deks.get(number.0)
    }

    pub(super) fn unlocker(&mut self) -> &mut Unlocker {
        &mut self.unlocker
    }

    /// A KEK, if it opens early enough before the deadline.
    pub(super) fn kek(&mut self, key_id: KeyId, deadline: Deadline) -> Option<Arc<Kek>> {
        let deadline = self.for_kek(deadline);
        self.unlocker.kek(key_id, deadline).ok()
    }

    /// Returns whether a KEK opens, early enough before the deadline that a refusal can still
    /// be reported.
    pub(super) fn try_kek(
        &mut self,
        key_id: KeyId,
        providers: &[Provider],
        deadline: Deadline,
    ) -> KekState {
        let deadline = self.for_kek(deadline);
        match self.unlocker.kek(key_id, deadline) {
            Ok(_) if self.has_expired(key_id, providers) => KekState::Expired,
            Ok(_) => KekState::Opens,
            Err(error) => match &*error {
                KeyringError::TimedOut => KekState::TimedOut,
                KeyringError::Missing(_) => KekState::NotHere,
                error => KekState::Sealed(error.to_string()),
            },
        }
    }

    /// Returns the number of this DEK among those of the guest.
    pub(super) fn number(&mut self, dek: Dek) -> DekNumber {
        let known = self.deks.iter().position(|other| other.same_as(&dek));
        DekNumber(known.unwrap_or_else(|| {
            self.deks.push(dek);
            self.deks.len() - 1
        }))
    }

    /// Tries the wrapped DEK of each of these rows, and proves each opened DEK against the state.
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

    /// Opens one wrapped DEK with the KEK of one of these providers.
    fn open(
        &mut self,
        providers: &[Provider],
        wrapped: &WrappedDek,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<(KeyId, Dek), NotOpened> {
        let key_id = wrapped.key_id()?;
        if !providers.iter().any(|provider| provider.key_id == key_id) {
            return Err(NotOpened::NoProvider { key_id });
        }
        let deadline = self.for_kek(deadline);
        let dek = self.unlocker.open(wrapped, domain, deadline)?;
        if self.has_expired(key_id, providers) {
            return Err(NotOpened::Expired { key_id });
        }
        Ok((key_id, dek))
    }

    /// Returns whether another guest's wrapped DEK opens this state.
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

/// Tries rows as a start would, for read-only callers.
#[must_use]
pub fn try_rows(
    keyring: &Keyring,
    references: &References,
    domain: DomainUuid,
    state: &StateFile,
    deadline: Deadline,
) -> BTreeMap<KeyRefId, Trial> {
    let mut keys = Keys::with(Unlocker::new(keyring));
    keys.try_rows(
        &references.key_refs,
        &references.providers,
        domain,
        state,
        deadline,
    )
}
