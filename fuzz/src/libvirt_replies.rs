//! Any bytes as what libvirt's daemon sends to a start that asks for a secret: nothing panics, and nothing is
//! read beyond them.

use vtpm_guard::internals::ids::SecretUuid;
use vtpm_guard::internals::libvirt::value_from;

/// Tries these bytes.
pub fn check(answers: &[u8]) {
    let value = value_from(answers, SecretUuid::from_bytes([0x5e; 16]));
    assert!(value.is_none_or(|value| value.len() <= answers.len()));
}
