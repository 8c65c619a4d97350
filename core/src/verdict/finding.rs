//! What a verdict notes beside its decision.

use super::facts::{Arrival, CopyReason, RunsOn, StoreAccessError};
use super::refusal::Refusal;
use crate::clock::Timestamp;
use crate::domain::TravellingFault;
use crate::ids::{KeyRefId, SecretUuid};

/// Something noticed that does not stop the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The TPM state exists and cannot be read, so no key could be proven.
    StateUnreadable(String),
    /// A placeholder beside a keyed row.
    OrphanPlaceholder(KeyRefId),
    /// The row's provider is not there under its UUID; it is bound to the one that opened its
    /// key, a placeholder to the one of that name.
    ProviderLost {
        /// The row.
        key_ref: KeyRefId,
        /// The name that the row gives its provider.
        provider: String,
    },
    /// Another row holds the same key.
    DuplicateKey(KeyRefId),
    /// The row's key is not the one that opens this TPM, or does not open at all.
    UnusableKey(KeyRefId),
    /// The row lacks its key version or its KEK reference, names another secret, or gives its
    /// provider a name that it no longer has.
    IncompleteRow(KeyRefId),
    /// The start uses libvirt's own secret: the guard's key is not available.
    Degraded(Refusal),
    /// The guest's secret is not managed by the guard: `adopt` would take it over.
    Unmanaged,
    /// libvirt's secret is the guard's own, and no key reference in use holds its key: the daemon's
    /// memory is all that has it.
    KeyInMemoryOnly {
        /// The retired key reference that opens the TPM's state.
        retired: Option<KeyRefId>,
    },
    /// libvirt's secret is ephemeral and private, and not the guard's: the guest's key comes from
    /// whoever starts it.
    ClientsKey,
    /// libvirt has a value that it does not disclose, and that may not be the right one; it is
    /// left in place.
    HiddenValue(SecretUuid),
    /// libvirt had another value than the key: it was saved as a retired key reference.
    HostValueKept,
    /// libvirt's value opens the TPM's state, and no key of the store does.
    HostValueProven,
    /// The store could not be used; the start uses libvirt's own secret.
    StoreUnusable(StoreAccessError),
    /// The domain XML could not be read.
    XmlUnreadable(String),
    /// The domain XML that was given could not be read, and libvirt's own definition of the guest
    /// took its place: says why, and which file.
    DefinitionRead(String),
    /// The TPM's state is missing and the policy lets libvirt make a new TPM.
    NewTpmAllowed,
    /// The TPM's state went with the guest's last run, which ended normally, and the policy
    /// gives each run a new TPM.
    FreshTpm,
    /// The TPM's state is gone, and a saved copy takes its place.
    StateGone {
        /// When in the guest's life the copy was saved.
        reason: CopyReason,
        /// When it was saved.
        saved_at: Timestamp,
    },
    /// The start depends on a TPM state that is on its way: a used key has none here, or one that
    /// it does not open.
    StateArrives {
        /// How it gets here.
        arrival: Arrival,
        /// When a guest first ran here with the key.
        first_used_at: Option<Timestamp>,
    },
    /// The TPM's state is damaged; it is set aside, and a saved copy that the key
    /// opens takes its place.
    StateDamaged {
        /// Says what is in its place.
        how: String,
        /// When the copy was saved.
        reason: CopyReason,
    },
    /// The key came with the guest's XML, and gets a row.
    KeyLearnt {
        /// The provider that wraps it.
        provider: String,
    },
    /// The key is in the fleet's store, and gets a row.
    FleetKeyLearnt {
        /// The provider that wraps it.
        provider: String,
    },
    /// The fleet's store has a key of the guest that does not open here: why.
    FleetKeyOutOfReach(Refusal),
    /// Some of what the fleet's store has of the guest is not what it says it is, and does not count.
    FleetFactsIgnored(usize),
    /// The fleet's store was asked, and did not answer.
    FleetSilent(String),
    /// The guest runs on another host, as that host has said last.
    RunsElsewhere(RunsOn),
    /// The key of the guest's XML is used although a row of the same generation holds another one:
    /// it is that of the host that the guest comes from.
    XmlKeyPreferred(KeyRefId),
    /// Likewise with a key of the fleet's store.
    FleetKeyPreferred(KeyRefId),
    /// The guest's XML has another key than the one that the start goes by.
    OtherKeyInXml,
    /// What the guest's XML says of its key is damaged.
    XmlKeysDamaged(TravellingFault),
    /// No copy of the TPM's state could be saved: should this start fail, libvirt deletes it.
    CopyNotKept(String),
    /// The configuration is broken; the defaults hold.
    ConfigurationBroken(String),
    /// The repairs or the event could not be written; the start does not depend on them.
    NotRecorded(String),
}
