//! `state.keep = "all"`: the TPM state of every guest that stops is saved.

use std::fs;

use crate::guest::Guest;
use crate::host::Host;
use crate::pair::joined;
use crate::tpm::{Identity, identity};

impl Host {
    fn keep_all_states(&self) {
        self.configure("[state]\nkeep = \"all\"\n");
    }

    fn tpm_of(&self, guest: &Guest) -> Identity {
        let dek = self.only_key_ref(guest).dek(guest, &self.kek("nkp-a"));
        identity(&self.tpm_state(guest), Some(dek.expose()))
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_was_undefined_has_its_tpm_again() {
    let (host, guest) = Host::with_used_guest();
    host.start_and_stop(&guest);
    assert_eq!(host.copies(&guest).len(), 0);
    host.keep_all_states();
    for _ in 0..2 {
        host.start_and_stop(&guest);
        assert_eq!(
            host.copies(&guest).len(),
            1,
            "the same bytes are saved once"
        );
    }
    let tpm = host.tpm_of(&guest);
    for _ in 0..2 {
        host.virsh(&["undefine", "vm1"]).ok();
        assert!(!host.has_tpm_state(&guest), "libvirt deletes it");
        host.virsh(&["define", "/run/vm1.xml"]).ok();
        let foreseen = host.guard(&["check", "vm1"]);
        assert!(
            foreseen.stdout.contains("restore-tpm-state"),
            "{foreseen:#?}"
        );
        host.start_and_stop(&guest);
        assert_eq!(host.tpm_of(&guest), tpm);
    }
    // A transient guest, too, has nothing to fear: what libvirt deletes is saved anyway.
    host.virsh(&["undefine", "vm1"]).ok();
    for _ in 0..2 {
        host.virsh(&["create", "/run/vm1.xml"]).ok();
        assert_eq!(
            host.copies(&guest).len(),
            1,
            "it stays while the guest runs"
        );
        host.stop(&guest);
    }
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_copy_from_before_the_last_run_is_restored_only_when_that_is_said() {
    let (host, guest) = Host::with_used_guest();
    host.keep_all_states();
    host.start_and_stop(&guest);
    let tpm = host.tpm_of(&guest);
    host.start_running(&guest);
    let list = || host.guard(&["state", "list"]).ok().stdout;
    assert!(list().contains("older than the last run"), "{}", list());
    // A disk that fails while the guest runs; then its end has nothing to save.
    host.remove_tpm_state(&guest);
    host.stop(&guest);
    assert_eq!(host.copies(&guest).len(), 1);
    for _ in 0..2 {
        let refused = host.start(&guest).refused_with("VG205");
        let words = "older than the guest's last run";
        assert!(refused.stderr.contains(words), "{refused:#?}");
        assert!(refused.stderr.contains("state restore vm1"), "{refused:#?}");
    }
    host.guard(&["state", "restore", "vm1"]).ok();
    host.start_and_stop(&guest);
    assert_eq!(host.tpm_of(&guest), tpm);
    assert!(!list().contains("older than the last run"), "{}", list());

    // A run whose end no hook has seen.
    host.start_running(&guest);
    let hook = "/etc/libvirt/hooks/qemu.d/50-vtpm-guard";
    host.run(&["mv", hook, "/run/hook"]).ok();
    host.stop(&guest);
    host.run(&["mv", "/run/hook", hook]).ok();
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
    // Nor its beginning, as far as the note beside the copies goes: the history knows of it.
    let note = format!("/var/lib/vtpm-guard/tpm-state/{}/run.json", guest.uuid);
    fs::remove_file(host.path(&note)).unwrap();
    host.start(&guest).refused_with("VG205");
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_has_moved_away_is_not_set_back_here() {
    let (here, guest) = Host::with_used_guest();
    let there = Host::new();
    joined(&here, &there);
    for file in ["/run/nkp-a.recovery", "/run/passphrase"] {
        there.write(file, fs::read(here.path(file)).unwrap());
    }
    there.import_provider("nkp-a", None);
    there.insert_key_ref(&guest, &here.only_key_ref(&guest));
    here.keep_all_states();
    here.start_and_stop(&guest);
    here.start_running(&guest);
    let to = ["qemu+tcp://10.99.0.2/system", "tcp://10.99.0.2"];
    here.virsh(&[&["migrate", "--live", "vm1"], &to[..]].concat())
        .ok();
    assert_eq!(there.state(&guest), "running");
    assert_eq!(here.copies(&guest).len(), 1);
    if here.has_tpm_state(&guest) {
        here.remove_tpm_state(&guest);
    }
    let refused = here.start(&guest).refused_with("VG205");
    assert!(refused.stderr.contains("state restore"), "{refused:#?}");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_state_that_another_host_uses_is_no_copy_of_an_ended_run() {
    let (host, guest) = Host::with_used_guest();
    host.keep_all_states();
    let other = Host::new();
    let shared = tempfile::tempdir().unwrap();
    let copy = format!(
        "cp -a /var/lib/libvirt/swtpm/. '{}'",
        shared.path().display()
    );
    host.run(&["sh", "-c", &copy]).ok();
    for one in [&host, &other] {
        one.share_states(shared.path());
    }
    other.keep_all_states();
    for file in ["/run/nkp-a.recovery", "/run/passphrase", "/run/vm1.xml"] {
        other.write(file, fs::read(host.path(file)).unwrap());
    }
    other.import_provider("nkp-a", None);
    other.insert_key_ref(&guest, &host.only_key_ref(&guest));
    other.virsh(&["define", "/run/vm1.xml"]).ok();
    host.start_running(&guest);
    other.start(&guest).refused_with("VG208");
    assert_eq!(other.copies(&guest).len(), 0);
    host.stop(&guest);
    assert_eq!(host.copies(&guest).len(), 1);
}
