//! A row of the store that may hold a guest's key.

use crate::clock::Timestamp;
use crate::ids::{KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::wrap::{Generation, WrappedDek};

/// One row of `key_ref`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRef {
    /// Its primary key.
    pub id: KeyRefId,
    /// The libvirt secret it was made for; `None` where missing or not a UUID.
    pub secret_uuid: Option<SecretUuid>,
    /// The provider's UUID; `None` where NULL or not a UUID. It may dangle.
    pub provider_uuid: Option<ProviderUuid>,
    /// The provider's name when the row was last bound.
    pub provider_name: String,
    /// The version of the provider's key.
    pub key_version: Option<i64>,
    /// `native:KEYID`; `None` where missing or empty.
    pub kek_ref: Option<String>,
    /// The wrapped DEK; `None` where missing or empty: a placeholder.
    pub wrapped_dek: Option<WrappedDek>,
    /// When a guest first ran with this key.
    pub first_used_at: Option<Timestamp>,
    /// When the row was made.
    pub created_at: Timestamp,
}

impl KeyRef {
    /// The id of the provider key that wrapped its DEK, as the wrapped DEK says; `None` for a
    /// placeholder, and where the wrapped DEK is of no known format.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.wrapped_dek.as_ref()?.key_id().ok()
    }

    /// The wrapped DEK that may travel in the guest's XML: one that a guest has run with. Without that
    /// there is no TPM that it could open elsewhere.
    #[must_use]
    pub fn travelling_dek(&self) -> Option<&WrappedDek> {
        let is_used = self.first_used_at.is_some();
        self.wrapped_dek.as_ref().filter(|_| is_used)
    }

    /// The generation of its DEK, as the wrapped DEK says; 0 for a placeholder, and where the
    /// wrapped DEK is of no known format.
    #[must_use]
    pub fn generation(&self) -> Generation {
        let wrapped = self.wrapped_dek.as_ref();
        wrapped
            .and_then(|wrapped| wrapped.generation().ok())
            .unwrap_or_default()
    }
}

/// How `key_ref.kek_ref` writes the KEK of a native provider.
#[must_use]
pub fn kek_ref(key_id: KeyId) -> String {
    format!("native:{key_id}")
}
