//! Any text as libvirt's definition of a secret: nothing panics.

use vtpm_guard::internals::libvirt::secret::SecretDefinition;

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = SecretDefinition::parse(text);
}
