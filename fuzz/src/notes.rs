//! Any bytes as what a hook leaves on the host for the next one: notes of starts, of secrets in use, of the last run.
//! Nothing panics, and none is two of them.

use vtpm_guard::internals::fleet::tpm_state::StateNote;
use vtpm_guard::internals::guard::is_note;
use vtpm_guard::internals::tpm_copies::is_run_record;

/// Tries these bytes.
pub fn check(note: &[u8]) {
    let (is_of_start, is_of_secret) = is_note(note);
    assert!(!(is_of_start && is_of_secret && is_run_record(note)));
    if let Some(read) = std::str::from_utf8(note)
        .ok()
        .and_then(StateNote::from_json)
    {
        assert_eq!(StateNote::from_json(&read.to_json()), Some(read));
    }
}
