//! A key that is about to become a row of the store.

use super::id::KeyId;
use super::wrap::{self, WrappedDek};

/// A wrapped DEK, and what its row says about it.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The wrapped DEK.
    pub wrapped_dek: WrappedDek,
    /// The KEK that wrapped it.
    pub key_id: KeyId,
    /// The version of the provider's KEK.
    pub key_version: i64,
    /// How it is wrapped, in words for people: the blob says it too.
    pub algorithm: &'static str,
}

impl NewKey {
    /// A DEK that was wrapped by this KEK, the provider's key of this version.
    #[must_use]
    pub fn new(wrapped_dek: WrappedDek, key_id: KeyId, key_version: i64) -> Self {
        Self {
            wrapped_dek,
            key_id,
            key_version,
            algorithm: wrap::ALGORITHM,
        }
    }
}
