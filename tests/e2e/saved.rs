//! Guests whose TPM state comes with a stream: saved, restored, reverted. None of it is a
//! missing state.

use std::time::Duration;

use crate::guest::Guest;
use crate::host::Host;
use crate::tpm::{Identity, identity};

pub(crate) const SAVED: &str = "/run/vm1.save";

impl Host {
    /// Saves a guest, and waits for its swtpm to end: it holds a lock on the state for a moment
    /// longer, and a restore by libvirt that is faster fails.
    pub(crate) fn save(&self, guest: &Guest) {
        self.virsh(&["save", &guest.name, SAVED]).ok();
        self.wait_for_swtpm();
    }

    pub(crate) fn wait_for_swtpm(&self) {
        self.run(&["sh", "-c", "while pgrep -x swtpm; do sleep 0.05; done"]);
    }

    /// The same where others run.
    pub(crate) fn wait_for_swtpm_of(&self, guest: &Guest) {
        // The brackets keep the shell itself from being found.
        let waits = format!(
            "while pgrep -f '[s]wtpm.*{}'; do sleep 0.05; done",
            guest.uuid
        );
        self.run(&["sh", "-c", &waits]);
    }

    /// Gives a guest a disk that can hold a snapshot.
    pub(crate) fn use_disk(&self, guest: &Guest) {
        let image = "/var/lib/libvirt/vm1.qcow2";
        self.write(image, empty_qcow2());
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
             <source file='{image}'/><target dev='vda' bus='virtio'/></disk></devices>"
        );
        let xml = self.virsh(&["dumpxml", "--inactive", &guest.name]).ok();
        self.write("/run/disk.xml", xml.stdout.replace("</devices>", &disk));
        self.virsh(&["define", "/run/disk.xml"]).ok();
    }

    /// Who the guest's TPM is.
    pub(crate) fn tpm(&self, guest: &Guest) -> Identity {
        let dek = self.only_key_ref(guest).dek(guest, &self.kek("nkp-a"));
        identity(&self.tpm_state(guest), Some(dek.expose()))
    }

    /// The guest runs again, with the TPM that it had. (The bytes of its state are others: swtpm
    /// encrypts what comes with the stream anew. And libvirt 11 lets it make a TPM before the
    /// stream brings the right one, so that the TPMs made do not tell.)
    #[track_caller]
    pub(crate) fn runs_with(&self, guest: &Guest, tpm: &Identity) {
        assert_eq!(self.state(guest), "running");
        assert_eq!(self.tpm(guest), *tpm);
    }
}

/// An empty disk of one megabyte in the qcow2 format, version 2 (QEMU,
/// `docs/interop/qcow2.txt`): header, refcount table, refcount block and L1 table, in a cluster
/// of 64 KiB each.
fn empty_qcow2() -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let header: [(usize, u32); 7] = [
        (0, 0x5146_49fb), // magic
        (4, 2),           // version
        (20, 16),         // bits of a cluster's length
        (28, 1 << 20),    // the disk's length, low half
        (36, 1),          // entries of the L1 table
        (44, 3 << 16),    // its offset, low half
        (52, 1 << 16),    // the refcount table's offset, low half
    ];
    for (at, value) in header {
        put(at, &value.to_be_bytes());
    }
    put(56, &1_u32.to_be_bytes()); // clusters of the refcount table
    put(CLUSTER + 4, &(2_u32 << 16).to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_managed_save_starts_with_its_state_or_without() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    for gone in [false, true] {
        host.virsh(&["managedsave", "vm1"]).ok();
        host.wait_for_swtpm();
        if gone {
            host.remove_tpm_state(&guest);
        }
        host.start_running(&guest);
        host.runs_with(&guest, &tpm);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_saved_guest_is_restored_although_its_state_is_gone() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.save(&guest);
    host.remove_tpm_state(&guest);
    host.virsh(&["restore", SAVED]).ok();
    host.runs_with(&guest, &tpm);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_announcement_of_a_stream_serves_one_start() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    host.save(&guest);
    host.virsh(&["restore", SAVED]).ok();
    host.stop(&guest);
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_announcement_of_a_stream_that_never_came_expires() {
    let (host, guest) = Host::with_used_guest();
    let xml = host.xml(&guest);
    let hook = |operation: &str| host.hook("vm1", &[operation, "begin", "-"], &xml).status;
    assert_eq!(hook("migrate"), 0);
    host.remove_tpm_state(&guest);
    // A dispatcher has it prepared twice; the guest's next start is no business of it.
    assert_eq!([hook("prepare"), hook("prepare")], [0, 0]);
    assert_eq!(host.guard(&["check", "vm1"]).status, 1);
    let past = Duration::from_secs(31).as_millis();
    let age = format!("UPDATE arriving SET at = at - {past}");
    host.store().execute(&age, []).unwrap();
    assert_eq!(hook("prepare"), 1);
    host.start(&guest).refused_with("VG205");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_is_restored_with_xml_that_its_caller_wrote() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.save(&guest);
    host.remove_tpm_state(&guest);
    let dump = host.virsh(&["save-image-dumpxml", SAVED]).ok().stdout;
    // Other spellings of the same: no dashes, upper case, a comment, CDATA.
    let uuid = guest.uuid.to_string();
    let bare = uuid.replace('-', "").to_uppercase();
    let by_caller = dump
        .replace(
            &format!("<uuid>{uuid}</uuid>"),
            &format!("<uuid>{bare}</uuid><!-- a -->"),
        )
        .replace("<name>vm1</name>", "<name><![CDATA[vm1]]></name>");
    assert_ne!(by_caller, dump);
    host.write("/run/caller.xml", by_caller);
    host.virsh(&["restore", SAVED, "--xml", "/run/caller.xml"])
        .ok();
    host.runs_with(&guest, &tpm);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_restore_that_is_refused_can_be_done_again() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.save(&guest);
    host.remove_tpm_state(&guest);
    host.delete_provider("nkp-a");
    let refused = host.virsh(&["restore", SAVED]).refused_with("VG101");
    assert!(refused.stderr.contains("provider import"), "{refused:#?}");
    host.import_provider("nkp-a", None);
    host.virsh(&["restore", SAVED]).ok();
    host.runs_with(&guest, &tpm);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_transient_guest_is_saved_and_restored_with_its_tpm() {
    let (host, guest) = Host::with_transient_guest();
    host.create_running(&guest);
    let tpm = host.tpm(&guest);
    for _ in 0..2 {
        host.save(&guest);
        assert!(!host.has_tpm_state(&guest), "libvirt deletes it");
        host.virsh(&["restore", SAVED]).ok();
        host.runs_with(&guest, &tpm);
        assert_eq!(host.copies(&guest).len(), 0);
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_reverts_to_a_running_snapshot() {
    let (host, guest) = Host::with_used_guest();
    host.use_disk(&guest);
    host.start_running(&guest);
    let tpm = host.tpm(&guest);
    host.virsh(&["snapshot-create-as", "vm1", "before"]).ok();
    // From the running guest, and from the stopped one.
    host.virsh(&["snapshot-revert", "vm1", "before"]).ok();
    host.runs_with(&guest, &tpm);
    host.stop(&guest);
    host.wait_for_swtpm();
    host.virsh(&["snapshot-revert", "vm1", "before"]).ok();
    host.runs_with(&guest, &tpm);
}
