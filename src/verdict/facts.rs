//! The facts that a verdict rests on.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::ids::{KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;

/// Everything that the verdict on one start depends on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain, or why its XML could not be read.
    pub domain: Result<Domain, String>,
    /// The store's answer.
    pub references: Result<References, StoreTrouble>,
    /// What trying the wrapped DEK of each keyed row gave.
    pub trials: BTreeMap<KeyRefId, Trial>,
    /// Whether a provider's KEK opens on this host, for those that were tried.
    pub keks: BTreeMap<KeyId, KekState>,
    /// The TPM state.
    pub state: TpmState,
    /// libvirt's own secret; `None` while nobody has asked.
    pub host_secret: Option<HostSecret>,
    /// The policy in force.
    pub policy: Policy,
}

/// The rows that concern one domain, as one read of the store gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// The domain's key references that are not retired, by id.
    pub key_refs: Vec<KeyRef>,
    /// All providers, by name.
    pub providers: Vec<Provider>,
    /// Whether a `migrate begin` or `restore begin` announced state, not too long ago.
    pub state_arrives: bool,
}

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

/// One row of `key_provider`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its UUID.
    pub uuid: ProviderUuid,
    /// Its name, unique on this host.
    pub name: String,
    /// The identity of its KEK's bytes.
    pub key_id: KeyId,
    /// The version of its KEK.
    pub key_version: i64,
    /// Whether `key bind` and `auto_bind` prefer it.
    pub is_default: bool,
    /// When it was last exported.
    pub exported_at: Option<Timestamp>,
    /// When it was made here.
    pub created_at: Timestamp,
}

/// Whether a provider's KEK opens on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekState {
    /// It opens.
    Opens,
    /// It does not: says why.
    Sealed(String),
}

/// What trying one row's wrapped DEK gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// The KEK of this id opened it.
    Opened {
        /// The KEK's id.
        key_id: KeyId,
        /// Rows of equal number hold the same DEK.
        dek: DekNumber,
        /// What the TPM state says of this DEK.
        proof: Proof,
    },
    /// It did not open.
    NotOpened(NotOpened),
}

/// Why a wrapped DEK did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// No provider on this host has the KEK that wrapped it.
    NoProvider {
        /// The id of the KEK that is missed.
        key_id: KeyId,
    },
    /// A provider has that key id, but its KEK cannot be opened here.
    Sealed {
        /// The KEK's id.
        key_id: KeyId,
        /// Why it does not open.
        reason: String,
    },
    /// Its own KEK is there and the bytes do not authenticate, or they are no wrapped DEK.
    Corrupt {
        /// Says how.
        reason: String,
    },
}

/// How `key_ref.kek_ref` writes the KEK of a native provider.
#[must_use]
pub fn kek_ref(key_id: KeyId) -> String {
    format!("native:{key_id}")
}

/// A number that stands for a DEK among the rows of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DekNumber(pub usize);

/// What the TPM state says of a DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its MAC over the state verifies: this DEK opens this TPM.
    Proven,
    /// The state is encrypted, and not with this DEK.
    Refuted,
    /// There is no encrypted state that could tell.
    None,
}

/// Whose DEK is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// The one of this row.
    Row(KeyRefId),
    /// The one that the verdict's `create-key` repair makes.
    Created,
}

/// The TPM state, without the bytes that proved or refuted keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TpmState {
    /// There is none.
    Absent,
    /// Not encrypted.
    Plain,
    /// Encrypted.
    Encrypted,
    /// Something is there that cannot be read: says how.
    Unreadable(String),
}

/// libvirt's secret of the UUID that the domain XML names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSecret {
    /// libvirt has none.
    Absent,
    /// It has one without a value.
    NoValue,
    /// It has one with a value, which it does not tell.
    HasValue,
    /// It has one for another use, which it gives to no vTPM: says for which.
    Conflict(String),
    /// It could not be asked: says why.
    Unreachable(String),
}

/// Why the store gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreTrouble {
    /// Locked past the deadline, not readable, not root's.
    Unavailable(String),
    /// SQLite calls it damaged.
    Corrupt(String),
    /// Its schema is newer than this program.
    TooNew {
        /// The schema version found.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
}

/// `[policy]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A provider is missing and libvirt has the secret: allow the start.
    pub degraded: Permission,
    /// The guest has no key reference and libvirt has the secret: allow the start.
    pub unmanaged: Permission,
    /// The guest's vTPM is not encrypted: allow the start.
    pub unencrypted: Permission,
    /// A used key's TPM state is missing: allow libvirt to make a new TPM.
    pub missing_state: Permission,
    /// The provider that unbound guests are bound to; `None` binds none.
    pub auto_bind: Option<String>,
}

/// "allow" or "deny".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// "allow"
    Allow,
    /// "deny"
    Deny,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            degraded: Permission::Allow,
            unmanaged: Permission::Allow,
            unencrypted: Permission::Allow,
            missing_state: Permission::Deny,
            auto_bind: None,
        }
    }
}
