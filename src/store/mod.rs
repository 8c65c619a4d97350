//! The store: one SQLite file, `store.db`, in the state directory.

use std::path::Path;

use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::verdict::code::Code;
use crate::verdict::facts::{Provider, References};
use crate::verdict::repair::Repair;

/// What a caller is going to do with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read. The store is neither made nor migrated: an older schema is read as it is.
    Read,
    /// Read and write; a missing store is an error, an older schema is migrated.
    Write,
    /// As `Write`, and a missing store is made.
    Create,
}

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no database yet.
    #[error("there is no store yet")]
    Missing,
    /// Locked past the deadline, not readable, not writable, not root's.
    #[error("{path}: {reason}")]
    Unavailable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Something changed between the read that a verdict rests on and its repairs.
    #[error("the rows changed meanwhile")]
    Changed,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    _connection: rusqlite::Connection,
}

/// A new key for `Repair::CreateKey`: what goes into the row.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The wrapped DEK.
    pub wrapped_dek: WrappedDek,
    /// The KEK that wrapped it.
    pub key_id: KeyId,
    /// The version of the provider's KEK.
    pub key_version: i64,
}

/// One decision, for `history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The domain.
    pub domain_uuid: DomainUuid,
    /// Its name.
    pub domain_name: String,
    /// The hook's operation, or the administrator's verb.
    pub operation: String,
    /// Whether the start was allowed.
    pub allowed: bool,
    /// The code of a refusal.
    pub code: Option<Code>,
    /// The sentence.
    pub message: String,
    /// The repairs as a JSON list.
    pub repairs_json: String,
}

/// A verdict's changes, applied together or not at all.
#[derive(Debug)]
pub struct Change<'a> {
    /// The domain.
    pub domain: DomainUuid,
    /// What the verdict saw; if the store differs by now, nothing is changed.
    pub seen: &'a References,
    /// The repairs, in order.
    pub repairs: &'a [Repair],
    /// The key of a `CreateKey` among them.
    pub new_key: Option<&'a NewKey>,
    /// The secret that the domain XML names, for rows that the repairs make.
    pub secret_uuid: Option<SecretUuid>,
    /// The event to record with them.
    pub event: Option<&'a Event>,
    /// The time that goes into `created_at`, `updated_at`, `retired_at`.
    pub now: Timestamp,
}

impl Store {
    /// Opens the store in `state_dir`.
    pub fn open(state_dir: &Path, access: Access, deadline: Deadline) -> Result<Self, StoreError> {
        let _ = (state_dir, access, deadline);
        Err(StoreError::Missing)
    }

    /// Everything that concerns one domain, in one read.
    pub fn references(&self, domain: DomainUuid, now: Timestamp) -> Result<References, StoreError> {
        let _ = (domain, now);
        Err(StoreError::Missing)
    }

    /// All providers, by name.
    pub fn providers(&self) -> Result<Vec<Provider>, StoreError> {
        Err(StoreError::Missing)
    }

    /// Applies a verdict's changes in one transaction. Gives the id of the row that a
    /// `BindProvider` made.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<Option<KeyRefId>, StoreError> {
        let _ = change;
        Err(StoreError::Missing)
    }

    /// Deletes a provider's row. Its key references lose their provider's UUID.
    pub fn delete_provider(&mut self, provider: ProviderUuid) -> Result<(), StoreError> {
        let _ = provider;
        Err(StoreError::Missing)
    }
}

impl From<StoreError> for crate::verdict::facts::StoreTrouble {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Store {
    /// x
    pub fn record_event(&mut self, _: &Event) -> Result<(), StoreError> {
        Ok(())
    }
    /// x
    pub fn mark_started(&mut self, _: DomainUuid, _: Timestamp) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// x
    pub fn take_back_fresh_key(&mut self, _: DomainUuid, _: Timestamp) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// x
    pub fn has_key_refs(&self, _: DomainUuid) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// x
    pub fn note_incoming(
        &mut self,
        _: DomainUuid,
        _: &str,
        _: Timestamp,
    ) -> Result<(), StoreError> {
        Ok(())
    }
}
