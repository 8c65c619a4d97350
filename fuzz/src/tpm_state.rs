//! Any bytes as a TPM state, in both of swtpm's formats: nothing panics, nothing is read beyond
//! the input, and nothing is proven by a key that cannot have made it.

use std::io::Cursor;

use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::swtpm::format::{self, Contents};
use vtpm_guard::internals::swtpm::linear;
use zeroize::Zeroizing;

/// Tries these bytes.
pub fn check(data: &[u8]) {
    try_state(data);
    if let Ok(Some(permall)) = linear::read_permall(Cursor::new(data)) {
        assert!(permall.len() <= data.len());
        try_state(&permall);
    }
}

fn try_state(blob: &[u8]) {
    if let Ok(Contents::Encrypted(state)) = format::parse(blob) {
        let dek = Dek::from_bytes(Zeroizing::new(b"nobody has this passphrase".to_vec()));
        assert!(!state.is_opened_by(&dek));
    }
}
