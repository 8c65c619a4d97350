//! What hosts that have the same KEK say to each other, authenticated with it.
//!
//! ```text
//! key = HKDF-SHA256(IKM = KEK, salt = "", info = "vtpm-guard statement 1"), 32 bytes
//! mac = HMAC-SHA256(key, subject || 0x00 || statement)  (RFC 2104)
//! ```
//!
//! Whoever keeps or carries such a statement can withhold it, and repeat it, but cannot make one.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::derive::derive;
use super::kek::Kek;

/// The length of a statement's MAC, in bytes.
pub const MAC_LEN: usize = 32;

impl Kek {
    /// Returns the MAC of a statement. The subject, which has no NUL in it, keeps statements of different kinds
    /// apart.
    #[must_use]
    pub fn mac(&self, subject: &str, statement: &[u8]) -> [u8; MAC_LEN] {
        self.keyed(subject, statement)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether this is the MAC of the statement, compared in constant time.
    #[must_use]
    pub fn has_stated(&self, subject: &str, statement: &[u8], mac: &[u8]) -> bool {
        self.keyed(subject, statement).verify_slice(mac).is_ok()
    }

    fn keyed(&self, subject: &str, statement: &[u8]) -> Hmac<Sha256> {
        let key = derive::<MAC_LEN>(self.expose(), b"", b"vtpm-guard statement 1");
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::new_from_slice(&*key).expect("any length");
        mac.update(subject.as_bytes());
        mac.update(&[0]);
        mac.update(statement);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek(byte: u8) -> Kek {
        Kek::made_by(|bytes| {
            bytes.fill(byte);
            Ok::<_, ()>(())
        })
        .unwrap_or_else(|()| unreachable!())
    }

    #[test]
    fn a_statement_counts_for_its_key_its_subject_and_its_words_alone() {
        let mac = kek(1).mac("status", b"retired");
        assert!(kek(1).has_stated("status", b"retired", &mac));
        assert!(!kek(2).has_stated("status", b"retired", &mac));
        assert!(!kek(1).has_stated("placement", b"retired", &mac));
        assert!(!kek(1).has_stated("status", b"live", &mac));
        assert!(!kek(1).has_stated("status", b"retired", &mac[1..]));
        assert!(!kek(1).has_stated("status", b"retired", b""));
        // What is between subject and statement cannot move.
        assert_ne!(kek(1).mac("a", b"b"), kek(1).mac("ab", b""));
    }

    #[test]
    fn the_mac_never_changes() {
        // Shared stores hold such statements: this value stays.
        let mac = kek(0x42).mac("status", b"{}");
        let mut digits = [0; 2 * MAC_LEN];
        crate::key::hex::encode(&mac, &mut digits);
        assert_eq!(
            String::from_utf8_lossy(&digits),
            "6ab4726bdd3b045742357add0baa2f2d2822e67173a0a4c3e2be58f8e24e9e4c"
        );
    }
}
