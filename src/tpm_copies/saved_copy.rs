//! One saved copy of a TPM state.

use super::files::hash;
use super::live_state::LiveState;
use super::manifest::{Attributes, FORMAT, Manifest};
use crate::clock::Timestamp;
use crate::domain::TpmVersion;
use crate::fleet::FactId;
use crate::ids::DomainUuid;
use crate::swtpm::{self, StateFile, StatePath};
use crate::verdict::facts::CopyReason;

/// A saved copy, with its bytes.
#[derive(Debug)]
pub struct SavedCopy {
    /// Its manifest.
    pub manifest: Manifest,
    pub(super) bytes: Vec<u8>,
    /// Whether a later run of the guest is known, of a copy that is none of this host's own; of its own, one of which it
    /// has heard only now.
    pub is_followed: bool,
}

impl SavedCopy {
    /// Returns a copy in memory only: of a state that is to become another guest's.
    #[must_use]
    pub fn of(live: LiveState, domain_name: &str, reason: CopyReason) -> Self {
        Self {
            manifest: manifest(&live, domain_name, reason),
            bytes: live.bytes,
            is_followed: false,
        }
    }

    /// Returns a copy in memory only: of a state that another host has saved at this time. Owners and modes are those
    /// that this host gives to a new state of `owner`, swtpm's user.
    #[must_use]
    pub fn of_fleet(
        bytes: Vec<u8>,
        domain_name: &str,
        (tpm_version, saved_at): (TpmVersion, Timestamp),
        place: &StatePath,
        owner: (u32, u32),
    ) -> Self {
        let made = place.made_directories();
        let file = Attributes {
            uid: owner.0,
            gid: owner.1,
            mode: 0o600,
        };
        let directory = |at| {
            // The innermost one is swtpm's.
            if at + 1 == made {
                return Attributes {
                    mode: 0o700,
                    ..file
                };
            }
            Attributes {
                uid: 0,
                gid: 0,
                mode: 0o711,
            }
        };
        Self {
            manifest: Manifest {
                format: FORMAT,
                number: 1,
                domain_name: domain_name.to_owned(),
                reason: CopyReason::Fleet,
                kept_at: saved_at.0,
                set_aside_at: None,
                tpm_version,
                backend: place.backend(),
                path: place.path.clone(),
                file,
                directories: (0..made).map(directory).collect(),
                sha256: hash(&bytes),
            },
            bytes,
            is_followed: false,
        }
    }

    /// Returns its identity in the shared store of a fleet.
    #[must_use]
    pub fn id_in_fleet(&self, domain: DomainUuid) -> FactId {
        FactId::of_state(domain, &self.bytes)
    }

    /// Returns whether another host has saved it.
    #[must_use]
    pub fn is_of_fleet(&self) -> bool {
        self.manifest.reason == CopyReason::Fleet
    }

    /// The name of a copy with these bytes.
    #[cfg(test)]
    pub(crate) fn sha256_of(bytes: &[u8]) -> String {
        hash(bytes)
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
