//! Repairs: single changes, planned here and carried out elsewhere: those to the store in one
//! transaction, that of a TPM state before it.

use super::facts::{CopyReason, KeyRef};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, ProviderUuid, SecretUuid};

/// Where a new row's DEK comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// It is made of random bits.
    Random,
    /// It is the value of libvirt's secret, which a client gave for a guest without state.
    HostSecret,
}

/// One planned change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Deletes a row that has no wrapped DEK.
    DeletePlaceholder {
        /// The placeholder.
        key_ref: KeyRefId,
    },
    /// Binds a keyed row to the provider that has unwrapped its DEK, by UUID and name.
    RebindProvider {
        /// The keyed row.
        key_ref: KeyRefId,
        /// The provider that opened it.
        provider: ProviderUuid,
        /// Its name.
        provider_name: String,
    },
    /// Deletes a row whose DEK another row holds too. The row that stays inherits the earliest
    /// `first_used_at` of both.
    DeleteDuplicate {
        /// The row to delete.
        key_ref: KeyRefId,
        /// The row that keeps the same DEK; `None`: the one that this verdict's `LearnKey` adds.
        kept: Option<KeyRefId>,
    },
    /// Sets `retired_at`: the row is out of use and keeps its wrapped DEK.
    RetireKey {
        /// The row.
        key_ref: KeyRefId,
    },
    /// Makes a DEK, wraps it with the provider's KEK and puts it into a placeholder, or into
    /// the row that this verdict's `BindProvider` makes, with its `key_version`, its `kek_ref` and
    /// the secret that the domain XML names.
    /// Nobody has used the new key: `first_used_at` becomes NULL.
    CreateKey {
        /// The placeholder; `None`: the row made by `BindProvider`.
        key_ref: Option<KeyRefId>,
        /// The provider whose KEK wraps it.
        provider: ProviderUuid,
        /// Where the DEK comes from.
        origin: KeyOrigin,
    },
    /// Wraps the value of libvirt's secret, which is about to be replaced, with the provider's
    /// KEK and adds it as a retired row.
    KeepHostValue {
        /// The provider whose KEK wraps it.
        provider: ProviderUuid,
    },
    /// Sets `key_version` from the provider that unwraps the row.
    FillKeyVersion {
        /// The row.
        key_ref: KeyRefId,
        /// The version.
        key_version: i64,
    },
    /// Sets `kek_ref` from the KEK that unwraps the row.
    FillKekRef {
        /// The row.
        key_ref: KeyRefId,
        /// `native:KEYID`
        kek_ref: String,
    },
    /// Sets `secret_uuid` to the one that the domain XML names.
    SetSecretUuid {
        /// The row.
        key_ref: KeyRefId,
        /// The XML's.
        secret_uuid: SecretUuid,
    },
    /// Binds a placeholder, or a new row, to a provider.
    BindProvider {
        /// The placeholder; `None` makes a row.
        key_ref: Option<KeyRefId>,
        /// The provider.
        provider: ProviderUuid,
        /// Its name.
        provider_name: String,
    },
    /// Makes a row of a key that came with the guest's XML: complete, with the secret that the XML
    /// names, and as one that has been used.
    LearnKey {
        /// The row, but for its id.
        key: Box<KeyRef>,
    },
    /// Restores the saved copy of the TPM state. Changes no row.
    RestoreTpmState {
        /// When in the guest's life the copy was saved.
        reason: CopyReason,
        /// When it was saved.
        saved_at: Timestamp,
    },
}

impl Repair {
    /// The kind's name, as JSON and history spell it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DeletePlaceholder { .. } => "delete-placeholder",
            Self::RebindProvider { .. } => "rebind-provider",
            Self::DeleteDuplicate { .. } => "delete-duplicate",
            Self::RetireKey { .. } | Self::KeepHostValue { .. } => "retire-key",
            Self::CreateKey { .. } => "create-key",
            Self::FillKeyVersion { .. } => "fill-key-version",
            Self::FillKekRef { .. } => "fill-kek-ref",
            Self::SetSecretUuid { .. } => "set-secret-uuid",
            Self::BindProvider { .. } => "bind-provider",
            Self::LearnKey { .. } => "learn-key",
            Self::RestoreTpmState { .. } => "restore-tpm-state",
        }
    }

    /// The row that is changed; `None` where the repair makes it, or changes none.
    #[must_use]
    pub fn key_ref(&self) -> Option<KeyRefId> {
        match self {
            Self::DeletePlaceholder { key_ref }
            | Self::RebindProvider { key_ref, .. }
            | Self::DeleteDuplicate { key_ref, .. }
            | Self::RetireKey { key_ref }
            | Self::FillKeyVersion { key_ref, .. }
            | Self::FillKekRef { key_ref, .. }
            | Self::SetSecretUuid { key_ref, .. } => Some(*key_ref),
            Self::CreateKey { key_ref, .. } | Self::BindProvider { key_ref, .. } => *key_ref,
            Self::RestoreTpmState { .. } | Self::KeepHostValue { .. } | Self::LearnKey { .. } => {
                None
            }
        }
    }
}
