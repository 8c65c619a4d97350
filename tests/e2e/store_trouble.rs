//! A store that cannot be used, and a configuration that cannot be read.

use std::fs;
use std::time::{Duration, Instant};

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::Host;

/// Starts that do not depend on the store: no TPM, a plain one, a secret made by hand.
#[track_caller]
fn assert_others_start(host: &Host) {
    let secret = SecretUuid::random();
    host.define_secret(secret, "by hand", Some("a made-up key"));
    for (name, tpm) in [
        ("no-tpm", Tpm::None),
        ("plain", Tpm::Plain),
        ("by-hand", Tpm::Encrypted(secret)),
    ] {
        host.start_running(&host.define_guest(name, tpm));
    }
}

/// A guest with a key in the store, which is then no use.
fn stop_the_store(trouble: impl FnOnce(&Host)) -> (Host, Guest) {
    let (host, guest) = Host::with_used_guest();
    trouble(&host);
    (host, guest)
}

const STORE: &str = "/var/lib/vtpm-guard/store.db";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_missing_store_is_as_one_without_rows() {
    let (host, guest) = stop_the_store(|host| {
        fs::remove_dir_all(host.path("/var/lib/vtpm-guard")).unwrap();
    });
    host.start(&guest).refused_with("VG202");
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG201");
    assert_others_start(&host);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_corrupt_store_stops_only_guests_that_need_it() {
    let (host, guest) = stop_the_store(|host| {
        for file in ["store.db-wal", "store.db-shm"] {
            let _ = fs::remove_file(host.path(&format!("/var/lib/vtpm-guard/{file}")));
        }
        host.write(STORE, "nonsense ".repeat(2000));
    });
    let state = host.tpm_state(&guest);
    host.start(&guest).refused_with("VG402");
    assert_eq!(host.tpm_state(&guest), state);
    assert_others_start(&host);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_newer_store_stops_only_guests_that_need_it() {
    let (host, guest) = stop_the_store(|host| {
        let store = host.store();
        store.pragma_update(None, "user_version", 999).unwrap();
    });
    host.start(&guest).refused_with("VG403");
    assert_others_start(&host);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_store_that_stays_locked_stops_only_guests_that_need_it() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[hook]\ndeadline = \"2s\"\n");
    let locker = host.store();
    locker
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM event;")
        .unwrap();
    host.start(&guest).refused_with("VG401");
    assert_others_start(&host);

    drop(locker);
    host.start_running(&guest);
}

/// What follows a start refuses nothing, and the daemon waits for it.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_store_that_stays_locked_holds_up_the_end_of_a_guest_for_a_moment_only() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let locker = host.store();
    locker
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM event;")
        .unwrap();
    let started = Instant::now();
    host.stop(&guest);
    let took = started.elapsed();
    // `stopped` and `release`, under a deadline of ten seconds each, wait for one second at most each.
    assert!(took < Duration::from_secs(9), "{took:?}");
    drop(locker);
    host.start_and_stop(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn under_a_broken_configuration_the_defaults_hold() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[policy]\nunencrypted = \"deny\"\nnonsense = [");
    host.start_running(&guest);
    host.start_running(&host.define_guest("plain", Tpm::Plain));
}
