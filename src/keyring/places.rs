//! Where the sealed KEKs are: next to the store, or on tmpfs.

use std::io::ErrorKind;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::dir::Dir;
use super::error::KeyringError;
use super::keks::Keyring;
use crate::host::crash;
use crate::key::id::KeyId;

/// Where this host keeps a KEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KekPlace {
    /// Next to the store.
    Disk,
    /// On tmpfs, until the next reboot.
    Tmpfs,
}

impl KekPlace {
    /// Both, in the order in which they are looked at.
    pub(super) const ALL: [Self; 2] = [Self::Disk, Self::Tmpfs];
}

/// The file of a KEK.
pub(super) struct FoundKek {
    place: KekPlace,
    pub(super) file: Zeroizing<Vec<u8>>,
}

impl Keyring {
    /// Returns where this host keeps a KEK.
    pub fn place(&self, key_id: KeyId) -> Result<KekPlace, KeyringError> {
        self.read(key_id).map(|found| found.place)
    }

    /// Returns whether this host keeps a KEK there, or may: where it is cannot be read.
    #[must_use]
    pub fn may_be_in(&self, place: KekPlace, key_id: KeyId) -> bool {
        match self.place(key_id) {
            Ok(found) => found == place,
            Err(error) => !matches!(error, KeyringError::Missing(_)),
        }
    }

    pub(super) fn read(&self, key_id: KeyId) -> Result<FoundKek, KeyringError> {
        // Once more where it was looked for first: it may have been moved there just then.
        for place in KekPlace::ALL.into_iter().chain([KekPlace::Disk]) {
            let dir = self.opened(place)?;
            if let Some(file) = dir.map(|dir| dir.read(key_id)).transpose()?.flatten() {
                return Ok(FoundKek { place, file });
            }
            crash::point();
        }
        Err(KeyringError::Missing(key_id))
    }

    pub(super) fn dir_of(&self, place: KekPlace) -> Option<&PathBuf> {
        match place {
            KekPlace::Disk => Some(&self.dir),
            KekPlace::Tmpfs => self.boot_dir.as_ref(),
        }
    }

    /// The directory in which a file was found.
    pub(super) fn holder(&self, found: &FoundKek) -> &PathBuf {
        self.dir_of(found.place).unwrap_or(&self.dir)
    }

    /// Opens a directory; `None` if there is none.
    pub(super) fn opened(&self, place: KekPlace) -> Result<Option<Dir>, KeyringError> {
        let Some(path) = self.dir_of(place) else {
            return Ok(None);
        };
        match Dir::open(path) {
            // The host's, while another user tries the program.
            Err(KeyringError::Io(error))
                if place == KekPlace::Tmpfs && error.kind() == ErrorKind::PermissionDenied =>
            {
                Ok(None)
            }
            dir => dir,
        }
    }

    /// Where the key is, for errors about it.
    pub(super) fn path(&self, key_id: KeyId) -> PathBuf {
        let name = key_id.to_string();
        let mut dirs = KekPlace::ALL
            .into_iter()
            .filter_map(|place| self.dir_of(place));
        let dir = dirs.find(|dir| dir.join(&name).exists());
        dir.unwrap_or(&self.dir).join(name)
    }
}
