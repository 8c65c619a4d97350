//! The modular daemons: virtsecretd may be silent or away while virtqemud starts guests, and neither
//! is libvirtd. `./dev e2e --suite trixie --modular` runs these; elsewhere they are skipped.

use std::time::{Duration, Instant};

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::Host;

const DEADLINE: Duration = Duration::from_secs(3);

/// A host with modular daemons, and a guest that has used its TPM.
fn modular_host() -> Option<(Host, Guest)> {
    let (host, guest) = Host::with_used_guest();
    if host.lacks_virtqemud() {
        return None;
    }
    host.configure("[hook]\ndeadline = \"3s\"\n");
    Some((host, guest))
}

/// The codes of a guest's decisions, newest first.
fn codes(host: &Host, guest: &Guest) -> Vec<Option<String>> {
    let store = host.store();
    let query = "SELECT code FROM event WHERE domain_uuid = ?1 ORDER BY id DESC";
    let mut select = store.prepare(query).unwrap();
    let codes = select.query_map([guest.uuid.to_string()], |row| row.get(0));
    codes.unwrap().map(Result::unwrap).collect()
}

#[track_caller]
fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    let took = started.elapsed();
    assert!(took < limit, "it took {took:?}");
    done
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_hung_secret_daemon_costs_a_start_one_deadline_and_a_stop_a_second_or_two() {
    let Some((host, guest)) = modular_host() else {
        return;
    };
    host.signal("virtsecretd", "STOP");
    let limit = DEADLINE + Duration::from_millis(1500);
    within(limit, || host.start(&guest).refused_with("VG302"));
    host.signal("virtsecretd", "CONT");
    let found = codes(&host, &guest);
    assert_eq!(found, [Some("VG302".to_owned()), None], "one row each");
    assert!(!host.has_secret(guest.secret));

    host.start_running(&guest);
    host.signal("virtsecretd", "STOP");
    within(Duration::from_secs(4), || host.stop(&guest));
    host.signal("virtsecretd", "CONT");
    host.start_and_stop(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_secret_daemon_that_is_away_for_a_moment_refuses_no_start() {
    let Some((host, guest)) = modular_host() else {
        return;
    };
    host.configure("[hook]\ndeadline = \"15s\"\n");
    for socket in ["", "rm /run/libvirt/virtsecretd-sock;"] {
        host.end("virtsecretd", "KILL");
        let comes_back = format!("{socket} sleep 1.5; exec virtsecretd -d");
        let mut upgrade = host.command(&["sh", "-c", &comes_back]).spawn().unwrap();
        host.start_running(&guest);
        assert!(upgrade.wait().unwrap().success());
        host.stop(&guest);
        assert!(!host.has_secret(guest.secret));
    }
    // One that stays away is not waited for to the end.
    host.end("virtsecretd", "KILL");
    let limit = Duration::from_secs(9);
    let refused = within(limit, || host.start(&guest).refused_with("VG302"));
    assert!(refused.stderr.contains("virtsecretd-sock"), "{refused:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn guests_start_with_virtqemud_without_staged_keys() {
    let Some((host, guest)) = modular_host() else {
        return;
    };
    let new = host.define_bound_guest("vm2", "nkp-a");
    for guest in [&guest, &new] {
        host.autostart(guest);
    }
    let said = host.boot_libvirtd();
    assert_eq!(
        said,
        "nothing to stage: virtsecretd takes keys while virtqemud starts its guests\n"
    );
    assert_eq!(host.guard(&["stage", "--json"]).ok().stdout.trim(), "[]");
    for guest in [&guest, &new] {
        assert_eq!(host.state(guest), "running");
        assert_eq!(host.tpms_made(guest), 1);
        assert!(!host.has_secret(guest.secret));
    }
    host.guard(&["state", "persist", "--all"]).ok();
    let found = host.guard(&["doctor"]).ok().stdout;
    assert_eq!(found, "nothing found\n");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_hung_secret_daemon_keeps_a_starting_virtqemud_deaf_for_a_moment_only() {
    let Some((host, guest)) = modular_host() else {
        return;
    };
    let mut encrypted = vec![guest];
    for number in 2..=6 {
        encrypted.push(host.define_bound_guest(&format!("vm{number}"), "nkp-a"));
    }
    let plain = host.define_guest("vm7", Tpm::None);
    for guest in encrypted.iter().chain([&plain]) {
        host.autostart(guest);
    }
    host.configure("[hook]\ndeadline = \"9s\"\n");
    host.stop_libvirtd();
    host.run(&["virtsecretd", "-d"]).ok();
    host.signal("virtsecretd", "STOP");
    host.start_libvirtd();
    // A third of the deadline for the first, half a second for each of the others.
    within(Duration::from_secs(9), || host.virsh(&["list"]).ok());
    host.signal("virtsecretd", "CONT");
    assert_eq!(host.state(&plain), "running");
    for guest in &encrypted {
        assert_eq!(host.state(guest), "shut off");
        assert_eq!(codes(&host, guest)[0].as_deref(), Some("VG302"));
        host.start_running(guest);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn all_guests_are_checked_within_one_deadline_where_the_secret_daemon_is_silent() {
    let Some((host, _guest)) = modular_host() else {
        return;
    };
    for number in 2..=40 {
        host.define_bound_guest(&format!("vm{number}"), "nkp-a");
    }
    host.signal("virtsecretd", "STOP");
    for (command, status) in [(&["check", "--all"][..], 1), (&["status"], 0)] {
        let limit = Duration::from_secs(45);
        let answer = within(limit, || host.guard(command));
        assert_eq!(answer.status, status, "{answer:#?}");
        assert_eq!(answer.stdout.matches("VG302").count(), 40, "{answer:#?}");
    }
    let answer = within(Duration::from_secs(30), || host.guard(&["doctor"]));
    assert!(answer.stdout.contains("systemctl status virtsecretd"));
    host.signal("virtsecretd", "CONT");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn doctor_sees_both_daemons_and_what_is_left_of_libvirtd() {
    let Some((host, guest)) = modular_host() else {
        return;
    };
    host.autostart(&guest);
    host.guard(&["state", "persist", "--all"]).ok();
    let doctor = || host.guard(&["doctor"]).stdout;
    // Of a libvirtd that was killed before the host got its modular daemons.
    host.write("/run/libvirtd.pid", "1\n");
    assert_eq!(doctor(), "nothing found\n");

    host.configure("[secret]\nuri = \"qemu:///system\"\n");
    let found = doctor();
    assert!(
        found.contains("qemu:///system, which is virtqemud's"),
        "{found}"
    );
    host.configure("");

    let link = "/etc/libvirt/hooks/qemu.d/50-vtpm-guard";
    host.run(&["rm", link]).ok();
    let found = doctor();
    assert!(found.contains("systemctl reload virtqemud"), "{found}");
    assert!(!found.contains("libvirtd"), "{found}");
    host.run(&["ln", "-s", "/usr/sbin/vtpm-guard-hook", link])
        .ok();
    host.restart_libvirtd();

    for (daemon, found) in [
        ("virtsecretd", "libvirt's secret driver does not answer"),
        ("virtqemud", "virtqemud does not answer"),
    ] {
        host.end(daemon, "KILL");
        let answer = host.guard(&["doctor"]);
        assert_eq!(answer.status, 1, "{answer:#?}");
        assert!(answer.stdout.contains(found), "{answer:#?}");
        let fix = format!("systemctl status {daemon}; then: virsh ");
        assert!(answer.stdout.contains(&fix), "{answer:#?}");
        host.start_libvirtd();
        host.virsh(&["uri"]).ok();
        assert_eq!(doctor(), "nothing found\n");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn keys_are_in_virtsecretd_and_never_in_virtqemud() {
    let Some((host, _guest)) = modular_host() else {
        return;
    };
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let secret = SecretUuid::random();
    let known = host.define_guest("vm2", Tpm::Encrypted(secret));
    host.define_secret(secret, "by hand", Some(key));
    host.bind(&known, "nkp-a");
    host.virsh(&["start", "vm2"]).ok();
    host.stop(&known);
    host.configure("[secret]\nlifetime = \"keep\"\n");
    host.restart_libvirtd();
    host.start_running(&known);
    let has_key = |daemon| {
        let pid = host.read(&Host::pid_file(daemon));
        host.is_in_memory(pid.trim(), key.as_bytes())
    };
    assert!(has_key("virtsecretd"), "the search finds nothing at all");
    assert!(!has_key("virtqemud"));
}
