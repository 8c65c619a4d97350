//! Re-encrypts a TPM's data: from plain to encrypted, or from one DEK to another. The TPM that the
//! guest sees stays the same, byte for byte.
//!
//! ```text
//! padded    = data || N bytes of value N, up to the next multiple of 32 (N: 1 to 32)
//! encrypted = AES-256-CBC(file key, first 16 bytes of the IV, padded)   [FIPS 197, SP 800-38A]
//! MAC       = HMAC-SHA-256(file key, encrypted || all 32 bytes of the IV)
//! ```
//!
//! (swtpm, `src/swtpm/swtpm_aes.c`: `SWTPM_SymmetricKeyData_EncryptCBC`; the file key:
//! [`proof`](super::proof). swtpm pads to the length of the key, not to that of AES's blocks.)

use aes::Aes256;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use zeroize::Zeroizing;

use super::error::StateError;
use super::format::{self, Records};
use super::proof::{EncryptedState, FileKey, FileKeyLen};
use crate::key::dek::Dek;
use crate::key::random::{self, RandomError};

#[cfg(feature = "internals")]
pub mod forged;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

const BLOCK_LEN: usize = 16;
const IV_LEN: usize = 32;
const PADDED_TO: usize = 32;

/// Why a state cannot be re-encrypted.
#[derive(Debug, thiserror::Error)]
pub enum RecryptError {
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// No IV could be generated.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The MAC does not verify: the state has another DEK.
    #[error("it is encrypted with another key")]
    OtherKey,
    /// AES-128, swtpm's default: libvirt neither uses it nor starts a guest with it.
    #[error("it is encrypted with a 128-bit key, which libvirt never uses")]
    ShortKey,
    /// The MAC verifies, but the decrypted data has no valid padding: swtpm would not accept it.
    #[error("its decrypted data has no valid padding: it is damaged")]
    Padding,
}

/// A TPM's plaintext data. Wiped when dropped. It must never be written unencrypted.
pub struct TpmData(Zeroizing<Vec<u8>>);

impl TpmData {
    /// The data, for a test to compare.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the data of a plain state; `None` if the state is encrypted.
    pub fn from_plain(blob: &[u8]) -> Result<Option<Self>, StateError> {
        Ok(match format::split(blob)? {
            Records::Plain(data) => Some(Self(Zeroizing::new(data.to_vec()))),
            Records::Encrypted { .. } => None,
        })
    }

    /// Decrypts the data of a state.
    pub fn decrypt(blob: &[u8], dek: &Dek) -> Result<Self, RecryptError> {
        Self::decrypt_by(blob, || FileKey::of(dek, FileKeyLen::Bits256))
    }

    /// Decrypts the data of a state with this file key, which is only derived if the state is one.
    fn decrypt_by(blob: &[u8], file_key: impl FnOnce() -> FileKey) -> Result<Self, RecryptError> {
        let Records::Encrypted {
            key_len,
            data,
            iv,
            mac,
        } = format::split(blob)?
        else {
            return Err(StateError::EncryptedData.into());
        };
        if key_len == FileKeyLen::Bits128 {
            return Err(RecryptError::ShortKey);
        }
        let state = EncryptedState::new(key_len, data, iv, mac).ok_or(StateError::EncryptedData)?;
        let file_key = file_key();
        if !state.is_opened_by_file_key(&file_key) {
            return Err(RecryptError::OtherKey);
        }
        // Without a record of an IV, swtpm uses one of zeros.
        let iv = iv.unwrap_or(&[0; IV_LEN]);
        let mut bytes = Zeroizing::new(data.to_vec());
        let mut cipher =
            cbc::Decryptor::<Aes256>::new_from_slices(file_key.bytes(), &iv[..BLOCK_LEN])
                .map_err(|_| StateError::EncryptedData)?;
        for block in bytes.chunks_exact_mut(BLOCK_LEN) {
            let block = block.try_into().map_err(|_| StateError::EncryptedData)?;
            cipher.decrypt_block(block);
        }
        let len = unpadded_len(&bytes).ok_or(RecryptError::Padding)?;
        bytes.truncate(len);
        Ok(Self(bytes))
    }

    /// Returns a state with this data, encrypted with `dek` as libvirt's swtpm does.
    pub fn encrypt(&self, dek: &Dek) -> Result<Vec<u8>, RecryptError> {
        let mut iv = [0; IV_LEN];
        random::fill(&mut iv)?;
        self.encrypt_with_iv(dek, &iv)
    }

    /// Tests with vectors choose the IV.
    fn encrypt_with_iv(&self, dek: &Dek, iv: &[u8; IV_LEN]) -> Result<Vec<u8>, RecryptError> {
        let file_key = FileKey::of(dek, FileKeyLen::Bits256);
        encrypt_blocks(self.padded(), &file_key, iv)
    }

    /// Returns the data with its padding, in a buffer that never grows: growing would leave a copy.
    fn padded(&self) -> Zeroizing<Vec<u8>> {
        let padding = PADDED_TO - self.0.len() % PADDED_TO;
        let mut padded = Zeroizing::new(Vec::with_capacity(self.0.len() + padding));
        padded.extend_from_slice(&self.0);
        #[allow(clippy::cast_possible_truncation, reason = "it is 32 at most")]
        padded.resize(self.0.len() + padding, padding as u8);
        padded
    }

    /// Returns whether both are the same, in constant time.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(&other.0).into()
    }
}

/// Returns a state whose decrypted data are these blocks, padding and all.
fn encrypt_blocks(
    mut bytes: Zeroizing<Vec<u8>>,
    file_key: &FileKey,
    iv: &[u8; IV_LEN],
) -> Result<Vec<u8>, RecryptError> {
    let mut cipher = cbc::Encryptor::<Aes256>::new_from_slices(file_key.bytes(), &iv[..BLOCK_LEN])
        .map_err(|_| StateError::EncryptedData)?;
    for block in bytes.chunks_exact_mut(BLOCK_LEN) {
        let block = block.try_into().map_err(|_| StateError::EncryptedData)?;
        cipher.encrypt_block(block);
    }
    let authenticated = [&bytes[..], iv].concat();
    file_key
        .mac(&authenticated)
        .and_then(|mac| format::join_encrypted(&bytes, &mac, iv))
        .ok_or_else(|| StateError::TooLong.into())
}

/// Returns the length without the padding; `None` if the padding is invalid. The MAC has verified,
/// so the answer tells an attacker nothing.
fn unpadded_len(padded: &[u8]) -> Option<usize> {
    let padding = *padded.last()?;
    let len = padded.len().checked_sub(usize::from(padding))?;
    let valid = (1..=PADDED_TO).contains(&usize::from(padding))
        && padded[len..].iter().all(|&byte| byte == padding);
    valid.then_some(len)
}
