//! Any text as a file that libvirt or swtpm writes and the hook looks into: the status of a guest, swtpm's log, whose owner
//! is swtpm's user. Nothing panics, and what is told of a log is one short line that says nothing to a terminal.

use vtpm_guard::internals::guard::{is_status, last_lines};

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = is_status(&text);
    if let Some(line) = last_lines(&text) {
        assert!(!line.is_empty() && !line.contains(char::is_control));
        assert!(line.chars().count() < 4 * 10 * 200, "{}", line.len());
    }
}
