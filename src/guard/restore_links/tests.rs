#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::*;
use crate::host::crash::armed;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::tests::fixture::{Defined, Fixture};

/// A guest that has used its TPM.
struct Setting {
    fixture: Fixture,
    guard: Guard,
    guest: Defined,
    vtpm: Emulator,
}

impl Setting {
    fn new() -> Self {
        let fixture = Fixture::new();
        let guest = fixture.guest_in_use("vm1");
        let domain = fixture.domain(&guest);
        Self {
            guard: fixture.host.guard(BrokenConfig::Fail).unwrap(),
            vtpm: domain.encrypted_vtpm().unwrap().0.clone(),
            fixture,
            guest,
        }
    }

    fn at(&self, prefix: &str) -> PathBuf {
        let states = self.guard.config.libvirt.tpm_states();
        states.join(format!("{prefix}{}", self.guest.uuid))
    }

    fn hard_links(&self) -> HardLinks {
        links_of(&self.place()).unwrap()
    }

    fn place(&self) -> StatePath {
        let states = self.guard.config.libvirt.tpm_states();
        StatePath::of(&states, self.guest.uuid, &self.vtpm)
    }

    /// As on a file system without hard links: an empty directory is libvirt's to delete.
    fn moved_away(self) -> Self {
        let directory = self.at("");
        fs::rename(&directory, self.at(".vtpm-guard.moved.")).unwrap();
        fs::create_dir(directory).unwrap();
        self
    }

    fn is_back_before_start(&self, deadline: Deadline) -> bool {
        before_start(&self.guard, self.guest.uuid, &self.vtpm, deadline)
    }

    fn has_state(&self) -> bool {
        self.fixture.state_file(&self.guest).exists()
    }
}

#[test]
fn a_state_that_another_host_goes_on_using_is_back_however_often_it_is_deleted() {
    let setting = Setting::new();
    let domain = setting.fixture.domain(&setting.guest);
    setting.hard_links().make().unwrap();
    let arguments = arguments(&setting.guard, &domain).unwrap();
    let links = setting.at(".vtpm-guard.");
    armed::lock_elsewhere(1);
    let (deleted, kept) = (setting.at(""), links.clone());
    let in_use = Arc::new(());
    armed::watch_while_used(Arc::clone(&in_use));
    let libvirt = thread::spawn(move || {
        for _ in 0..5 {
            let soon = Deadline::after(Duration::from_secs(5));
            let is_back = poll(Duration::ZERO, soon, || deleted.exists().then_some(()));
            // At once: there is no moment without links to it.
            assert!(is_back.is_some() && kept.join("tpm2").exists());
            fs::remove_dir_all(&deleted).unwrap();
        }
        drop(in_use);
    });
    assert!(run(&setting.guard.state_dir, &arguments));
    libvirt.join().unwrap();
    assert!(setting.has_state() && !links.exists());
    let states = setting.guard.config.libvirt.tpm_states();
    assert_eq!(fs::read_dir(states).unwrap().count(), 1);
}

/// Whether another host uses it was asked of what libvirt had just deleted once more: nobody did, and the links went.
#[test]
fn a_state_that_is_deleted_again_before_anybody_looks_is_back() {
    let setting = Setting::new();
    setting.hard_links().make().unwrap();
    let own = setting.hard_links().identity().unwrap();
    armed::lock_elsewhere(1);
    armed::watch_while_used(Arc::new(()));
    fs::remove_dir_all(setting.at("")).unwrap();
    watch(setting.guest.uuid, &setting.place(), own);
    assert!(setting.has_state() && !setting.at(".vtpm-guard.").exists());
}

/// In each place that the domain XML may name: a lock on the state is one on its links.
#[test]
fn the_links_of_a_state_are_where_its_locks_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    for (directories, backend) in [
        (3, Backend::Directory),
        (1, Backend::Directory),
        (0, Backend::Linear),
    ] {
        let root = dir.path().join(directories.to_string());
        let path = root.join("a/b/state");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "state").unwrap();
        let place = StatePath::of_copy(&path, directories, backend);
        let links = links_of(&place).unwrap();
        links.make().unwrap();
        let linked = links.linked(&place).path;
        assert_ne!(linked, path);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&linked), inode(&path), "{}", linked.display());
    }
}

#[test]
fn the_links_of_a_start_that_comes_next_are_left_to_its_own_process() {
    let setting = Setting::new();
    setting.hard_links().make().unwrap();
    let own = setting.hard_links().identity().unwrap();
    fs::write(setting.at(".takes the inode"), "").unwrap();
    setting.hard_links().make().unwrap();
    fs::remove_dir_all(setting.at("")).unwrap();
    armed::lock_elsewhere(1);
    let begun = Instant::now();
    watch(setting.guest.uuid, &setting.place(), own);
    assert!(begun.elapsed() < WATCH, "it watches what is not its own");
    assert!(!setting.has_state() && setting.at(".vtpm-guard.").exists());
}

#[test]
fn a_start_waits_for_a_deletion_that_is_due_where_the_state_was_moved_away() {
    let setting = Setting::new().moved_away();
    let directory = setting.at("");
    // Given back before that, it would be deleted.
    armed::meanwhile(2, move || fs::remove_dir_all(directory).unwrap());
    assert!(setting.is_back_before_start(default_deadline()));
    assert!(!armed::forget() && setting.has_state());
}

#[test]
fn a_state_that_was_moved_away_for_a_deletion_that_never_comes_is_given_back() {
    let setting = Setting::new().moved_away();
    assert!(setting.is_back_before_start(Deadline::after(Duration::ZERO)));
    assert!(setting.has_state() && !setting.at(".vtpm-guard.moved.").exists());
}

#[test]
fn links_that_nobody_waits_for_any_more_go_when_the_guest_runs() {
    let setting = Setting::new();
    let links = setting.at(".vtpm-guard.");
    setting.hard_links().make().unwrap();
    let (now, uuid) = (Timestamp::now(), setting.guest.uuid);
    after_start(&setting.guard, uuid, &setting.vtpm, now);
    assert!(links.exists());
    let later = Timestamp(now.0 + 600_000);
    after_start(&setting.guard, uuid, &setting.vtpm, later);
    assert!(!links.exists() && setting.has_state());
}

#[test]
fn what_libvirt_calls_is_never_taken_for_this_process() {
    let state_dir = StateDir::at("/nowhere");
    let is_own = |words: &str| {
        let words: Vec<_> = words.split(' ').map(OsString::from).collect();
        run(&state_dir, &words)
    };
    assert!(!is_own("vm1 prepare begin -"));
    assert!(!is_own("vm1 prepare begin - - -"));
    assert!(!is_own("--restore-links prepare begin -"));
    assert!(!is_own("--restore-links -- begin -"));
    // It has nothing to restore by these.
    assert!(is_own("--restore-links -- no-uuid /nowhere 2 1"));
}
