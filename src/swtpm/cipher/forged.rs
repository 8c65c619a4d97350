//! States that somebody with the key has made, for fuzzing: whatever they contain, their MAC verifies, so that what is
//! behind the authentication is reached. The derivation of the key, which takes a millisecond, is done once.

use zeroize::Zeroizing;

use super::super::format;
use super::super::proof::{FileKey, FileKeyLen};
use super::{IV_LEN, RecryptError, TpmData, encrypt_blocks};
use crate::key::dek::Dek;

/// A key that is known.
pub struct Forger(FileKey);

impl Forger {
    /// Derives what swtpm derives from this DEK.
    #[must_use]
    pub fn new(dek: &Dek) -> Self {
        Self(FileKey::of(dek, FileKeyLen::Bits256))
    }

    /// A state whose decrypted data are these bytes, padding and all.
    pub fn seal(&self, padded: &[u8], iv: &[u8; IV_LEN]) -> Result<Vec<u8>, RecryptError> {
        encrypt_blocks(Zeroizing::new(padded.to_vec()), &self.0, iv)
    }

    /// Puts the MAC that is right into a state, where it has one of its length; whether it has.
    pub fn sign(&self, blob: &mut [u8]) -> bool {
        let Some((authenticated, place)) = format::authenticated(blob) else {
            return false;
        };
        let mac = self.0.mac(&authenticated);
        mac.is_some_and(|mac| {
            blob[place].copy_from_slice(&mac);
            true
        })
    }

    /// Changes a bit of the MAC of a state.
    pub fn spoil(blob: &mut [u8]) {
        if let Some((_, place)) = format::authenticated(blob) {
            blob[place.start] ^= 1;
        }
    }

    /// Decrypts a state as [`TpmData::decrypt`] does with the DEK.
    pub fn decrypt(&self, blob: &[u8]) -> Result<TpmData, RecryptError> {
        TpmData::decrypt_by(blob, || self.0.clone())
    }
}
