//! The key references of a rotation, and what became of each.

use serde::{Serialize, Serializer};

use crate::ids::KeyRefId;
use crate::key::id::KeyId;
use crate::keyring::unlock::WrapError;
use crate::manage::guests::GuestRef;
use crate::manage::keys::{RowState, not_opened};
use crate::store::{KeyRefRecord, Store, StoreError};
use crate::verdict::facts::NotOpened;

/// A key reference, and what the rotation did to it.
#[derive(Debug, Serialize)]
pub(crate) struct RotatedRow {
    pub(crate) id: KeyRefId,
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    retired: bool,
    #[serde(flatten)]
    pub(crate) result: RowResult,
    #[serde(skip)]
    pub(crate) state: RowState,
}

/// What became of a key reference.
#[derive(Debug)]
pub(crate) enum RowResult {
    Rewrapped,
    /// It is under the new key.
    Already,
    Left(LeftRow),
}

/// Why a key reference stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeftRow {
    /// It is bound to that provider.
    #[error("it is another provider's, which has the same key")]
    NotOurs,
    /// Somebody took its key away.
    #[error("it has no key")]
    Placeholder,
    /// Its key does not open.
    #[error("{}", not_opened(.0))]
    NotOpened(NotOpened),
    /// A key that other hosts of the fleet announced wraps it: perhaps the provider's next one.
    #[error("it is under key {}, which another host of the fleet announced", .0.short())]
    Announced(KeyId),
    /// Somebody added or changed it when all others were done.
    #[error("it was changed in the meantime")]
    Changed,
    /// Its key could not be wrapped.
    #[error(transparent)]
    Wrap(#[from] WrapError),
}

impl RowResult {
    /// As JSON has it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Rewrapped => "rewrapped",
            Self::Already => "already",
            Self::Left(LeftRow::NotOurs) => "not-ours",
            Self::Left(LeftRow::Announced(_)) => "announced",
            Self::Left(LeftRow::Changed) => "later",
            Self::Left(_) => "not-opened",
        }
    }
}

impl Serialize for RowResult {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document {
            result: &'static str,
            reason: Option<String>,
        }
        let reason = match self {
            Self::Left(why) => Some(why.to_string()),
            Self::Rewrapped | Self::Already => None,
        };
        let result = self.word();
        Document { result, reason }.serialize(to)
    }
}

impl RotatedRow {
    pub(super) fn new(
        store: &Store,
        record: &KeyRefRecord,
        result: RowResult,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            id: record.key_ref.id,
            guest: GuestRef::of_uuid(record.domain, store.last_name(record.domain)?),
            retired: record.retired_at.is_some(),
            result,
            state: RowState::of(record),
        })
    }

    pub(super) fn is_rewrapped(&self) -> bool {
        matches!(self.result, RowResult::Rewrapped)
    }
}
