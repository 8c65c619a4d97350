//! Any bytes as the manifest of a saved copy: what is read is written, and read again as the same.

use vtpm_guard::internals::tpm_copies::manifest_as_written;

/// Tries these bytes.
pub fn check(text: &[u8]) {
    if let Some(written) = manifest_as_written(text) {
        assert_eq!(manifest_as_written(&written).as_ref(), Some(&written));
    }
}
