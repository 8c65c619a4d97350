//! TPM state that was announced and does not come, or comes to another start: the announcement is
//! for one attempt alone.

use std::fs;

use crate::guest::{Guest, Tpm};
use crate::host::Host;
use crate::pair::joined;
use crate::saved::SAVED;

/// A dispatcher in hooks/qemu that runs the programs in qemu.d, which libvirt runs itself.
const DISPATCHER: &str = "#!/bin/sh
xml=$(mktemp)
cat >$xml
status=0
for hook in /etc/libvirt/hooks/qemu.d/*; do
    \"$hook\" \"$@\" <$xml || status=1
done
rm $xml
exit $status
";

/// Another host's libvirtd, as this one reaches it.
const THERE: &str = "qemu+tcp://10.99.0.2/system";

impl Host {
    pub(crate) fn announcements(&self) -> i64 {
        let count = "SELECT count(*) FROM arriving";
        self.store().query_row(count, [], |row| row.get(0)).unwrap()
    }

    /// Whether `check` finds this of the guest.
    fn check_finds(&self, guest: &Guest, kind: &str) -> bool {
        let check = self.guard(&["--json", "check", &guest.name]);
        check.stdout.contains(&format!("\"kind\": \"{kind}\""))
    }

    fn use_dispatcher(&self) {
        self.write_program("/etc/libvirt/hooks/qemu", DISPATCHER);
        // It is looked for at the daemon's start.
        self.restart_libvirtd();
    }
}

/// Two hosts on one network; `vm1` has run here, and its key is in use on both.
fn pair() -> (Host, Host, Guest) {
    let (here, guest) = Host::with_used_guest();
    let there = Host::new();
    for file in ["/run/nkp-a.recovery", "/run/passphrase"] {
        there.write(file, fs::read(here.path(file)).unwrap());
    }
    there.import_provider("nkp-a", None);
    there.insert_key_ref(&guest, &here.only_key_ref(&guest));
    (here, there, guest)
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_restore_that_libvirt_refuses_lets_no_new_tpm_be_made() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    host.save(&guest);
    host.start_running(&guest);
    let refused = host.virsh(&["restore", SAVED]);
    assert!(refused.stderr.contains("already active"), "{refused:#?}");
    assert_eq!(host.announcements(), 0, "the guest runs");
    host.stop(&guest);
    host.wait_for_swtpm();
    let state = host.tpm_state(&guest);
    host.remove_tpm_state(&guest);
    assert_eq!(host.guard(&["check", "vm1"]).status, 1);
    host.start(&guest).refused_with("VG205");
    assert!(!host.has_tpm_state(&guest));

    // Nor is the wrong key let through.
    host.start(&guest).refused_with("VG205");
    let directory = format!("/var/lib/libvirt/swtpm/{}/tpm2", guest.uuid);
    let mut other = state;
    *other.last_mut().unwrap() ^= 1;
    host.write(&format!("{directory}/tpm2-00.permall"), other);
    host.start(&guest).refused_with("VG204");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_saved_image_with_another_guests_uuid_announces_nothing_for_it() {
    let (host, guest) = Host::with_used_guest();
    let other = host.define_bound_guest("vm2", "nkp-a");
    host.start_and_stop(&other);
    host.start_running(&guest);
    host.save(&guest);
    let mut image = fs::read(host.path(SAVED)).unwrap();
    let uuid = guest.uuid.to_string();
    let at = image
        .windows(uuid.len())
        .position(|it| it == uuid.as_bytes());
    let at = at.unwrap();
    image[at..at + uuid.len()].copy_from_slice(other.uuid.to_string().as_bytes());
    host.write("/run/forged.save", image);
    let refused = host.virsh(&["restore", "/run/forged.save"]);
    assert!(refused.stderr.contains("already defined"), "{refused:#?}");

    host.wait_for_swtpm();
    host.remove_tpm_state(&other);
    for _ in 0..8 {
        // Whichever of the daemon's threads serves it.
        host.start(&other).refused_with("VG205");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_announcement_of_a_daemon_that_is_gone_is_void() {
    let (host, guest) = Host::with_used_guest();
    let xml = host.xml(&guest);
    // As a hook that a daemon called: a script of its name.
    host.write_program(
        "/run/libvirtd",
        "#!/bin/sh\n/usr/sbin/vtpm-guard-hook vm1 restore begin -\n",
    );
    host.run_with_input(&["/run/libvirtd"], &xml).ok();
    assert_eq!(host.announcements(), 1);
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
    assert_eq!(host.announcements(), 0, "forgotten at stopped");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_dispatcher_that_calls_every_hook_twice_changes_nothing() {
    let (host, guest) = Host::with_used_guest();
    host.use_dispatcher();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.save(&guest);
    host.remove_tpm_state(&guest);
    host.virsh(&["restore", SAVED]).ok();
    host.runs_with(&guest, &tpm);
    assert_eq!(host.announcements(), 0);
    host.stop(&guest);
    host.wait_for_swtpm();
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_dispatcher_lets_a_guest_migrate_in() {
    let (here, there, guest) = pair();
    there.use_dispatcher();
    joined(&here, &there);
    here.start_running(&guest);
    let data = "tcp://10.99.0.2";
    here.virsh(&["migrate", "--live", "--persistent", "vm1", THERE, data])
        .ok();
    assert_eq!(there.state(&guest), "running");
    assert_eq!(there.announcements(), 0);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_is_migrated_offline_brings_no_state() {
    let (here, there, guest) = pair();
    joined(&here, &there);
    here.virsh(&["migrate", "--offline", "--persistent", "vm1", THERE])
        .ok();
    assert_eq!(there.state(&guest), "shut off");
    assert_eq!(there.announcements(), 1, "libvirt has announced it");
    for _ in 0..8 {
        there.start(&guest).refused_with("VG205");
        assert!(!there.has_tpm_state(&guest));
        // As another would be that is announced and never stopped.
        here.virsh(&["migrate", "--offline", "--persistent", "vm1", THERE])
            .ok();
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_migration_that_fails_leaves_no_tpm_that_is_believed() {
    let (here, there, guest) = pair();
    joined(&here, &there);
    here.start_running(&guest);
    let data = "tcp://10.99.0.2";
    let migrate = ["migrate", "--live", "--persistent", "vm1", THERE, data];
    // The destination says `started` before anything has arrived.
    for (failures, operation) in [(1, "start"), (2, "started")] {
        there.fail_at(operation);
        assert_eq!(here.virsh(&migrate).status, 1);
        assert_eq!(here.state(&guest), "running");
        assert!(!there.has_tpm_state(&guest));
        let history = there.guard(&["history", "--json"]).ok().stdout;
        assert_eq!(history.matches("the start failed").count(), failures);
    }
    there.fail_no_longer();
    // Defined there, it would start with a TPM of its own.
    there.redefine_guest(guest.clone(), Tpm::Encrypted(guest.secret));
    there.start(&guest).refused_with("VG205");
    there.virsh(&["undefine", "vm1"]).ok();

    here.virsh(&migrate).ok();
    assert_eq!(there.state(&guest), "running");
    there.stop(&guest);
    assert!(there.has_tpm_state(&guest), "it has run there, and stays");
    let history = there.guard(&["history", "--json"]).ok().stdout;
    assert_eq!(history.matches("the start failed").count(), 2);
    there.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_restore_that_fails_leaves_no_tpm_that_is_believed() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.save(&guest);
    host.remove_tpm_state(&guest);
    host.fail_at("start");
    assert_eq!(host.virsh(&["restore", SAVED]).status, 1);
    assert!(!host.has_tpm_state(&guest), "libvirt has made a TPM for it");
    assert!(
        !host
            .path(&format!("/var/lib/libvirt/swtpm/{}/tpm2", guest.uuid))
            .exists()
    );
    let copies = host.guard(&["state", "show", "vm1"]).ok().stdout;
    assert!(copies.contains("set aside"), "{copies}");
    let history = host.guard(&["history", "vm1"]).ok().stdout;
    assert!(history.contains("is set aside"), "{history}");

    host.fail_no_longer();
    assert_eq!(host.guard(&["check", "vm1"]).status, 1);
    host.start(&guest).refused_with("VG205");
    host.virsh(&["restore", SAVED]).ok();
    host.runs_with(&guest, &tpm);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_snapshot_of_the_running_guest_brings_its_tpm() {
    let (host, guest) = Host::with_used_guest();
    host.use_disk(&guest);
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.virsh(&["snapshot-create-as", "vm1", "before"]).ok();
    host.stop(&guest);
    host.wait_for_swtpm();
    host.remove_tpm_state(&guest);
    // An ordinary start does not have it, and the refusal says how to get it.
    let revert = ["snapshot-revert", "vm1", "before"];
    let refused = host.start(&guest).refused_with("VG205");
    let hint = "virsh snapshot-revert vm1 NAME";
    assert!(refused.stderr.contains(": before; "), "{refused:#?}");
    assert!(refused.stderr.contains(hint), "{refused:#?}");
    if host.libvirt_version() > (9, 0) {
        // Nothing tells it from an ordinary start.
        host.virsh(&revert).refused_with("VG205");
        host.guard(&["reset", "vm1"]).ok();
    }
    host.virsh(&revert).ok();
    host.runs_with(&guest, &tpm);

    // A revert that fails leaves nothing behind.
    host.stop(&guest);
    host.wait_for_swtpm();
    host.remove_tpm_state(&guest);
    host.fail_at("start");
    assert_eq!(host.virsh(&revert).status, 1);
    host.fail_no_longer();
    assert!(!host.has_tpm_state(&guest));
    host.start(&guest).refused_with("VG205");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_managed_save_brings_its_tpm_and_nobody_advises_to_reset_it() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.virsh(&["managedsave", "vm1"]).ok();
    host.wait_for_swtpm();
    host.remove_tpm_state(&guest);
    assert_eq!(host.guard(&["check", "vm1"]).status, 0);
    assert!(host.check_finds(&guest, "state-arrives"));
    let reset = host.guard(&["reset", "vm1"]);
    assert_eq!(reset.status, 1, "{reset:#?}");
    assert!(reset.stderr.contains("virsh start vm1"), "{reset:#?}");
    host.start_running(&guest);
    host.runs_with(&guest, &tpm);

    // Started without it, the guest would have a new TPM.
    host.virsh(&["managedsave", "vm1"]).ok();
    host.wait_for_swtpm();
    host.remove_tpm_state(&guest);
    host.virsh(&["start", "vm1", "--force-boot"])
        .refused_with("VG205");
}
