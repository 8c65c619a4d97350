//! A start that the guard has let pass and that has not succeeded yet: a note on tmpfs, from
//! `prepare` to `started`. Where it is still there when the guest stops, the start has failed.
//!
//! libvirt says so itself since 10.5, at `release end`; before, its status file at `stopped end`
//! tells whether the guest has run all the same and `started` was not seen. A guest that migrates
//! here is `started` before its state arrives: its note stays until it stops.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::libc;
use serde::{Deserialize, Serialize};

use super::Guard;
use super::operation::Ending;
use super::status::Progress;
use crate::domain::Domain;
use crate::host::{atomic, trusted};
use crate::messages::one_line;
use crate::verdict::facts::Arrival;

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
    /// The guest migrates to this host.
    migrates: bool,
    /// How long swtpm's log was, in bytes: what comes after that is about this start.
    log_length: u64,
}

/// Where the TPM state of a start is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awaited {
    /// It is not in its place.
    pub(super) is_absent: bool,
    /// How it gets there.
    pub(super) arrival: Option<Arrival>,
}

/// Notes a start that goes on, and how its TPM state gets to its place if it is not there.
pub(super) fn note(guard: &Guard, domain: &Domain, awaited: Awaited) -> io::Result<()> {
    let begun = Begun {
        awaits_state: awaited.is_absent && awaited.arrival.is_some(),
        migrates: awaited.arrival == Some(Arrival::Migration),
        log_length: fs::symlink_metadata(log_path(guard, domain)).map_or(0, |it| it.len()),
    };
    let dir = trusted::make_dir(&guard.run_dir.starts(), trusted::RUN_DIR)?;
    let name = OsString::from(domain.uuid.to_string());
    atomic::replace(&dir, &name, &serde_json::to_vec(&begun)?)
}

/// The guest runs: takes its note away. Says whether its TPM is now in its place; that of a
/// guest that migrates here is yet to come.
pub(super) fn has_started(guard: &Guard, domain: &Domain) -> bool {
    let migrates = read(guard, domain).is_some_and(|begun| begun.migrates);
    if !migrates {
        remove(guard, domain);
    }
    !migrates
}

/// The start that has failed, at `stopped end`, or at `release end` with what libvirt says there.
/// `None` where the guest has run, where its start was refused, and while that is not known.
pub(super) fn take_failed(
    guard: &Guard,
    domain: &Domain,
    progress: Option<Progress>,
    ending: Option<Ending>,
) -> Option<Begun> {
    let begun = read(guard, domain)?;
    let has_failed = match (progress, ending) {
        (Some(progress), _) => progress == Progress::Starting,
        (None, Some(Ending::Failed | Ending::Unknown)) => true,
        (None, Some(Ending::Ended | Ending::Migrated)) => false,
        // `release end` follows.
        (None, None) => return None,
    };
    remove(guard, domain);
    has_failed.then_some(begun)
}

fn read(guard: &Guard, domain: &Domain) -> Option<Begun> {
    let bytes = fs::read(path(guard, domain)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn remove(guard: &Guard, domain: &Domain) {
    match fs::remove_file(path(guard, domain)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(domain = domain.name, %error, "the note of a start stays");
        }
        _ => {}
    }
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
    guard.run_dir.starts().join(domain.uuid.to_string())
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

    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;
    use crate::host::dirs::{LibvirtDirs, RunDir, StateDir};
    use crate::ids::DomainUuid;

    fn setting() -> (TempDir, Guard, Domain) {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(Config::default(), StateDir::at(dir.path().join("state")));
        guard.run_dir = RunDir::at(dir.path().join("guard"));
        guard.config.libvirt = LibvirtDirs::below(dir.path());
        fs::create_dir_all(&guard.config.libvirt.swtpm_logs).unwrap();
        let domain = Domain {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            vtpm: None,
        };
        (dir, guard, domain)
    }

    const HERE: Awaited = Awaited {
        is_absent: false,
        arrival: None,
    };

    fn arriving(arrival: Arrival) -> Awaited {
        Awaited {
            is_absent: true,
            arrival: Some(arrival),
        }
    }

    #[test]
    fn a_start_has_failed_once_if_it_never_ran() {
        let (_dir, guard, domain) = setting();
        let (starting, ran) = (Some(Progress::Starting), Some(Progress::Ran));
        for (progress, ending, has_failed) in [
            (starting, None, true),
            (ran, None, false),
            (None, Some(Ending::Failed), true),
            (None, Some(Ending::Unknown), true),
            (None, Some(Ending::Ended), false),
            (None, Some(Ending::Migrated), false),
        ] {
            note(&guard, &domain, HERE).unwrap();
            let failed = || take_failed(&guard, &domain, progress, ending).is_some();
            assert_eq!(failed(), has_failed, "{progress:?} {ending:?}");
            assert!(!failed(), "nor twice");
        }
        // At `stopped end` without a status file it is not known yet.
        note(&guard, &domain, arriving(Arrival::Restore)).unwrap();
        assert_eq!(take_failed(&guard, &domain, None, None), None);
        let failed = take_failed(&guard, &domain, None, Some(Ending::Unknown));
        assert!(failed.unwrap().awaits_state);
    }

    #[test]
    fn a_guest_that_migrates_here_has_not_started_when_it_is_started() {
        let (_dir, guard, domain) = setting();
        for (awaited, is_over) in [
            (HERE, true),
            (arriving(Arrival::Restore), true),
            (arriving(Arrival::Migration), false),
        ] {
            note(&guard, &domain, awaited).unwrap();
            assert_eq!(has_started(&guard, &domain), is_over);
            let failed = take_failed(&guard, &domain, Some(Progress::Starting), None);
            assert_eq!(failed.is_some(), !is_over);
        }
        assert!(has_started(&guard, &domain), "without a note, too");
    }

    #[test]
    fn what_swtpm_said_since_is_one_line() {
        let (_dir, guard, domain) = setting();
        let log = log_path(&guard, &domain);
        fs::write(&log, "of a run before\n").unwrap();
        note(&guard, &domain, HERE).unwrap();
        let begun = read(&guard, &domain).unwrap();
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
