//! The core: facts in, verdict out. Pure: no SQLite, no libvirt, no files, no clock, no log.

pub mod adopt;
pub mod code;
pub mod decide;
pub mod elsewhere;
pub mod facts;
pub mod outcome;
pub mod refusal;
pub mod repair;

use facts::KeySource;
use refusal::Refusal;
use repair::Repair;

/// What [`decide::decide`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// The facts do not suffice: ask libvirt for the host secret and decide again.
    AskHostSecret,
    /// Something is missing: look for it under another name on this host and decide again.
    AskElsewhere,
    /// The verdict.
    Verdict(Verdict),
}

/// What is to be done with one start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    /// Whether the start may go on.
    pub decision: Decision,
    /// What was noticed on the way, worth a word to the administrator.
    pub findings: Vec<Finding>,
    /// The changes to the store and the TPM state; none when the start is refused.
    pub repairs: Vec<Repair>,
    /// The key that libvirt must be given, if any.
    pub secret: Option<ProvideSecret>,
}

/// Allow or deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The start goes on.
    Allow(Reason),
    /// The start is refused.
    Deny(Refusal),
}

/// Why a start may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The domain has no emulated TPM.
    NoEmulatedTpm,
    /// Its emulated TPM is not encrypted.
    Unencrypted,
    /// The domain XML could not be read.
    UnreadableXml,
    /// The key opens the TPM's state: proven.
    Proven,
    /// The key is there; no state contradicts it.
    Unproven,
    /// A new key is made for a new TPM.
    NewKey,
    /// libvirt has a secret of its own, and the guard does not manage it.
    HostSecret,
    /// Whoever starts the guest brings its key, in a secret that libvirt discloses to nobody.
    ClientsKey,
    /// libvirtd is starting, and has loaded the guest's secret: it was laid out, or is a
    /// persistent one.
    LoadedSecret,
    /// The operation is none that could be refused.
    NotAStart,
}

/// Which key libvirt must be given, and what it may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvideSecret {
    /// Whose DEK.
    pub key: KeySource,
    /// What it may replace.
    pub over: Over,
}

/// What may be replaced when libvirt is given a key. No value is ever lost: one that root can
/// read is in the store before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing: libvirt has this very value already, in somebody else's secret.
    TheSame,
    /// Nothing but secrets of the guard's own, whose values are all in the store.
    GuardsOwn,
    /// The definition of somebody else's secret: one of the guard's own, ephemeral and private,
    /// takes its place.
    ForeignDefinition,
    /// The value of somebody else's secret, which is ephemeral and private and stays defined.
    ForeignValue,
}

/// Something noticed that does not stop the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The TPM state exists and cannot be read, so no key could be proven.
    StateUnreadable(String),
    /// A placeholder beside a keyed row.
    OrphanPlaceholder(crate::ids::KeyRefId),
    /// The row's provider is not there under its UUID; it is bound to the one that opened its
    /// key, a placeholder to the one of that name.
    ProviderLost {
        /// The row.
        key_ref: crate::ids::KeyRefId,
        /// The name that the row gives its provider.
        provider: String,
    },
    /// Another row holds the same key.
    DuplicateKey(crate::ids::KeyRefId),
    /// The row's key is not the one that opens this TPM, or does not open at all.
    UnusableKey(crate::ids::KeyRefId),
    /// The row lacks its key version or its KEK reference, names another secret, or gives its
    /// provider a name that it no longer bears.
    IncompleteRow(crate::ids::KeyRefId),
    /// The start rests on libvirt's own secret: the guard's key cannot be had.
    Degraded(Refusal),
    /// The guest's secret is not managed by the guard: `adopt` would take it over.
    Unmanaged,
    /// libvirt's secret is ephemeral and private, and not the guard's: the guest's key comes from
    /// whoever starts it.
    ClientsKey,
    /// libvirt has a value that it does not disclose, and that may not be the right one; it is
    /// left in place.
    HiddenValue(crate::ids::SecretUuid),
    /// libvirt had another value than the key: it is kept as a retired key reference.
    HostValueKept,
    /// libvirt's value opens the TPM's state, and no key of the store does.
    HostValueProven,
    /// The store could not be used; libvirt's own secret carries the start.
    StoreUnusable(facts::StoreAccessError),
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
    /// The TPM's state is gone, and a copy that the guard kept takes its place.
    StateGone {
        /// When in the guest's life the copy was kept.
        occasion: facts::CopyReason,
        /// When it was kept.
        kept_at: crate::clock::Timestamp,
    },
    /// The start rests on a TPM state that is on its way: a used key has none here, or one that
    /// it does not open.
    StateArrives {
        /// How it gets here.
        arrival: facts::Arrival,
        /// When a guest first ran here with the key.
        first_used_at: Option<crate::clock::Timestamp>,
    },
    /// The TPM's state is damaged; it is set aside, and a copy that the guard kept and that the key
    /// opens takes its place.
    StateDamaged {
        /// Says what is in its place.
        how: String,
        /// When the copy was kept.
        occasion: facts::CopyReason,
    },
    /// No copy of the TPM's state could be kept: should this start fail, libvirt deletes it.
    CopyNotKept(String),
    /// The configuration is broken; the defaults hold.
    ConfigurationBroken(String),
    /// The repairs or the event could not be written; the start does not depend on them.
    NotRecorded(String),
}
