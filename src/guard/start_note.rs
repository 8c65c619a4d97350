//! A note on tmpfs, from `prepare` to `started`, of a start that the guard has allowed. If it is
//! still there when the guest stops, the start has failed. A start that was refused has one until
//! `release`, which says whether libvirt was asked to take a key.
//!
//! Since 10.5 libvirt reports this itself at `release end`. Before that, its status file shows at
//! `stopped end` whether the guest has run although `started` was missed. A guest that migrates
//! here is `started` before its state arrives: its note stays until it stops.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::context::Guard;
use super::operation::Ending;
use super::status::Progress;
use super::swtpm_log;
use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::host::{atomic, trusted};
use crate::verdict::facts::Arrival;

/// What is noted of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a key of the note, which an upgrade may leave to the next version"
)]
pub(super) struct StartNote {
    /// There was no TPM state because one was arriving: a state that is there after a failure is
    /// not the guest's.
    pub(super) awaits_state: bool,
    /// The guest migrates to this host.
    pub(super) migrates: bool,
    /// How long swtpm's log was, in bytes: what follows is about this start.
    pub(super) log_length: u64,
    /// The start was refused.
    #[serde(default)]
    refused: bool,
    /// libvirt was not asked to take a key, so it need not be asked to drop one.
    #[serde(default)]
    provided_nothing: bool,
    /// The time of this start, which identifies its row of the history.
    #[serde(default)]
    recorded: Option<i64>,
}

impl StartNote {
    pub(super) fn recorded(&self) -> Option<Timestamp> {
        self.recorded.map(Timestamp)
    }
}

/// The TPM state of a start.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExpectedState {
    /// There is no state yet.
    pub(super) is_absent: bool,
    /// How it arrives.
    pub(super) arrival: Option<Arrival>,
}

/// Notes an allowed start, and how its TPM state arrives if it is not there yet; or a refused one
/// (`None`). `provides`: libvirt was asked to take a key.
pub(super) fn write(
    guard: &Guard,
    domain: &Domain,
    expected: Option<ExpectedState>,
    provides: bool,
) -> io::Result<()> {
    let arrival = expected.and_then(|expected| expected.arrival);
    let note = StartNote {
        awaits_state: expected.is_some_and(|expected| expected.is_absent) && arrival.is_some(),
        migrates: arrival == Some(Arrival::Migration),
        log_length: swtpm_log::length(guard, domain),
        refused: expected.is_none(),
        provided_nothing: !provides,
        recorded: Some(guard.start_time.get().0),
    };
    let dir = trusted::make_dir(&guard.run_dir.starts(), trusted::RUN_DIR)?;
    let name = OsString::from(domain.uuid.to_string());
    atomic::replace(&dir, &name, &serde_json::to_vec(&note)?)
}

/// Returns whether libvirt may have a key from this start: it was asked to take one, or that is
/// unknown.
pub(super) fn may_have_provided(guard: &Guard, domain: &Domain) -> bool {
    read(guard, domain).is_none_or(|note| !note.provided_nothing)
}

/// Returns whether the last start was refused, as `release end` alone must know.
pub(super) fn is_of_refused_start(guard: &Guard, domain: &Domain) -> bool {
    read(guard, domain).is_some_and(|note| note.refused)
}

/// Removes the note of a guest that runs now. Returns whether its TPM state is there; that of a
/// guest that migrates here has not arrived yet.
pub(super) fn remove_at_start(guard: &Guard, domain: &Domain) -> bool {
    let migrates = read(guard, domain).is_some_and(|note| note.migrates);
    if !migrates {
        remove(guard, domain);
    }
    !migrates
}

/// Removes and returns the note of a start that has failed, at `stopped end`, or at `release end`
/// with libvirt's reason. `None` if the guest has run, if its start was refused, or as long as
/// that is unknown.
pub(super) fn take_failed(
    guard: &Guard,
    domain: &Domain,
    progress: Option<Progress>,
    ending: Option<Ending>,
) -> Option<StartNote> {
    let note = read(guard, domain)?;
    let has_failed = match (progress, ending) {
        // `release end` asks for it once more.
        (_, None) if note.refused => return None,
        _ if note.refused => false,
        (Some(progress), _) => match progress {
            Progress::Arriving => true,
            // A guest that has migrated here is being reverted to a snapshot.
            Progress::Starting => !note.migrates,
            Progress::Ran => false,
        },
        (None, Some(Ending::Failed | Ending::Unknown)) => true,
        (None, Some(Ending::Ended | Ending::Migrated)) => false,
        // `release end` follows.
        (None, None) => return None,
    };
    remove(guard, domain);
    has_failed.then_some(note)
}

fn read(guard: &Guard, domain: &Domain) -> Option<StartNote> {
    let bytes = fs::read(path(guard, domain)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Whether this is a note, for fuzzing.
#[cfg(feature = "internals")]
pub(super) fn is_one(note: &[u8]) -> bool {
    serde_json::from_slice::<StartNote>(note).is_ok()
}

pub(super) fn remove(guard: &Guard, domain: &Domain) {
    if let Err(error) = atomic::remove_path(&path(guard, domain)) {
        tracing::warn!(domain = domain.name, %error, "could not remove the note of a start");
    }
}

fn path(guard: &Guard, domain: &Domain) -> PathBuf {
    guard.run_dir.starts().join(domain.uuid.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
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
        let domain = Domain {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            vtpm: None,
            travelling: None,
        };
        (dir, guard, domain)
    }

    const HERE: ExpectedState = ExpectedState {
        is_absent: false,
        arrival: None,
    };

    fn arriving(arrival: Arrival) -> ExpectedState {
        ExpectedState {
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
            (Some(Progress::Arriving), None, true),
            (ran, None, false),
            (None, Some(Ending::Failed), true),
            (None, Some(Ending::Unknown), true),
            (None, Some(Ending::Ended), false),
            (None, Some(Ending::Migrated), false),
        ] {
            write(&guard, &domain, Some(HERE), true).unwrap();
            let failed = || take_failed(&guard, &domain, progress, ending).is_some();
            assert_eq!(failed(), has_failed, "{progress:?} {ending:?}");
            assert!(!failed(), "nor twice");
        }
        // At `stopped end` without a status file it is not known yet.
        write(&guard, &domain, Some(arriving(Arrival::Restore)), true).unwrap();
        assert_eq!(take_failed(&guard, &domain, None, None), None);
        let failed = take_failed(&guard, &domain, None, Some(Ending::Unknown));
        assert!(failed.unwrap().awaits_state);
    }

    #[test]
    fn a_refused_start_has_not_failed_and_its_note_stays_until_release() {
        let (_dir, guard, domain) = setting();
        for ending in [Ending::Failed, Ending::Unknown] {
            write(&guard, &domain, None, false).unwrap();
            assert_eq!(
                take_failed(&guard, &domain, Some(Progress::Starting), None),
                None
            );
            assert!(is_of_refused_start(&guard, &domain));
            assert_eq!(take_failed(&guard, &domain, None, Some(ending)), None);
            assert!(!is_of_refused_start(&guard, &domain));
        }
    }

    #[test]
    fn a_guest_that_migrates_here_has_not_started_at_started() {
        let (_dir, guard, domain) = setting();
        for (expected, is_over) in [
            (HERE, true),
            (arriving(Arrival::Restore), true),
            (arriving(Arrival::Migration), false),
        ] {
            write(&guard, &domain, Some(expected), true).unwrap();
            assert_eq!(remove_at_start(&guard, &domain), is_over);
            let failed = take_failed(&guard, &domain, Some(Progress::Arriving), None);
            assert_eq!(failed.is_some(), !is_over);
        }
        write(&guard, &domain, Some(arriving(Arrival::Migration)), true).unwrap();
        let reverted = take_failed(&guard, &domain, Some(Progress::Starting), None);
        assert_eq!(reverted, None, "it has run");
        assert!(remove_at_start(&guard, &domain), "without a note, too");
    }

    /// What is fuzzed is this file.
    #[cfg(feature = "internals")]
    #[test]
    fn a_note_is_read_as_the_fuzzers_read_it() {
        let (_dir, guard, domain) = setting();
        write(&guard, &domain, Some(HERE), true).unwrap();
        assert!(is_one(&fs::read(path(&guard, &domain)).unwrap()));
        assert!(!is_one(b"{}"));
    }
}
