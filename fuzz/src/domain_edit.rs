//! Any text as a guest's definition that `encrypt` changes: nothing panics, and what is written is a domain whose TPM is
//! encrypted with that secret, and which is the same guest as before.

use vtpm_guard::internals::domain::{self, encrypt_vtpm, persist_vtpm_state};
use vtpm_guard::internals::ids::SecretUuid;

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let Ok(document) = std::str::from_utf8(data) else {
        return;
    };
    let secret = SecretUuid::from_bytes([0x5e; 16]);
    let before = domain::read(data);
    if let Ok(Some(edited)) = encrypt_vtpm(document, secret) {
        let after = domain::read(edited.as_bytes()).expect("what was written");
        assert_eq!(
            after.encrypted_vtpm().map(|(_, secret)| secret),
            Some(secret)
        );
        let before = before.expect("what was read to edit it");
        assert_eq!((before.name, before.uuid), (after.name, after.uuid));
        assert_eq!(encrypt_vtpm(&edited, secret).ok().flatten(), None, "twice");
    }
    if let Ok(Some(edited)) = persist_vtpm_state(document) {
        domain::read(edited.as_bytes()).expect("what was written");
    }
}
