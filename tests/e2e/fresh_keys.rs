//! A key that was made for a start that failed: taken back as long as nothing was encrypted with
//! it, kept from then on, whatever happens.

use crate::guest::{Guest, KeyRef};
use crate::host::Host;

/// Fails at one operation of the hook, after the guard.
fn failing_at(operation: &str) -> String {
    format!("#!/bin/sh\n[ \"$2\" != {operation} ] || {{ echo made-up failure >&2; exit 1; }}\n")
}

const FAILING_HOOK: &str = "/etc/libvirt/hooks/qemu.d/90-failing";

/// A host with a bound guest that has never run.
fn host_with_new_guest() -> (Host, Guest) {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    (host, guest)
}

#[track_caller]
fn assert_is_placeholder(row: &KeyRef) {
    assert_eq!(row.provider_name, "nkp-a");
    assert_eq!(
        (
            &row.wrapped_dek,
            &row.kek_ref,
            row.key_version,
            row.first_used_at
        ),
        (&None, &None, None, None)
    );
}

impl Host {
    pub(crate) fn fail_at(&self, operation: &str) {
        self.write_program(FAILING_HOOK, &failing_at(operation));
    }

    pub(crate) fn fail_no_longer(&self) {
        self.write_program(FAILING_HOOK, "#!/bin/sh\n");
    }

    /// The one key reference in use.
    #[track_caller]
    fn live_key_ref(&self, guest: &Guest) -> KeyRef {
        self.one_key_ref(guest, false)
    }

    /// The one that is retired.
    #[track_caller]
    fn retired_key_ref(&self, guest: &Guest) -> KeyRef {
        self.one_key_ref(guest, true)
    }

    #[track_caller]
    fn one_key_ref(&self, guest: &Guest, is_retired: bool) -> KeyRef {
        let mut rows = self.key_refs(guest);
        rows.retain(|row| row.retired_at.is_some() == is_retired);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows.remove(0)
    }

    #[track_caller]
    pub(crate) fn start_fails(&self, guest: &Guest, words: &str) {
        let answer = self.start(guest);
        assert_eq!(answer.status, 1, "{answer:#?}");
        assert!(answer.stderr.contains(words), "{answer:#?}");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_made_for_a_start_that_failed_before_any_state_existed_is_taken_back() {
    let (host, guest) = host_with_new_guest();
    host.fail_at("prepare");
    let mut keys = Vec::new();
    for _ in 0..3 {
        host.start_fails(&guest, "made-up failure");
        assert!(!host.has_tpm_state(&guest));
        assert_is_placeholder(&host.live_key_ref(&guest));
        keys.push(host.retired_key_ref(&guest).wrapped_dek);
        assert!(!host.has_secret(guest.secret));
    }
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]));

    host.fail_no_longer();
    host.start_and_stop(&guest);
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, keys[0]);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_whose_tpm_exists_is_kept_though_its_first_start_failed() {
    let (host, guest) = host_with_new_guest();
    host.fail_at("start");
    for _ in 0..2 {
        host.start_fails(&guest, "made-up failure");
        assert!(host.has_tpm_state(&guest));
        let row = host.only_key_ref(&guest);
        assert!(
            row.wrapped_dek.is_some() && row.first_used_at.is_none(),
            "{row:?}"
        );
    }
    let row = host.only_key_ref(&guest);
    host.fail_no_longer();
    host.start_and_stop(&guest);
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, row.wrapped_dek);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_whose_tpm_existed_once_is_kept_though_a_later_start_fails_without_it() {
    let (host, guest) = host_with_new_guest();
    host.fail_at("start");
    host.start_fails(&guest, "made-up failure");
    let key = host.only_key_ref(&guest).wrapped_dek;

    // Somebody may have a copy of the state that is taken away here.
    host.remove_tpm_state(&guest);
    host.fail_at("prepare");
    host.start_fails(&guest, "made-up failure");
    assert!(!host.has_tpm_state(&guest));
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, key);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_tpm_that_nobody_saw_made_is_seen_by_the_next_start() {
    let (host, guest) = host_with_new_guest();
    // Asked now: a daemon that died in a start may not tell it for long.
    let xml = host.xml(&guest);
    // The daemon dies in the middle of the start, when the TPM has been made.
    let pid = Host::pid_file(host.guests_daemon());
    let die = format!("#!/bin/sh\n[ \"$2\" != start ] || kill -KILL $(cat {pid})\n");
    host.write_program(FAILING_HOOK, &die);
    assert_ne!(host.start(&guest).status, 0);
    host.fail_no_longer();
    host.start_libvirtd();
    let key = host.only_key_ref(&guest).wrapped_dek;
    assert!(key.is_some() && host.has_tpm_state(&guest));

    let hook = |operation: [&str; 3]| host.hook("vm1", &operation, &xml).ok();
    hook(["prepare", "begin", "-"]);
    host.remove_tpm_state(&guest);
    hook(["release", "end", "failed"]);
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, key);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_that_is_taken_back_leaves_no_secret_even_with_lifetime_keep() {
    let (host, guest) = host_with_new_guest();
    host.configure("[secret]\nlifetime = \"keep\"\n");
    host.fail_at("prepare");
    host.start_fails(&guest, "made-up failure");
    assert_is_placeholder(&host.live_key_ref(&guest));
    assert!(!host.has_secret(guest.secret));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_that_was_used_is_kept_whatever_happens_to_its_tpm() {
    let (host, guest) = Host::with_used_guest();
    let row = host.only_key_ref(&guest);
    host.fail_at("prepare");
    host.start_fails(&guest, "made-up failure");
    assert_eq!(host.only_key_ref(&guest), row);

    host.remove_tpm_state(&guest);
    host.fail_no_longer();
    let xml = host.xml(&guest);
    for operation in ["stopped", "release"] {
        assert_eq!(
            host.hook("vm1", &[operation, "end", "failed"], &xml).status,
            0
        );
    }
    assert_eq!(host.only_key_ref(&guest), row);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_is_kept_though_the_first_run_ended_before_anybody_saw_it_end() {
    let (host, guest) = host_with_new_guest();
    host.start_running(&guest);
    let key = host.only_key_ref(&guest).wrapped_dek;
    host.stop_libvirtd();
    let pid = host.read("/run/libvirt/qemu/vm1.pid");
    host.run(&["kill", "-KILL", pid.trim()]).ok();
    host.start_libvirtd();
    host.virsh(&["uri"]).ok();
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, key);
    host.start_running(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_made_by_stage_is_taken_back_when_the_start_with_the_daemon_fails() {
    let (host, guest) = host_with_new_guest();
    if host.lacks_libvirtd() {
        return;
    }
    host.virsh(&["autostart", "vm1"]).ok();
    host.fail_at("prepare");
    host.stop_libvirtd();
    host.guard(&["stage"]).ok();
    assert!(host.only_key_ref(&guest).wrapped_dek.is_some());
    host.start_libvirtd();
    host.guard(&["unstage"]).ok();
    assert_eq!(host.state(&guest), "shut off");
    assert_is_placeholder(&host.live_key_ref(&guest));
    assert!(!host.has_secret(guest.secret));

    host.fail_no_longer();
    host.start_and_stop(&guest);
}

/// M1 of the audit: `started` cannot note the run, and the states' file system is away when the
/// guest ends.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_outlives_a_run_that_could_not_be_noted_and_an_end_without_its_tpm_state() {
    let (host, guest) = host_with_new_guest();
    host.configure("[hook]\ndeadline = \"2s\"\n");
    // Between `prepare` and `started` the test takes the lock.
    let wait = "#!/bin/sh\n[ \"$2\" != start ] || { : >/run/at-start; \
                until [ -e /run/locked ]; do sleep 0.1; done; }\n";
    host.write_program(FAILING_HOOK, wait);
    let locker = host.store();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start_running(&guest));
        while !host.path("/run/at-start").exists() {
            assert!(!start.is_finished());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        locker.execute_batch("BEGIN IMMEDIATE").unwrap();
        host.write("/run/locked", "");
    });
    locker.execute_batch("ROLLBACK").unwrap();
    let key = host.only_key_ref(&guest);
    assert_eq!(key.first_used_at, None, "it could not be noted");
    assert!(host.has_tpm_state(&guest));

    let states = "/var/lib/libvirt/swtpm";
    host.run(&["mount", "-t", "tmpfs", "none", states]).ok();
    host.stop(&guest);
    host.run(&["umount", states]).ok();
    let rows = host.key_refs(&guest);
    let keys = rows.iter().filter(|row| row.wrapped_dek == key.wrapped_dek);
    assert_eq!(keys.count(), 1, "{rows:#?}");

    // Whichever libvirt it was, the guest starts with that key, at the latest with the command
    // that the refusal names.
    let answer = host.start(&guest);
    if answer.status != 0 {
        answer.refused_with("VG202");
        host.guard(&["key", "use", &key.id.to_string()]).ok();
        host.start_running(&guest);
    }
    assert_eq!(host.tpms_made(&guest), 1);
}
