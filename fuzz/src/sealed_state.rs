//! Any bytes as what is behind the MAC of a TPM state, which somebody with its key may have made: padding, lengths, an IV.
//! What decrypts is what was encrypted, to the byte, and what does not says why; the wrong key is never blamed.

use std::sync::OnceLock;

use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::swtpm::format::{self, Contents};
use vtpm_guard::internals::swtpm::{Forger, RecryptError, TpmData};
use zeroize::Zeroizing;

/// AES's blocks; the length of a file key, an IV and the longest padding.
const BLOCK: usize = 16;
const KEY: usize = 32;

/// Tries these bytes.
pub fn check(data: &[u8]) {
    try_plaintext(data);
    try_state(data);
    try_plain_state(data);
}

/// These bytes as decrypted data, the first of them as the IV.
fn try_plaintext(data: &[u8]) {
    let Some((iv, padded)) = data.split_first_chunk::<KEY>() else {
        return;
    };
    let whole = &padded[..padded.len() / BLOCK * BLOCK];
    let state = forger().seal(whole, iv).expect("a short state");
    match forger().decrypt(&state) {
        Ok(opened) => assert_eq!(opened.bytes(), unpadded(whole).expect("no padding")),
        Err(RecryptError::Padding) => assert_eq!(unpadded(whole), None),
        // swtpm decrypts nothing that is shorter than the key.
        Err(RecryptError::State(_)) => assert!(whole.len() < KEY),
        Err(error) => panic!("{error}"),
    }
    // What was cut off is no whole block.
    if whole.len() < padded.len() {
        let state = forger().seal(padded, iv).expect("a short state");
        assert!(matches!(
            forger().decrypt(&state),
            Err(RecryptError::State(_))
        ));
    }
}

/// Whether these bytes are opened as a state that is signed, and as data that are sealed.
pub fn opened(data: &[u8]) -> (bool, bool) {
    let mut state = data.to_vec();
    let is_signed = forger().sign(&mut state);
    let as_state = is_signed && forger().decrypt(&state).is_ok();
    let sealed = data.split_first_chunk::<KEY>();
    let sealed = sealed.and_then(|(iv, padded)| forger().seal(padded, iv).ok());
    (
        as_state,
        sealed.is_some_and(|sealed| forger().decrypt(&sealed).is_ok()),
    )
}

/// swtpm's padding, written down once more: N bytes of value N, 1 to 32.
fn unpadded(padded: &[u8]) -> Option<&[u8]> {
    (1..=KEY).find_map(|count| {
        let padding = vec![u8::try_from(count).ok()?; count];
        padded.strip_suffix(&padding[..])
    })
}

/// These bytes as a state whose MAC is right, whatever its records are.
fn try_state(data: &[u8]) {
    let mut state = data.to_vec();
    if !forger().sign(&mut state) {
        assert!(forger().decrypt(data).is_err());
        return;
    }
    match forger().decrypt(&state) {
        Ok(opened) => {
            assert!(opened.bytes().len() < data.len());
            assert_eq!(changed(&state).err(), Some("another key"));
        }
        Err(RecryptError::OtherKey) => panic!("the MAC is right"),
        Err(_) => {}
    }
}

/// The same with another bit in its MAC, which no key opens.
fn changed(state: &[u8]) -> Result<(), &'static str> {
    let mut state = state.to_vec();
    Forger::spoil(&mut state);
    match forger().decrypt(&state) {
        Ok(_) => Ok(()),
        Err(RecryptError::OtherKey) => Err("another key"),
        Err(_) => Err("another reason"),
    }
}

/// These bytes as a state that is not encrypted: its data come back from an encrypted one.
fn try_plain_state(data: &[u8]) {
    let Ok(Some(plain)) = TpmData::from_plain(data) else {
        return;
    };
    assert!(plain.bytes().len() < data.len());
    let mut padded = plain.bytes().to_vec();
    let padding = KEY - padded.len() % KEY;
    padded.resize(
        padded.len() + padding,
        u8::try_from(padding).expect("32 at most"),
    );
    let state = forger().seal(&padded, &[0x17; KEY]).expect("a short state");
    assert!(matches!(format::parse(&state), Ok(Contents::Encrypted(_))));
    let opened = forger().decrypt(&state).expect("what was encrypted");
    assert!(opened.same_as(&plain));
}

fn forger() -> &'static Forger {
    static FORGER: OnceLock<Forger> = OnceLock::new();
    FORGER.get_or_init(|| {
        let dek = Dek::from_bytes(Zeroizing::new(b"everybody has this passphrase".to_vec()));
        Forger::new(&dek)
    })
}
