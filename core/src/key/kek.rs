//! The key of a provider, which wraps DEKs.

use zeroize::Zeroizing;

use super::derive::derive;
use super::id::KeyId;
use super::random::{self, RandomError};

/// 256 random bits. Wiped when dropped; no `Debug`, `Clone` or `Serialize`. They are in a box,
/// so that moving the key leaves no copies behind on the stack.
pub struct Kek(Box<Zeroizing<[u8; Self::LEN]>>);

impl Kek {
    /// The length in bytes.
    pub const LEN: usize = 32;

    /// Makes a new key.
    pub fn generate() -> Result<Self, RandomError> {
        Self::made_by(|bytes| random::fill(bytes))
    }

    /// Copies the bytes of an existing one; `None` unless there are exactly [`Self::LEN`].
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let mut key = Box::new(Zeroizing::new([0; Self::LEN]));
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    /// Lets `make` write the key into its box.
    pub fn made_by<E>(make: impl FnOnce(&mut [u8; Self::LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Box::new(Zeroizing::new([0; Self::LEN]));
        make(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes, for wrapping, sealing and export.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The identity of these bytes:
    /// `HKDF-SHA256(IKM = KEK, salt = "", info = "vtpm-guard key id 1")`, 16 bytes.
    ///
    /// Whoever knows it knows nothing of the KEK, nor of the keys that wrap DEKs: those come
    /// from the same function under another `info`. Two KEKs share one by chance only after
    /// some 2^64 of them.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId::from_bytes(*derive(self.expose(), b"", b"vtpm-guard key id 1"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn no_two_new_keys_are_the_same() {
        let (one, other) = (Kek::generate().unwrap(), Kek::generate().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_ne!(one.key_id(), other.key_id());
    }

    #[test]
    fn the_key_id_never_changes() {
        // Stores and keyrings out there hold key ids: this value stays.
        let kek = Kek::from_slice(&[0x42; Kek::LEN]).unwrap();
        assert_eq!(kek.key_id().to_string(), "dca02314b137fc92cce2c3308ee77dd3");
    }

    #[test]
    fn thirty_two_bytes_are_a_key_and_no_other_number_is() {
        assert!(Kek::from_slice(&[1; 32]).is_some());
        assert!(Kek::from_slice(&[1; 31]).is_none());
        assert!(Kek::from_slice(&[1; 33]).is_none());
    }
}
