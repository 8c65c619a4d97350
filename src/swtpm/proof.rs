//! Whether a DEK opens an encrypted TPM state: certain before anything starts.
//!
//! ```text
//! file key = PBKDF2-HMAC-SHA-512(password = DEK, salt = "swtpm", 1000 rounds)   [RFC 8018]
//! MAC      = HMAC-SHA-256(file key, encrypted data || IV)                       [RFC 2104]
//! ```
//!
//! (swtpm, `src/swtpm/key.c`: `key_from_pwdfile_fd`; `src/swtpm/swtpm_nvstore.c`:
//! `SWTPM_CheckHMAC`.) A line feed at the end of a DEK is part of the key, so are NUL bytes
//! within it, and an empty DEK is a key like any other. Only NUL bytes at the end of a DEK of up to
//! 128 bytes do not matter, because HMAC pads its key with them: swtpm opens the same state with and
//! without them.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

use crate::key::dek::Dek;

const KDF_SALT: &[u8] = b"swtpm";
const KDF_ROUNDS: u32 = 1000;
pub(super) const MAC_LEN: usize = 32;
const AES_BLOCK_LEN: usize = 16;

/// The length of the AES key that a state is encrypted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKeyLen {
    /// swtpm's default, and the only length in its old versions. libvirt does not use it: a swtpm
    /// that libvirt starts answers "Wrong decryption key" even to the right DEK.
    Bits128,
    /// `mode=aes-256-cbc`, libvirt's choice.
    Bits256,
}

impl FileKeyLen {
    pub(super) const MAX_BYTES: usize = 32;

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Bits128 => 16,
            Self::Bits256 => Self::MAX_BYTES,
        }
    }
}

/// The parts of an encrypted state that prove a key: its ciphertext, IV and MAC.
pub struct EncryptedState {
    key_len: FileKeyLen,
    /// The bytes that the MAC covers: the encrypted data and, if there is one, the IV.
    authenticated: Vec<u8>,
    mac: [u8; MAC_LEN],
}

impl EncryptedState {
    /// Takes the records of a state. `None` if swtpm would not decrypt them with any key: the data
    /// must be whole AES blocks and at least as long as the key; an IV must be as long as the key;
    /// bytes of the MAC beyond SHA-256's length are ignored.
    pub(super) fn new(
        key_len: FileKeyLen,
        data: &[u8],
        iv: Option<&[u8]>,
        mac: &[u8],
    ) -> Option<Self> {
        let mac = *mac.first_chunk()?;
        let data_fits = data.len() >= key_len.bytes() && data.len().is_multiple_of(AES_BLOCK_LEN);
        let iv_fits = iv.is_none_or(|iv| iv.len() == key_len.bytes());
        (data_fits && iv_fits).then(|| Self {
            key_len,
            authenticated: [data, iv.unwrap_or_default()].concat(),
            mac,
        })
    }

    /// Returns whether `dek` opens this state: whether its MAC verifies, in constant time, with the
    /// file key that is derived from `dek`. Each call costs a key derivation (about a millisecond).
    #[must_use]
    pub fn is_opened_by(&self, dek: &Dek) -> bool {
        self.is_opened_by_file_key(&FileKey::of(dek, self.key_len))
    }

    /// The same, with the key that is derived from a DEK.
    pub(super) fn is_opened_by_file_key(&self, file_key: &FileKey) -> bool {
        file_key.authenticates(&self.authenticated, &self.mac)
    }
}

/// The key that swtpm derives from a DEK for one state file. Wiped when dropped. It is in a box, so
/// that moving it leaves no copies on the stack.
#[cfg_attr(feature = "internals", derive(Clone))]
pub(super) struct FileKey {
    bytes: Box<Zeroizing<[u8; FileKeyLen::MAX_BYTES]>>,
    len: FileKeyLen,
}

impl FileKey {
    pub(super) fn of(dek: &Dek, len: FileKeyLen) -> Self {
        let mut bytes = Box::new(Zeroizing::new([0; FileKeyLen::MAX_BYTES]));
        let key = &mut bytes[..len.bytes()];
        pbkdf2::pbkdf2_hmac::<Sha512>(dek.expose(), KDF_SALT, KDF_ROUNDS, key);
        Self { bytes, len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.bytes()]
    }

    fn authenticates(&self, authenticated: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        self.hmac(authenticated)
            .is_some_and(|computed| computed.verify_slice(mac).is_ok())
    }

    /// Returns the MAC of encrypted data followed by its IV.
    pub(super) fn mac(&self, authenticated: &[u8]) -> Option<[u8; MAC_LEN]> {
        self.hmac(authenticated)
            .map(|computed| computed.finalize().into_bytes().into())
    }

    /// HMAC takes keys of any length, so there is always one.
    fn hmac(&self, authenticated: &[u8]) -> Option<Hmac<Sha256>> {
        let mac = Hmac::<Sha256>::new_from_slice(self.bytes()).ok()?;
        Some(mac.chain_update(authenticated))
    }
}

/// Without the ciphertext, which may have megabytes.
impl fmt::Debug for EncryptedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedState")
            .field("key_len", &self.key_len)
            .finish_non_exhaustive()
    }
}
