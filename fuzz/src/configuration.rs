//! Any text as the configuration: a comment changes nothing, and what is not known is an error whatever stands before it.

use vtpm_guard::internals::config::is_valid;

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // What begins a text may not follow a comment.
    let text = text.trim_start_matches('\u{feff}');
    let valid = is_valid(text);
    assert_eq!(is_valid(&format!("# a comment\n{text}")), valid);
    assert!(!is_valid(&format!("{text}\n[no-such-section]\nkey = 1\n")));
    assert!(!is_valid(&format!("no-such-key = 1\n{text}")));
}
