//! Previous keys of a provider: those that it had before it was rotated, and that stay on this host.

use serde::{Serialize, Serializer};

use super::providers::ProviderRef;
use crate::key::id::KeyId;
use crate::store::{Store, StoreError};
use crate::verdict::facts::Provider;

/// A previous key that is kept.
#[derive(Debug, Serialize)]
pub(crate) struct PreviousKey {
    #[serde(rename = "name", serialize_with = "name")]
    pub(crate) provider: ProviderRef,
    pub(crate) key_id: KeyId,
    /// Whether it is in a recovery file.
    #[serde(skip)]
    pub(crate) is_exported: bool,
    /// Whether key references are bound to it, or wrapped with it. Otherwise only store backups of its time may need it.
    #[serde(skip)]
    pub(crate) is_needed: bool,
}

impl PreviousKey {
    pub(super) fn new(store: &Store, previous: &Provider) -> Result<Self, StoreError> {
        Ok(Self {
            provider: previous.into(),
            key_id: previous.key_id,
            is_exported: previous.exported_at.is_some(),
            is_needed: store.needs_previous_key(previous)?,
        })
    }
}

fn name<S: Serializer>(provider: &ProviderRef, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&provider.name)
}
