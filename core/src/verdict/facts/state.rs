//! The TPM state, and the saved copies of it.

use std::path::PathBuf;

use crate::clock::Timestamp;

/// The TPM state, without the bytes that proved or refuted keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TpmState {
    /// There is none.
    Absent,
    /// Not encrypted.
    Plain,
    /// Encrypted.
    Encrypted,
    /// Something is there that swtpm would refuse whatever the key, or that is not read at all.
    Damaged(Damage),
    /// Something is there that cannot be read, or is of a newer format: says how.
    Unreadable(String),
}

/// What is wrong with what is in a TPM state's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Says what.
    pub how: String,
    /// A link in its place or on the way to it, which is not followed: what it leads to may be a sound state.
    pub link: Option<PathBuf>,
}

impl<T: Into<String>> From<T> for Damage {
    fn from(how: T) -> Self {
        Self {
            how: how.into(),
            link: None,
        }
    }
}

/// What keeps swtpm from using a TPM state, whatever the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
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

/// What the guard saved of a TPM: a transient guest's, whose state libvirt deletes, or any guest's
/// with `state.keep = "all"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedTpm {
    /// The copy that would be restored: one that a key of the guest opens, else the newest.
    pub copy: Option<CopyToRestore>,
    /// Whether the guest's last run ended normally, and no start since then had a TPM state.
    pub ended_normally: bool,
    /// Why a copy could not be looked at: another time it may be there to restore.
    pub unreadable: Option<String>,
}

/// A saved copy of a TPM state, as far as a verdict needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyToRestore {
    /// When in a guest's life it was saved.
    pub reason: CopyReason,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// Whether it is encrypted.
    pub is_encrypted: bool,
    /// Whether a key of the guest opens it.
    pub is_proven: bool,
    /// Whether a later run of the guest is known: restoring it would set the TPM back.
    pub is_outdated: bool,
}

/// When in a guest's life a copy of its TPM state is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyReason {
    /// Before a start, which may fail.
    Start,
    /// After a run that ended normally.
    Release,
    /// Likewise, on a host of the fleet: it is in the shared store.
    Fleet,
}

impl CopyReason {
    /// Its name, as JSON and the copies' manifests spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Release => "release",
            Self::Fleet => "fleet",
        }
    }
}
