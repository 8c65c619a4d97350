//! Any text as the configuration: nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vtpm_guard::internals::config::is_valid;

fuzz_target!(|text: &str| {
    let _ = is_valid(text);
});
