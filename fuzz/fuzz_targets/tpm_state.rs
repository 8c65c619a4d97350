//! Any bytes as a TPM state, in both of swtpm's formats: nothing panics, nothing is read beyond
//! the input, and nothing is proven by a key that cannot have made it.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::swtpm::format::{self, Contents};
use vtpm_guard::internals::swtpm::linear;
use zeroize::Zeroizing;

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Ok(Some(permall)) = linear::read_permall(Cursor::new(data)) {
        assert!(permall.len() <= data.len());
        check(&permall);
    }
});

fn check(blob: &[u8]) {
    if let Ok(Contents::Encrypted(state)) = format::parse(blob) {
        let dek = Dek::from_bytes(Zeroizing::new(b"nobody has this passphrase".to_vec()));
        assert!(!state.is_opened_by(&dek));
    }
}
