//! swtpm's TPM state file: where it is, what it is, and whether a DEK opens it.

use std::path::{Path, PathBuf};

use crate::domain::Emulator;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;

/// libvirt's directory of TPM states.
pub const LIBVIRT_STATE_DIR: &str = "/var/lib/libvirt/swtpm";

/// The TPM state found at one place.
#[derive(Debug)]
pub enum StateFile {
    /// No file, or an empty place: libvirt would make a new TPM.
    Absent,
    /// Not encrypted.
    Plain,
    /// Encrypted.
    Encrypted(EncryptedState),
    /// There is something, and it is damaged or unreadable: says how.
    Unreadable(String),
}

/// What of an encrypted state is needed to prove a key: its ciphertext, IV and HMAC.
#[derive(Debug)]
pub struct EncryptedState {
    _private: (),
}

impl EncryptedState {
    /// Whether `dek` opens this state: its MAC verifies under the file key made from `dek`.
    #[must_use]
    pub fn is_opened_by(&self, dek: &Dek) -> bool {
        let _ = dek;
        false
    }
}

/// Where the state of a domain's emulated TPM is.
#[must_use]
pub fn state_path(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> PathBuf {
    let _ = (domain, vtpm);
    libvirt_state_dir.to_owned()
}

/// Reads the state of a domain's emulated TPM. Never fails: what cannot be read is `Unreadable`.
#[must_use]
pub fn read_state(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> StateFile {
    let _ = state_path(libvirt_state_dir, domain, vtpm);
    StateFile::Absent
}
