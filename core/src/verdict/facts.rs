//! The facts that a verdict rests on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::domain::{Domain, UnreadableDomain, Vtpm};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::verdict::elsewhere::Elsewhere;

/// Everything that the verdict on one start depends on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain, or why its XML could not be read.
    pub domain: Result<Domain, UnreadableDomain>,
    /// The store's answer.
    pub references: Result<References, StoreAccessError>,
    /// What trying the wrapped DEK of each keyed row gave; its proof is against the TPM state,
    /// or against the kept copy in its place.
    pub trials: BTreeMap<KeyRefId, Trial>,
    /// Whether a provider's KEK opens on this host, for those that were tried.
    pub keks: BTreeMap<KeyId, KekState>,
    /// The TPM state.
    pub state: TpmState,
    /// What keeps swtpm from using the TPM state, whatever the key.
    pub hindrance: Option<Hindrance>,
    /// What was kept of the TPM; looked for only where its state is absent or damaged.
    pub kept: Kept,
    /// How the TPM state of this very start gets to its place, if it is on its way; then
    /// `references.state_arrives`, too.
    pub arrival: Option<Arrival>,
    /// The names of the guest's snapshots of when it ran, which hold its TPM as it was; looked
    /// for only where its state is absent.
    pub snapshots: Vec<String>,
    /// libvirt's own secret; `None` while nobody has asked.
    pub host_secret: Option<HostSecret>,
    /// What this host has under another name; `None` while nobody has looked.
    pub elsewhere: Option<Elsewhere>,
    /// What trying the retired rows gave. They are tried only where the state proves no row in
    /// use, or where libvirt's secret has a value that no row in use holds.
    pub retired: BTreeMap<KeyRefId, Trial>,
    /// The policy in force.
    pub policy: Policy,
}

impl Facts {
    /// Whether the guest has a TPM that swtpm emulates.
    #[must_use]
    pub fn vtpm_is_emulated(&self) -> bool {
        matches!(
            &self.domain,
            Ok(Domain {
                vtpm: Some(Vtpm::Emulator(_)),
                ..
            })
        )
    }

    /// The secret that the domain XML names, and the domain.
    #[must_use]
    pub fn secret(&self) -> Option<(SecretUuid, &Domain)> {
        let domain = self.domain.as_ref().ok()?;
        let (_, secret) = domain.encrypted_vtpm()?;
        Some((secret, domain))
    }

    /// The kept copy that takes the place of a TPM state that is gone: the start is judged, and
    /// goes on, as if that state had never been away.
    ///
    /// None does where state is on its way, where policy gives each run a TPM of its own, and
    /// where policy lets a new TPM take the place of one that no key of the guest opens. In the
    /// place of a damaged state, only a copy that a key of the guest opens does.
    #[must_use]
    pub fn copy_in_place(&self) -> Option<&KeptCopy> {
        let references = self.references.as_ref();
        let arrives = references.is_ok_and(|references| references.state_arrives);
        let may_be_missing = self.policy.missing_state == Permission::Allow && self.is_refuted();
        let is_emulated = self.domain.as_ref().is_ok_and(Domain::has_emulated_tpm);
        let is_encrypted = |domain: &Domain| domain.encrypted_vtpm().is_some();
        let stands = |copy: &KeptCopy| match self.state {
            TpmState::Absent => is_emulated && !self.starts_fresh() && !may_be_missing,
            TpmState::Damaged(_) => copy.is_proven && self.domain.as_ref().is_ok_and(is_encrypted),
            TpmState::Plain | TpmState::Encrypted | TpmState::Unreadable(_) => false,
        };
        self.kept
            .copy
            .as_ref()
            .filter(|copy| !arrives && stands(copy))
    }

    /// The TPM state that the start is judged by.
    #[must_use]
    pub fn state_in_force(&self) -> &TpmState {
        match self.copy_in_place() {
            Some(copy) if copy.is_encrypted => &TpmState::Encrypted,
            Some(_) => &TpmState::Plain,
            None => &self.state,
        }
    }

    /// libvirt took the TPM's state away at the end of the last run, and policy has it so.
    #[must_use]
    pub fn starts_fresh(&self) -> bool {
        self.kept.ended_normally && self.policy.transient_state == TransientState::Fresh
    }

    /// The state of a guest with a used key is on its way, and without it the start would be
    /// another one: there is none here, or none that the key opens.
    #[must_use]
    pub fn rests_on_arrival(&self) -> bool {
        let rows = self.references.iter().flat_map(|found| &found.key_refs);
        let is_used = rows.clone().any(|row| row.first_used_at.is_some());
        is_used && (self.state == TpmState::Absent || self.is_refuted())
    }

    /// Whether libvirt's own value opens the TPM's state.
    pub(super) fn host_value_is_proven(&self) -> bool {
        let proven = Proof::Proven;
        matches!(
            &self.host_secret,
            Some(HostSecret::Foreign(ForeignSecret { value: HostValue::Known { proof, .. }, .. }))
                if *proof == proven
        )
    }

    /// Keys open, and the state is none's of them.
    fn is_refuted(&self) -> bool {
        let proof = |trial: &Trial| match trial {
            Trial::Opened { proof, .. } => Some(*proof),
            Trial::NotOpened(_) => None,
        };
        let mut proofs = self.trials.values().filter_map(proof).peekable();
        proofs.peek().is_some() && proofs.all(|proof| proof == Proof::Refuted)
    }
}

/// The rows that concern one domain, as one read of the store gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// The domain's key references that are not retired, by id.
    pub key_refs: Vec<KeyRef>,
    /// The domain's retired key references that hold a key, by id.
    pub retired: Vec<KeyRef>,
    /// All providers, by name.
    pub providers: Vec<Provider>,
    /// What a `migrate begin` or `restore begin` announced, not too long ago.
    pub announced: Option<Announcement>,
    /// Whether TPM state is on its way: the store says that it was announced; for a start,
    /// [`Facts::arrival`] says whether this start is the one that it was announced for.
    pub state_arrives: bool,
    /// Whether the domain's last allowed start went by a key that its client brought.
    pub clients_key: bool,
    /// What was seen of the guest's TPM when it last ran here, whether or not it has a key.
    pub seen_state: Option<SeenState>,
}

impl References {
    /// Whether a verdict on these rows is one on the others, too. Whether an announcement is
    /// for this start was decided by whoever judged it, and is no matter of the store's.
    #[must_use]
    pub fn judged_alike(&self, other: &Self) -> bool {
        (&self.key_refs, &self.providers, &self.announced)
            == (&other.key_refs, &other.providers, &other.announced)
    }
}

/// That TPM state will arrive, for one attempt of one daemon to start a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The guest's name in the domain XML: a saved image may give another guest's UUID.
    pub domain_name: String,
    /// How it will arrive.
    pub arrival: Arrival,
    /// The attempt: the daemon and its thread, empty where they could not be found.
    pub attempt: String,
    /// When it was announced.
    pub at: Timestamp,
}

/// How a TPM state gets to its place after `prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// With a guest that migrates to this host.
    Migration,
    /// With a saved guest that is restored, from a file or from its managed save.
    Restore,
    /// With a snapshot of the running guest that is reverted to.
    Snapshot,
}

impl Arrival {
    /// Its name, as JSON spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Migration => "migration",
            Self::Restore => "restore",
            Self::Snapshot => "snapshot",
        }
    }
}

/// A TPM state that a guest ran with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenState {
    /// The guest's name at that time.
    pub domain_name: String,
    /// The secret that its XML named.
    pub secret_uuid: Option<SecretUuid>,
    /// Where its file was.
    pub path: PathBuf,
    /// When it was first seen there.
    pub at: Timestamp,
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
    /// It had not opened when the time was over.
    NotInTime,
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

impl Trial {
    /// Whether it opened to the DEK that the TPM state was encrypted with.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        let proven = Proof::Proven;
        matches!(self, Self::Opened { proof, .. } if *proof == proven)
    }
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
    /// A provider has that key id, but its KEK had not opened when the time was over.
    NotInTime {
        /// The KEK's id.
        key_id: KeyId,
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
    /// Something is there that swtpm would refuse whatever the key: says what.
    Damaged(String),
    /// Something is there that cannot be read, or is of a newer format: says how.
    Unreadable(String),
}

/// What keeps swtpm from using a TPM state, whatever the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// The lock on it is held.
    InUse {
        /// By whom, for people.
        holder: String,
        /// The process, where it is one of this host.
        pid: Option<i32>,
    },
    /// Something that swtpm cannot lock is in the place of its lock.
    BadLock {
        /// The lock's path.
        path: String,
        /// What is there.
        what: String,
    },
    /// A directory above it is closed to swtpm's user.
    ClosedDirectory {
        /// The directory.
        path: String,
        /// Its permission bits.
        mode: u32,
        /// Those that it needs.
        needed: u32,
        /// swtpm's user.
        user: String,
    },
}

/// What the guard kept of a TPM whose state libvirt deletes: a transient guest's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// The copy that would be put back: one that a key of the guest opens, else the newest.
    pub copy: Option<KeptCopy>,
    /// Whether the guest's last run ended normally, and no start since then had a TPM state.
    pub ended_normally: bool,
}

/// A kept copy of a TPM state, as far as a verdict needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCopy {
    /// When in a guest's life it was kept.
    pub occasion: CopyReason,
    /// When it was kept.
    pub kept_at: Timestamp,
    /// Whether it is encrypted.
    pub is_encrypted: bool,
    /// Whether a key of the guest opens it.
    pub is_proven: bool,
}

/// When in a guest's life a copy of its TPM state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyReason {
    /// Before a start, which may fail.
    Start,
    /// After a run that ended normally.
    Release,
}

impl CopyReason {
    /// Its name, as JSON and the copies' manifests spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Release => "release",
        }
    }
}

/// libvirt's secret of the UUID that the domain XML names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSecret {
    /// libvirt has none.
    Absent,
    /// The guard's own, with the key of this domain: the one that starts, or another one that
    /// has the same UUID in its XML.
    Guards(DomainUuid),
    /// One that somebody else defined.
    Foreign(ForeignSecret),
    /// It has one for another use, which it gives to no vTPM: says for which.
    Conflict(String),
    /// It could not be asked: says why.
    Unreachable(String),
}

/// A secret that somebody else defined, and that libvirt gives to a vTPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignSecret {
    /// libvirt keeps its value in memory alone, and never writes it to a disk.
    pub is_ephemeral: bool,
    /// libvirt gives its value to no client.
    pub is_private: bool,
    /// Whether it has a usage other than vTPMs, too: then its value may open other things.
    pub serves_anything: bool,
    /// Its value.
    pub value: HostValue,
    /// The other guests whose definitions name it, by name; looked for only where there is a
    /// value.
    pub named_by: Vec<String>,
}

/// The value of a secret of libvirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostValue {
    /// There is none.
    None,
    /// There is one, as far as libvirt tells, and nobody can read it.
    Hidden,
    /// Root can read it.
    Known {
        /// Keys of equal number are the same, as among [`Trial`]s.
        dek: DekNumber,
        /// What the TPM state says of it.
        proof: Proof,
    },
}

/// Why the store gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAccessError {
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
    /// What becomes of a transient guest's TPM at the normal end of a run.
    pub transient_state: TransientState,
    /// The provider that unbound guests are bound to; `None` binds none.
    pub auto_bind: Option<String>,
}

/// What becomes of the TPM of a transient guest, whose state libvirt deletes when it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransientState {
    /// Its next run gets the state back.
    Keep,
    /// Its next run gets a new TPM under the same key.
    Fresh,
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
            transient_state: TransientState::Keep,
            auto_bind: None,
        }
    }
}
