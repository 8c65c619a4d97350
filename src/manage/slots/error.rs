//! Why a slot was not added, verified or removed.

use super::BadSpec;
use crate::kms::KmsError;
use crate::manage::providers::{ProviderError, ProviderRef};

/// Why a slot was not added, verified or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlotError {
    /// The provider cannot be had, or its key does not open here.
    #[error(transparent)]
    Provider(ProviderError),
    /// The key manager.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// A row of the store names no slot that could be asked for.
    #[error("a slot in the store has a bad name: {0}")]
    BadSpec(#[from] BadSpec),
    /// The provider has no such slot.
    #[error("no such slot")]
    NoSlot(ProviderRef, String),
    /// The text names several of the provider's slots.
    #[error("several such slots")]
    Ambiguous(ProviderRef, String),
    /// The sealed key of this host, or the recovery file.
    #[error("not a slot that can be removed")]
    NotRemovable(ProviderRef, &'static str),
    /// Without it nothing opens the provider's key after a reboot; says why each other way does not.
    #[error("the last slot that opens")]
    Last(ProviderRef, Vec<String>),
}

impl<E: Into<ProviderError>> From<E> for SlotError {
    fn from(error: E) -> Self {
        Self::Provider(error.into())
    }
}
