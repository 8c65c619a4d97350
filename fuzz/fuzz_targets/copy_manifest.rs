//! Any bytes as the manifest of a saved copy: nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vtpm_guard::internals::tpm_copies::is_manifest;

fuzz_target!(|text: &[u8]| {
    let _ = is_manifest(text);
});
