//! Transient guests (`virsh create`), whose TPM state libvirt deletes when their start fails
//! and when they stop: the guard keeps it.

use std::fs;
use std::path::PathBuf;

use vtpm_guard::ids::{DomainUuid, SecretUuid};

use crate::guest::Guest;
use crate::host::{Host, Output};

/// A device that QEMU does not know.
const FAILS_IN_QEMU: &str = "<qemu:commandline><qemu:arg value='-no-such-option'/>\
                             </qemu:commandline>";

impl Host {
    /// A provider `nkp-a`, exported, and a transient guest `vm1` bound to it, not started yet.
    fn with_transient_guest() -> (Self, Guest) {
        let host = Self::new();
        host.create_provider("nkp-a");
        let guest = Guest {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            secret: SecretUuid::random(),
        };
        let uuid = guest.uuid.to_string();
        host.guard(&["key", "bind", &uuid, "--provider", "nkp-a"])
            .ok();
        (host, guest)
    }

    /// The same, and it has run once, and its state lies in libvirt's place: as where a host
    /// went down with its guests.
    fn with_transient_state() -> (Self, Guest, Vec<u8>) {
        let (host, guest) = Self::with_transient_guest();
        host.create_running(&guest);
        let state = host.tpm_state(&guest);
        host.stop(&guest);
        host.guard(&["state", "restore", &guest.uuid.to_string()])
            .ok();
        assert_eq!(host.tpm_state(&guest), state);
        for copy in host.copies(&guest) {
            fs::remove_file(copy).unwrap();
        }
        (host, guest, state)
    }

    fn create(&self, guest: &Guest) -> Output {
        self.create_with(guest, "")
    }

    /// Starts a transient guest with this at the end of its XML.
    fn create_with(&self, guest: &Guest, more: &str) -> Output {
        let Guest { name, uuid, secret } = guest;
        let xml = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'>\
             <encryption secret='{secret}'/></backend></tpm></devices>{more}</domain>"
        );
        self.write("/run/transient.xml", xml);
        self.virsh(&["create", "/run/transient.xml"])
    }

    #[track_caller]
    fn create_running(&self, guest: &Guest) {
        self.create(guest).ok();
        assert_eq!(self.state(guest), "running");
    }

    /// A start that fails in QEMU, after which libvirt has deleted the state.
    #[track_caller]
    fn fail_in_qemu(&self, guest: &Guest) {
        let failed = self.create_with(guest, FAILS_IN_QEMU);
        assert_eq!(failed.status, 1, "{failed:#?}");
        assert!(failed.stderr.contains("no-such-option"), "{failed:#?}");
        assert!(!self.has_tpm_state(guest));
    }

    /// The manifests of the guest's copies.
    fn copies(&self, guest: &Guest) -> Vec<PathBuf> {
        let shelf = format!("/var/lib/vtpm-guard/tpm-state/{}", guest.uuid);
        let Ok(entries) = fs::read_dir(self.path(&shelf)) else {
            return Vec::new();
        };
        let files = entries.map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .filter(|path| !path.ends_with("run.json"))
            .collect()
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_transient_guest_gets_its_state_back_at_every_start() {
    let (host, guest) = Host::with_transient_guest();
    host.create_running(&guest);
    assert_eq!(host.copies(&guest).len(), 0);
    let state = host.tpm_state(&guest);
    for _ in 0..2 {
        host.stop(&guest);
        assert!(!host.has_tpm_state(&guest), "libvirt deletes it");
        assert_eq!(host.copies(&guest).len(), 1);
        host.create_running(&guest);
        assert_eq!(host.tpm_state(&guest), state);
        assert_eq!(host.copies(&guest).len(), 0);
    }
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_that_fails_in_qemu_costs_no_state() {
    let (host, guest, state) = Host::with_transient_state();
    for _ in 0..2 {
        host.fail_in_qemu(&guest);
        assert_eq!(host.copies(&guest).len(), 1);
    }
    host.create_running(&guest);
    assert_eq!(host.tpm_state(&guest), state);
    assert_eq!(host.copies(&guest).len(), 0);
}
