use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::domain::{StateSource, TpmVersion};
use crate::swtpm::lock_file::LOCK;

const NAME: &str = "tpm2-00.permall";

/// A directory with a state in it, mode 0640.
fn with_state() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join(NAME);
    fs::write(&state, b"old").unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o640)).unwrap();
    dir
}

fn take(source: StateSource) -> Result<Option<LockedState>, LockError> {
    let vtpm = Emulator {
        version: TpmVersion::V2_0,
        secret_uuid: None,
        source: Some(source),
        persistent_state: false,
    };
    LockedState::lock(Path::new("/nowhere"), DomainUuid::random(), &vtpm)
}

fn take_in(dir: &TempDir) -> Result<Option<LockedState>, LockError> {
    take(StateSource::Dir(dir.path().to_owned()))
}

fn names(dir: &TempDir) -> Vec<OsString> {
    let entries = fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn a_state_is_replaced_atomically_and_keeps_its_mode() {
    let dir = with_state();
    let state = dir.path().join(NAME);
    let staged = take_in(&dir).unwrap().unwrap().stage(b"new").unwrap();
    assert_eq!(fs::read(&state).unwrap(), b"old");
    staged.install().unwrap();
    assert_eq!(fs::read(&state).unwrap(), b"new");
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(names(&dir), [LOCK, NAME]);
}

#[test]
fn a_staged_state_that_is_not_installed_is_removed() {
    let dir = with_state();
    drop(take_in(&dir).unwrap().unwrap().stage(b"new").unwrap());
    assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), b"old");
    assert_eq!(names(&dir), [LOCK, NAME]);
}

#[test]
fn the_staged_state_of_a_killed_process_is_removed() {
    let dir = with_state();
    crate::host::atomic::leave_abandoned(dir.path());
    let staged = take_in(&dir).unwrap().unwrap().stage(b"new").unwrap();
    staged.install().unwrap();
    assert_eq!(names(&dir), [LOCK, NAME]);
}

#[test]
fn only_one_process_at_a_time_locks_a_state() {
    let dir = with_state();
    let held = take_in(&dir).unwrap().unwrap();
    assert!(matches!(take_in(&dir), Err(LockError::InUse)));
    let staged = held.stage(b"new").unwrap();
    assert!(matches!(take_in(&dir), Err(LockError::InUse)));
    drop(staged);
    assert!(take_in(&dir).unwrap().is_some());
}

#[test]
fn without_a_state_nothing_is_locked_or_made() {
    let dir = tempfile::tempdir().unwrap();
    assert!(take_in(&dir).unwrap().is_none());
    assert!(
        take(StateSource::Dir("/nowhere/at/all".into()))
            .unwrap()
            .is_none()
    );
    assert!(names(&dir).is_empty());
}

#[test]
fn a_link_a_directory_or_a_fifo_is_neither_followed_nor_waited_for() {
    for make in [
        |state: &Path| symlink("/etc/hostname", state).unwrap(),
        |state: &Path| fs::create_dir(state).unwrap(),
        |state: &Path| nix::unistd::mkfifo(state, nix::sys::stat::Mode::S_IRUSR).unwrap(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join(NAME));
        let Err(LockError::State(error)) = take_in(&dir) else {
            panic!("it is taken")
        };
        assert!(error.is_damage(), "{error}");
    }
}

#[test]
fn a_state_with_volatile_state_is_not_locked() {
    let dir = with_state();
    fs::write(dir.path().join("tpm2-00.volatilestate"), b"run").unwrap();
    assert!(matches!(take_in(&dir), Err(LockError::Volatile(_))));
}
