//! The data key of one vTPM.

use zeroize::Zeroizing;

use super::hex;
use super::random::{self, RandomError};

/// The exact bytes of a libvirt vTPM secret's value. Wiped when dropped; it has no `Debug`,
/// no `Clone` and no `Serialize`, so it cannot slip into a log or a document.
///
/// "Exact" is meant: libvirt hands swtpm the value through a pipe, as a passphrase file, and
/// swtpm (0.7.1; `key_from_pwdfile_fd` in src/swtpm/key.c) feeds all of it to its key
/// derivation. Found with real swtpm: a trailing line feed, a NUL byte and everything behind
/// it count, no length is cut (200,000 bytes tried), and an empty passphrase is taken. Only
/// the reading has a seam: swtpm asks for 1024 bytes at a time and takes a shorter answer as
/// the end, so a longer value is safe only as long as the pipe fills faster than it drains.
pub struct Dek(Zeroizing<Vec<u8>>);

impl Dek {
    /// The longest value that libvirt transports, in bytes: `REMOTE_SECRET_VALUE_MAX` in its
    /// `remote_protocol.x`.
    pub const MAX_LEN: usize = 65_536;

    /// Shorter values, in bytes, can be guessed.
    const STRONG_LEN: usize = 16;

    /// The random bits of a new key, in bytes.
    const RANDOM_LEN: usize = 32;

    /// Makes a new key: 256 random bits as 64 hexadecimal digits. Printable, so that it
    /// survives whatever tool passes it on as a passphrase; short, so that swtpm has it all
    /// in its first read.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bits = Zeroizing::new([0; Self::RANDOM_LEN]);
        random::fill(&mut *bits)?;
        let mut digits = Zeroizing::new(vec![0; 2 * Self::RANDOM_LEN]);
        hex::encode(&*bits, &mut digits);
        Ok(Self(digits))
    }

    /// Takes over the bytes of an existing one, whatever they are.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the few places that must have them: wrapping, proving, handing over.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is so short that somebody who has the TPM's state may guess it: swtpm derives
    /// its file key with 1000 rounds, which is a cheap guess. NULs at the end do not count for
    /// swtpm.
    #[must_use]
    pub fn is_guessable(&self) -> bool {
        let end = self.0.iter().rposition(|byte| *byte != 0);
        end.map_or(0, |last| last + 1) < Self::STRONG_LEN
    }

    /// A second box with the same bytes. By name, for no copy of a key is made by the way.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    /// Whether both are the same key, compared in constant time.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(&other.0).into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_sixty_four_digits_and_no_two_are_the_same() {
        let (one, other) = (Dek::generate().unwrap(), Dek::generate().unwrap());
        assert_eq!(one.expose().len(), 64);
        assert!(one.expose().iter().all(u8::is_ascii_hexdigit));
        assert!(!one.same_as(&other));
    }

    #[test]
    fn a_short_value_can_be_guessed_and_a_new_key_cannot() {
        let dek = |bytes: &[u8]| Dek::from_bytes(Zeroizing::new(bytes.to_vec()));
        for short in [
            &b""[..],
            b"a",
            b"fifteen bytes..",
            b"a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert!(dek(short).is_guessable(), "{short:?}");
        }
        assert!(!dek(b"sixteen bytes...").is_guessable());
        assert!(!Dek::generate().unwrap().is_guessable());
    }

    #[test]
    fn keys_are_the_same_when_all_their_bytes_are() {
        let dek = |bytes: &[u8]| Dek::from_bytes(Zeroizing::new(bytes.to_vec()));
        assert!(dek(b"key\n").same_as(&dek(b"key\n")));
        assert!(!dek(b"key\n").same_as(&dek(b"key")));
        assert!(!dek(b"key\n").same_as(&dek(b"kez\n")));
    }
}
