//! The log of a whole process: one test, because a process has one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use vtpm_guard::internals::config::{Config, LogTarget};
use vtpm_guard::internals::host::dirs::StateDir;
use vtpm_guard::internals::log::{self, LogError};

#[test]
fn a_process_has_one_log_and_a_failure_to_open_it_leaves_room_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let to = |target| Config {
        log_target: target,
        ..Config::default()
    };
    let init = |target| log::init(&to(target), &StateDir::at(directory.path()));

    let nowhere = LogTarget::File(directory.path().join("none/guard.log"));
    assert!(matches!(init(nowhere), Err(LogError::Unwritable { .. })));
    let has_journald = Path::new("/run/systemd/journal/socket").exists();
    if !has_journald {
        assert!(matches!(
            init(LogTarget::Journald),
            Err(LogError::Journald(_))
        ));
    }

    init(LogTarget::Auto).unwrap();
    tracing::info!(answer = 42, "set for the process");
    let path = directory.path().join("vtpm-guard.log");
    if has_journald {
        assert!(!path.exists());
    } else {
        let log = fs::read_to_string(path).unwrap();
        assert!(
            log.ends_with(" INFO set for the process answer=42\n"),
            "{log}"
        );
    }
    assert!(matches!(init(LogTarget::Auto), Err(LogError::AlreadySet)));
}
