//! A start that the guard has let pass and that has not succeeded yet: a note on tmpfs, from
//! `prepare` to `started`. Where it is still there when the guest stops, the start has failed.
//!
//! libvirt itself says so only since 10.5, and only at `release end`.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::libc;
use serde::{Deserialize, Serialize};

use super::Guard;
use super::status::has_run;
use crate::domain::Domain;
use crate::report::one_line;

/// How much is told of swtpm's log: its last lines, and as much of each, in characters.
const LOG_LINES: usize = 4;
const LOG_LINE_LENGTH: usize = 200;

/// As much of the end of swtpm's log as is read, in bytes.
const LOG_LIMIT: u64 = 4096;

/// The note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// There was no TPM state, because one was on its way: what is there after a failure is not
    /// the guest's.
    pub(super) awaits_state: bool,
    /// How long swtpm's log was, in bytes: what comes after that is about this start.
    log_length: u64,
}

/// Notes a start that goes on.
pub(super) fn note(guard: &Guard, domain: &Domain, awaits_state: bool) -> io::Result<()> {
    let begun = Begun {
        awaits_state,
        log_length: fs::symlink_metadata(log_path(guard, domain)).map_or(0, |it| it.len()),
    };
    let path = path(guard, domain);
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    fs::write(path, serde_json::to_vec(&begun)?)
}

/// Takes the note of a start away, if there is one.
pub(super) fn take(guard: &Guard, domain: &Domain) -> Option<Begun> {
    let path = path(guard, domain);
    let bytes = fs::read(&path).ok()?;
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(domain = domain.name, %error, "the note of a start stays");
    }
    serde_json::from_slice(&bytes).ok()
}

/// Takes the note away of a start that has failed; `None` where the guest has run, or its start
/// was refused.
pub(super) fn take_failed(guard: &Guard, domain: &Domain) -> Option<Begun> {
    let begun = take(guard, domain)?;
    // `started` may not have been seen: then libvirt's own notes say that it ran.
    (!has_run(guard, domain)).then_some(begun)
}

/// What swtpm has written to the log of this guest since then, as one line: its last lines. The
/// file belongs to swtpm's user.
pub(super) fn log_since(guard: &Guard, domain: &Domain, begun: &Begun) -> Option<String> {
    let read = || -> io::Result<String> {
        let mut log = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(log_path(guard, domain))?;
        let metadata = log.metadata()?;
        if !metadata.is_file() {
            return Ok(String::new());
        }
        let length = metadata.len();
        // A log that is shorter by now is another one.
        let from = if begun.log_length <= length {
            begun.log_length
        } else {
            0
        };
        log.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_LIMIT))))?;
        let mut bytes = Vec::new();
        log.take(LOG_LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().ok()?;
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let cut = |line: &&str| one_line(&line.chars().take(LOG_LINE_LENGTH).collect::<String>());
    let said = last.iter().map(cut).collect::<Vec<_>>().join(" | ");
    (!said.is_empty()).then_some(said)
}

fn path(guard: &Guard, domain: &Domain) -> PathBuf {
    guard.run_dir.join("starting").join(domain.uuid.to_string())
}

fn log_path(guard: &Guard, domain: &Domain) -> PathBuf {
    guard
        .swtpm_log_dir
        .join(format!("{}-swtpm.log", domain.name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;
    use crate::ids::DomainUuid;

    fn setting() -> (TempDir, Guard, Domain) {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(Config::default(), dir.path().join("state"));
        guard.run_dir = dir.path().join("guard");
        guard.libvirt_run_dir = dir.path().join("run");
        guard.swtpm_log_dir = dir.path().to_owned();
        fs::create_dir(&guard.libvirt_run_dir).unwrap();
        let domain = Domain {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            vtpm: None,
        };
        (dir, guard, domain)
    }

    #[test]
    fn a_start_has_failed_once_if_nobody_has_taken_its_note_and_it_never_ran() {
        let (_dir, guard, domain) = setting();
        assert_eq!(take_failed(&guard, &domain), None);
        for awaits_state in [false, true] {
            note(&guard, &domain, awaits_state).unwrap();
            let failed = take_failed(&guard, &domain).unwrap();
            assert_eq!(failed.awaits_state, awaits_state);
            assert_eq!(take_failed(&guard, &domain), None);
        }
        let status = guard.libvirt_run_dir.join("vm1.xml");
        for (job, has_failed) in [("start", true), ("none", false)] {
            fs::write(&status, format!("<job type='none' async='{job}'/>")).unwrap();
            note(&guard, &domain, false).unwrap();
            assert_eq!(take_failed(&guard, &domain).is_some(), has_failed, "{job}");
        }
    }

    #[test]
    fn what_swtpm_said_since_is_one_line() {
        let (_dir, guard, domain) = setting();
        let log = log_path(&guard, &domain);
        fs::write(&log, "of a run before\n").unwrap();
        note(&guard, &domain, false).unwrap();
        let begun = take(&guard, &domain).unwrap();
        let said = || log_since(&guard, &domain, &begun);
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
    }
}
