//! Any text as a file that libvirt or swtpm writes and the hook looks into: the status of a guest, swtpm's log, whose owner
//! is swtpm's user. A job is found wherever it is, and none where there is none; what is reported of a log is one short line that
//! says nothing to a terminal.

use vtpm_guard::internals::guard::{is_status, last_lines};
use vtpm_guard::internals::messages::misleads;

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(!is_status(&text) || text.contains("<job "));
    // The first job counts.
    let job = "<domstatus state='paused'>\n<job type='none' async='start' phase='none'/>";
    assert!(is_status(&format!("{job}{text}")));
    let line = last_lines(&text);
    // What stood before four other lines is not reported.
    let four = ["one", "two", "three", "four"];
    let later = last_lines(&format!("{text}\n{}\n", four.join("\n")));
    assert_eq!(later, Some(four.join(" | ")));
    if let Some(line) = line {
        assert!(!line.is_empty() && !line.contains(misleads));
        assert!(line.chars().count() < 4 * 10 * 200, "{}", line.len());
    }
}
