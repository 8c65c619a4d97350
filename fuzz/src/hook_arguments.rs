//! Any bytes as the arguments of the hook, which end with a zero byte each: nothing panics, and a call without a guest, an
//! operation and a sub-operation means nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use vtpm_guard::internals::hook::operation;

/// Tries these bytes.
pub fn check(arguments: &[u8]) {
    let words: Vec<_> = arguments.split(|byte| *byte == 0).collect();
    let count = words.len();
    let words = words
        .into_iter()
        .map(|word| OsString::from_vec(word.to_vec()));
    assert!(operation(words).is_none() || count >= 3);
}
