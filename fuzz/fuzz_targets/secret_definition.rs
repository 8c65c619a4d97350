//! Any text as libvirt's definition of a secret: nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vtpm_guard::internals::libvirt::secret::SecretDefinition;

fuzz_target!(|text: &str| {
    let _ = SecretDefinition::parse(text);
});
