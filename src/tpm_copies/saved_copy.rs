//! One saved copy of a TPM state.

use super::files::hash;
use super::live_state::LiveState;
use super::manifest::{FORMAT, Manifest};
use crate::clock::Timestamp;
use crate::swtpm::{self, StateFile};
use crate::verdict::facts::CopyReason;

/// A saved copy, with its bytes.
#[derive(Debug)]
pub struct SavedCopy {
    /// Its manifest.
    pub manifest: Manifest,
    pub(super) bytes: Vec<u8>,
}

impl SavedCopy {
    /// Returns a copy in memory only: of a state that is to become another guest's.
    #[must_use]
    pub fn of(live: LiveState, domain_name: &str, reason: CopyReason) -> Self {
        Self {
            manifest: manifest(&live, domain_name, reason),
            bytes: live.bytes,
        }
    }

    /// Returns what the state is.
    #[must_use]
    pub fn state(&self) -> StateFile {
        swtpm::state_in(&self.bytes, self.manifest.backend)
    }

    /// Returns its length, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether it may be restored automatically.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.manifest.set_aside_at.is_none()
    }
}

/// Returns the manifest of the first copy of this state.
pub(super) fn manifest(live: &LiveState, domain_name: &str, reason: CopyReason) -> Manifest {
    Manifest {
        format: FORMAT,
        number: 1,
        domain_name: domain_name.to_owned(),
        reason,
        kept_at: Timestamp::now().0,
        set_aside_at: None,
        tpm_version: live.tpm_version,
        backend: live.backend,
        path: live.path.clone(),
        file: live.file,
        directories: live.directories.clone(),
        sha256: hash(&live.bytes),
    }
}
