//! Wrapping a DEK with a KEK.

use super::dek::Dek;
use super::id::KeyId;
use super::kek::Kek;
use crate::ids::DomainUuid;

/// A wrapped DEK as the store keeps it: a self-describing blob. Its bytes are no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedDek(Vec<u8>);

/// Why a blob that this KEK owns (or that no KEK can own) does not give a DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// Not a blob of a known format, version or algorithm.
    #[error("it is not a wrapped key of a format that this program knows")]
    UnknownFormat,
    /// The KEK's id is the blob's, but the bytes do not authenticate for this domain.
    #[error("it does not authenticate under its own key id")]
    NotAuthentic,
}

impl WrappedDek {
    /// Takes a blob as found in the store; nothing is checked yet.
    #[must_use]
    pub fn from_stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The blob, for the store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Wraps `dek` for the vTPM of `domain`.
    #[must_use]
    pub fn wrap(kek: &Kek, dek: &Dek, domain: DomainUuid) -> Self {
        let _ = (kek, dek, domain);
        Self(Vec::new())
    }

    /// The id of the KEK that wrapped it, as its header says.
    pub fn key_id(&self) -> Result<KeyId, UnwrapError> {
        Err(UnwrapError::UnknownFormat)
    }

    /// Opens it. `Ok(None)` says that this KEK is not the one that wrapped it; an error says
    /// that it is, or claims to be, and the bytes are damaged or belong to another domain.
    pub fn unwrap(&self, kek: &Kek, domain: DomainUuid) -> Result<Option<Dek>, UnwrapError> {
        let _ = (kek, domain);
        Err(UnwrapError::UnknownFormat)
    }
}
