//! What swtpm wrote to the log of a guest whose start failed.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::context::Guard;
use crate::domain::Domain;
use crate::host::others;
use crate::messages::one_line;

/// How many of the last lines of swtpm's log are reported, and how many characters of each.
const LOG_LINES: usize = 4;
const LOG_LINE_LENGTH: usize = 200;

/// How much of the end of swtpm's log is read, in bytes.
const LOG_LIMIT: u64 = 4096;

/// Returns how long the log of this guest is, in bytes; 0 if there is none.
pub(super) fn length(guard: &Guard, domain: &Domain) -> u64 {
    fs::symlink_metadata(log_path(guard, domain)).map_or(0, |metadata| metadata.len())
}

/// Returns the last lines that swtpm has written to the log of this guest after its first `start`
/// bytes, as one line. The file belongs to swtpm's user.
pub(super) fn since(guard: &Guard, domain: &Domain, start: u64) -> Option<String> {
    let read = || -> io::Result<String> {
        let mut log = others::open(&log_path(guard, domain))?;
        let metadata = log.metadata()?;
        // A second name of another file would let its owner read that one here.
        if metadata.nlink() > 1 {
            return Ok(String::new());
        }
        let length = metadata.len();
        // A log that is shorter now is another one.
        let from = if start <= length { start } else { 0 };
        log.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_LIMIT))))?;
        let mut bytes = Vec::new();
        log.take(LOG_LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    last_lines(&read().ok()?)
}

/// The last lines of a log, as one line.
#[must_use]
pub fn last_lines(log: &str) -> Option<String> {
    let lines: Vec<_> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let cut = |line: &&str| one_line(&line.chars().take(LOG_LINE_LENGTH).collect::<String>());
    let said = last.iter().map(cut).collect::<Vec<_>>().join(" | ");
    (!said.is_empty()).then_some(said)
}

fn log_path(guard: &Guard, domain: &Domain) -> PathBuf {
    guard
        .config
        .libvirt
        .swtpm_logs
        .join(format!("{}-swtpm.log", domain.name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::Config;
    use crate::host::dirs::StateDir;
    use crate::ids::DomainUuid;

    fn setting() -> (tempfile::TempDir, Guard, Domain) {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path().join("state"));
        let mut guard = Guard::new(Config::default(), state_dir);
        guard.config.libvirt.swtpm_logs = dir.path().to_owned();
        let domain = Domain {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            vtpm: None,
            travelling: None,
        };
        (dir, guard, domain)
    }

    #[test]
    fn the_lines_that_swtpm_wrote_since_are_one_line() {
        let (dir, guard, domain) = setting();
        let log = log_path(&guard, &domain);
        fs::write(&log, "of a run before\n").unwrap();
        let start = length(&guard, &domain);
        let said = || since(&guard, &domain, start);
        assert_eq!(said(), None);
        let endless = "x".repeat(10_000);
        fs::write(
            &log,
            format!("of a run before\n\none\ntwo\nthree\n\u{1b}[31mfour\n{endless}\n"),
        )
        .unwrap();
        let line = said().unwrap();
        assert!(
            !line.contains(char::is_control) && !line.contains("before"),
            "{line}"
        );
        assert!(line.len() as u64 <= LOG_LIMIT, "{}", line.len());

        fs::write(&log, "of a run before\none\ntwo\nthree\nfour\nfive\n").unwrap();
        assert_eq!(said().unwrap(), "two | three | four | five");
        fs::write(&log, "new\n").unwrap();
        assert_eq!(said().unwrap(), "new", "it was rotated");
        fs::remove_file(&log).unwrap();
        symlink("/etc/passwd", &log).unwrap();
        assert_eq!(said(), None, "no link is followed");
        fs::remove_file(&log).unwrap();
        let others = dir.path().join("others");
        fs::write(&others, "a secret of root's\n").unwrap();
        fs::hard_link(&others, &log).unwrap();
        assert_eq!(said(), None, "it is another file's second name");
    }
}
