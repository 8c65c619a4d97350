//! The store on a disk that is full, and on one that is mounted read-only. Both need mounts
//! of their own, made in a private mount namespace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::store::{Access, Event, EventFilter, Origin, Store, StoreError};

/// The store of a child process of these tests; set only in child processes.
const CHILD_DIR: &str = "STORE_FAULTS_DIR";

fn open(dir: &Path, access: Access) -> Result<Store, StoreError> {
    Store::open(dir, access, Deadline::after(Duration::from_secs(10)))
}

fn event() -> Event {
    let (now, domain) = (Timestamp::now(), DomainUuid::random());
    Event::new(now, Origin::Prepare, domain, "vm", "x".repeat(2000))
}

fn events(store: &Store) -> usize {
    store.history(EventFilter::All, usize::MAX).unwrap().len()
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// Runs one of the children below after `mounts`, a shell script in which `$0` is the
/// directory, in a mount namespace of its own.
fn run_with_mounts(mounts: &str, child: &str, dir: &Path) {
    let script = format!("set -e\n{mounts}\nexec \"$1\" --exact {child} --ignored --nocapture");
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(dir)
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIR, dir)
        .status()
        .unwrap();
    assert!(status.success(), "{child}: {status}");
}

#[test]
#[ignore = "needs root: ./dev test runs it"]
fn a_full_disk_prevents_a_change_and_damages_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mounts = "mount -t tmpfs -o size=512k,mode=0700 none \"$0\"";
    run_with_mounts(mounts, "child_fills_the_disk", dir.path());
}

#[test]
#[ignore = "the child of a_full_disk_..., which runs it"]
fn child_fills_the_disk() {
    let Some(dir) = child_dir() else { return };
    let filler = dir.join("filler");
    // Copying until the disk is full is meant to fail.
    fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    let refused = open(&dir, Access::Create).unwrap_err();
    assert!(
        matches!(refused, StoreError::Unavailable { .. }),
        "{refused:?}"
    );
    fs::remove_file(&filler).unwrap();

    let mut store = open(&dir, Access::Create).unwrap();
    let mut written = 0;
    let refused = loop {
        match store.record_event(&event()) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk is never full");
    };
    assert!(
        matches!(refused, StoreError::Unavailable { .. }),
        "{refused:?}"
    );
    assert!(written > 10);
    assert_eq!(events(&store), written);
    drop(store);

    let reopened = open(&dir, Access::Read).unwrap();
    assert_eq!(events(&reopened), written, "and after closing");
    assert_eq!(reopened.check().unwrap(), []);
    drop(reopened);

    // To the last byte: not even the log's index can be made.
    let _ = fs::remove_file(dir.join("store.db-shm"));
    fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    let reopened = open(&dir, Access::Read).unwrap();
    assert_eq!(events(&reopened), written, "and with no byte left");
}

#[test]
#[ignore = "needs root: ./dev test runs it"]
fn a_read_only_disk_is_read_and_not_written() {
    let read_only = "mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"";
    for with_log in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), Access::Create).unwrap();
        store.record_event(&event()).unwrap();
        drop(store);
        if !with_log {
            let database = dir.path().join("store.db");
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            let connection = rusqlite::Connection::open(&database).unwrap();
            connection.query_row(checkpoint, [], |_| Ok(())).unwrap();
            drop(connection);
            assert!(!dir.path().join("store.db-shm").exists());
        }
        run_with_mounts(read_only, "child_reads_only", dir.path());
    }
}

#[test]
#[ignore = "the child of a_read_only_disk_..., which runs it"]
fn child_reads_only() {
    let Some(dir) = child_dir() else { return };
    let store = open(&dir, Access::Read).unwrap();
    assert_eq!(events(&store), 1);
    drop(store);
    let refused = open(&dir, Access::Write).and_then(|mut store| store.record_event(&event()));
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, StoreError::Unavailable { .. }),
        "{refused:?}"
    );
}

/// The sandbox of the nightly check, and a hook that writes meanwhile.
#[test]
#[ignore = "needs root: ./dev test runs it"]
fn the_nightly_checks_unit_reads_while_hooks_write_and_writes_nothing() {
    let unit = include_str!("../packaging/systemd/vtpm-guard-check.service");
    let writable: Vec<_> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ReadWritePaths="))
        .collect();
    assert_eq!(writable, [] as [&str; 0]);

    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), Access::Create).unwrap();
    writer.record_event(&event()).unwrap();
    let sandbox = "mount --bind \"$0\" \"$0\"
                   mount -o remount,bind,ro \"$0\"";
    std::thread::scope(|scope| {
        let path = dir.path();
        let reader =
            scope.spawn(move || run_with_mounts(sandbox, "child_reads_while_others_write", path));
        while !reader.is_finished() {
            writer.record_event(&event()).unwrap();
        }
    });
}

#[test]
#[ignore = "the child of the_nightly_checks_unit_..., which runs it"]
fn child_reads_while_others_write() {
    let Some(dir) = child_dir() else { return };
    fs::write(dir.join("store.db"), "").unwrap_err();
    fs::write(dir.join("new"), "").unwrap_err();
    let mut counts = Vec::new();
    for _ in 0..20 {
        counts.push(events(&open(&dir, Access::Read).unwrap()));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(counts.is_sorted(), "{counts:?}");
    assert!(
        counts[0] < counts[19],
        "what others write is seen: {counts:?}"
    );
}
