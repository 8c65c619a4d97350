//! Refusals: what is wrong, with the values that the sentence to the administrator needs.

use std::path::PathBuf;

use super::code::Code;
use super::elsewhere::{OtherGuest, RelatedGuest, StateElsewhere};
use super::facts::{CopyReason, Damage, Obstacle, RunsOn, StoreAccessError};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::id::KeyId;

/// Why a start is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No provider has the KEK; `key_id` is `None` for a placeholder, which has no key yet.
    ProviderMissing {
        /// The provider's name in the row.
        provider: String,
        /// The key id that is missed.
        key_id: Option<KeyId>,
    },
    /// `policy.auto_bind` names a provider that is not on this host.
    AutoBindMissing {
        /// The name.
        provider: String,
    },
    /// The provider of that name has another key.
    ProviderKeyMismatch {
        /// Its name.
        provider: String,
        /// Its key id.
        has: KeyId,
        /// The key id that wrapped the DEK.
        wrapped_with: KeyId,
    },
    /// Several providers have the KEK.
    ProviderAmbiguous {
        /// The provider's name in the row, which no provider has.
        provider: String,
        /// The key id.
        key_id: KeyId,
        /// The names of those that have it.
        candidates: Vec<String>,
    },
    /// The provider's KEK does not open here.
    ProviderSealed {
        /// Its name.
        provider: String,
        /// Why.
        reason: String,
        /// The sections of the configuration that say where key managers are that open it.
        kms: Vec<String>,
    },
    /// The provider's KEK is not on this host; key managers open it.
    KekNotHere {
        /// Its name.
        provider: String,
        /// The KEK.
        key_id: KeyId,
        /// The sections of the configuration that say where they are.
        kms: Vec<String>,
    },
    /// A key manager has opened the provider's KEK too long ago.
    KekExpired {
        /// Its name.
        provider: String,
        /// The sections of the configuration that say where the key managers are.
        kms: Vec<String>,
        /// When one of them last opened it.
        opened_at: Option<Timestamp>,
    },
    /// The provider's KEK had not opened when the time was over.
    ProviderTimedOut {
        /// Its name.
        provider: String,
    },
    /// No key reference and no host secret.
    KeyMissing,
    /// Likewise, and libvirt has no definition of the guest: its UUID may be that of one attempt.
    KeyMissingNotDefined {
        /// That UUID.
        domain: DomainUuid,
    },
    /// Likewise, and the guest may be another one under a new UUID, or a copy of it.
    KeyOfRelatedGuest {
        /// That other one.
        relative: RelatedGuest,
        /// Whether libvirt has a definition of the guest.
        is_defined: bool,
    },
    /// No key reference and no host secret, and a TPM state that the XML does not name.
    KeyMissingStateElsewhere(StateElsewhere),
    /// No key reference and no TPM state, but a retired key that the guest has used: libvirt would
    /// make a new, empty TPM.
    UsedKeyRetired {
        /// The retired row.
        key_ref: KeyRefId,
        /// Whether libvirt has a definition of the guest.
        is_defined: bool,
    },
    /// No key of the guest's own: its XML is a copy of another guest's, with that guest's key.
    KeyOfOriginal {
        /// That guest.
        original: DomainUuid,
        /// Whether there is a TPM, so that a key is missed for it.
        is_lost: bool,
        /// Whether libvirt knows the guest itself.
        is_defined: bool,
    },
    /// The key that came with the guest's XML does not authenticate.
    XmlKeyCorrupt {
        /// Says how.
        reason: String,
        /// Whether it is wrapped in a format of a later release.
        is_newer: bool,
    },
    /// libvirt has a secret of its own for the guest, and the policy refuses unmanaged guests.
    Unmanaged {
        /// Whether it is a client's, which brings it for each start and which nobody can read.
        is_clients: bool,
        /// Whether libvirt knows the guest.
        is_defined: bool,
    },
    /// Likewise, and that secret is the guard's own: no key reference in use holds its key.
    KeyInMemoryOnly {
        /// The retired row that opens the state.
        retired: Option<KeyRefId>,
    },
    /// Encrypted (or arriving) state and no key.
    KeyLost,
    /// Likewise, in a store that is in order.
    KeyUnknown,
    /// Arriving state and no key.
    KeyNotImported,
    /// Likewise, and of the guest's retired keys these open: one of them may be the right one.
    KeysRetired {
        /// The retired rows, the newest key first.
        key_refs: Vec<KeyRefId>,
    },
    /// A retired key of the guest opens the state, and none that is in use.
    KeyRetired {
        /// The retired row.
        key_ref: KeyRefId,
    },
    /// The key of another domain opens the state, and none of the guest's.
    KeyOfOtherGuest {
        /// The domain that has it.
        holder: OtherGuest,
        /// Whether a key of the guest's own, or libvirt's value, is there and does not.
        refuted: bool,
        /// Whether libvirt has a definition of the guest.
        is_defined: bool,
    },
    /// The guest's key comes from whoever starts it, and none was given for the state that is
    /// there.
    ClientsKeyMissing {
        /// The secret that it belongs into.
        secret: SecretUuid,
    },
    /// Several different keys and no proof.
    KeyAmbiguous {
        /// The rows to choose from.
        key_refs: Vec<KeyRefId>,
    },
    /// The key does not open the state.
    KeyDoesNotOpenTpm {
        /// The rows that were tried.
        key_refs: Vec<KeyRefId>,
    },
    /// A used key without its TPM state.
    TpmStateMissing,
    /// A used key, and a TPM state that the XML does not name.
    TpmStateElsewhere(StateElsewhere),
    /// A used key without its TPM state, which was probably deleted with the guest's definition.
    TpmStateUndefined,
    /// A used key without its TPM state, which snapshots of when the guest ran hold as it was.
    StateInSnapshots {
        /// Their names.
        names: Vec<String>,
    },
    /// A guest whose key is not the guard's has run here with a TPM, and its state is gone.
    SeenStateMissing {
        /// Where it was.
        path: PathBuf,
        /// When it was first seen there.
        at: Timestamp,
    },
    /// A used key without its TPM state, whose saved copy is older than a run of the guest.
    SavedCopyOutdated {
        /// When in the guest's life it was saved, and where.
        reason: CopyReason,
        /// When it was saved.
        saved_at: Timestamp,
    },
    /// A used key without its TPM state, whose saved copy could not be restored.
    TpmStateNotRestored {
        /// Says why.
        reason: String,
    },
    /// A wrapped key that does not authenticate.
    KeyCorrupt {
        /// The row.
        key_ref: KeyRefId,
        /// Says how.
        reason: String,
        /// Whether it is wrapped in a format of a later release.
        is_newer: bool,
    },
    /// The fleet's store has a key of the guest, in the format of a later release.
    FleetKeyTooNew {
        /// Says how.
        reason: String,
    },
    /// swtpm would refuse the state whatever the key, or it is not read, and no saved copy that the key opens is here.
    TpmStateDamaged {
        /// Says what is in its place.
        damage: Damage,
        /// Whether the domain XML names that place: it may be the wrong one, and what is there anybody's file.
        is_named_by_xml: bool,
    },
    /// swtpm could not use the state now.
    TpmObstructed(Obstacle),
    /// libvirt refused to define the secret or to take its value.
    SecretRefused {
        /// The secret.
        secret: SecretUuid,
        /// libvirt's words.
        reason: String,
    },
    /// libvirt did not answer.
    LibvirtUnreachable {
        /// Says how.
        reason: String,
    },
    /// libvirt's files about its guests were not all read, and another guest may be in them.
    DefinitionsUnread {
        /// Says why.
        reason: String,
    },
    /// The hook's deadline passed before the start was judged.
    DeadlinePassed,
    /// The time in which keys are staged passed before the start was judged.
    StagingTimePassed,
    /// libvirtd is starting, and the guest with it, whose key was not staged.
    LibvirtStarting,
    /// The usage belongs to another secret, or the UUID to another usage type.
    SecretConflict {
        /// The secret.
        secret: SecretUuid,
        /// libvirt's words.
        reason: String,
    },
    /// libvirt's secret has a value that is not this guest's key, and another guest's definition
    /// names that secret.
    SecretOfGuest {
        /// The secret.
        secret: SecretUuid,
        /// The other guests, by name.
        guests: Vec<String>,
    },
    /// Another guest is being started with that secret under another key.
    SecretInUse {
        /// The secret.
        secret: SecretUuid,
        /// The other guest's name.
        guest: String,
    },
    /// libvirt's own secret does not open the TPM's state.
    HostValueDoesNotOpenTpm {
        /// The secret.
        secret: SecretUuid,
    },
    /// A key that was retired opens the TPM's state, and none in use does.
    RetiredKeyOpensTpm {
        /// The retired row.
        key_ref: KeyRefId,
    },
    /// The store cannot be used.
    Store(StoreAccessError),
    /// The XML cannot be read, and the policy refuses unencrypted vTPMs.
    DomainXmlInvalid {
        /// Says how.
        reason: String,
    },
    /// The policy refuses unencrypted vTPMs.
    UnencryptedVtpm {
        /// Whether it has a TPM state, or one is on its way: only that can be encrypted.
        has_state: bool,
        /// Whether libvirt knows the guest.
        is_defined: bool,
    },
    /// XML and state disagree about encryption.
    EncryptionMismatch {
        /// Whether libvirt knows the guest.
        is_defined: bool,
        /// Whether it is the state that is encrypted (and the XML that is not).
        state_encrypted: bool,
    },
    /// The guest runs on another host, as that host has said last, and the policy refuses a second run.
    RunsElsewhere(RunsOn),
    /// An internal error.
    Internal {
        /// Says what.
        reason: String,
    },
}

impl Refusal {
    /// The code of this refusal.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::ProviderMissing { .. } | Self::AutoBindMissing { .. } => Code::ProviderMissing,
            Self::ProviderKeyMismatch { .. } => Code::ProviderKeyMismatch,
            Self::ProviderAmbiguous { .. } => Code::ProviderAmbiguous,
            Self::ProviderSealed { .. } => Code::ProviderSealed,
            Self::KekNotHere { .. } => Code::KekNotHere,
            Self::KekExpired { .. } => Code::KekExpired,
            Self::ProviderTimedOut { .. } => Code::ProviderTimeout,
            Self::KeyMissing
            | Self::KeyMissingNotDefined { .. }
            | Self::KeyOfRelatedGuest { .. }
            | Self::KeyMissingStateElsewhere(_)
            | Self::UsedKeyRetired { .. }
            | Self::KeyOfOriginal { is_lost: false, .. }
            | Self::KeyInMemoryOnly { .. }
            | Self::Unmanaged { .. } => Code::KeyMissing,
            Self::KeyLost
            | Self::ClientsKeyMissing { .. }
            | Self::KeyUnknown
            | Self::KeyNotImported
            | Self::KeysRetired { .. }
            | Self::KeyRetired { .. }
            | Self::KeyOfOriginal { is_lost: true, .. }
            | Self::KeyOfOtherGuest { refuted: false, .. } => Code::KeyLost,
            Self::KeyAmbiguous { .. } => Code::KeyAmbiguous,
            Self::KeyDoesNotOpenTpm { .. }
            | Self::HostValueDoesNotOpenTpm { .. }
            | Self::RetiredKeyOpensTpm { .. }
            | Self::KeyOfOtherGuest { refuted: true, .. } => Code::KeyDoesNotOpenTpm,
            Self::TpmStateMissing
            | Self::TpmStateElsewhere(_)
            | Self::TpmStateUndefined
            | Self::StateInSnapshots { .. }
            | Self::SeenStateMissing { .. }
            | Self::SavedCopyOutdated { .. }
            | Self::TpmStateNotRestored { .. } => Code::TpmStateMissing,
            Self::KeyCorrupt { .. } | Self::XmlKeyCorrupt { .. } | Self::FleetKeyTooNew { .. } => {
                Code::KeyCorrupt
            }
            Self::TpmStateDamaged { .. } => Code::TpmStateDamaged,
            Self::TpmObstructed(Obstacle::InUse { .. }) => Code::TpmInUse,
            Self::TpmObstructed(Obstacle::ClosedDirectory { .. } | Obstacle::BadLock { .. }) => {
                Code::TpmStateUnreachable
            }
            Self::SecretRefused { .. } => Code::SecretRefused,
            Self::LibvirtUnreachable { .. }
            | Self::DefinitionsUnread { .. }
            | Self::DeadlinePassed
            | Self::StagingTimePassed
            | Self::LibvirtStarting => Code::LibvirtUnreachable,
            Self::SecretConflict { .. } | Self::SecretOfGuest { .. } | Self::SecretInUse { .. } => {
                Code::SecretConflict
            }
            Self::Store(StoreAccessError::Unavailable(_)) => Code::StoreUnavailable,
            Self::Store(StoreAccessError::Corrupt(_)) => Code::StoreCorrupt,
            Self::Store(StoreAccessError::TooNew { .. }) => Code::StoreTooNew,
            Self::DomainXmlInvalid { .. } => Code::DomainXmlInvalid,
            Self::UnencryptedVtpm { .. } => Code::UnencryptedVtpm,
            Self::EncryptionMismatch { .. } => Code::EncryptionMismatch,
            Self::RunsElsewhere(_) => Code::RunsElsewhere,
            Self::Internal { .. } => Code::Internal,
        }
    }
}
