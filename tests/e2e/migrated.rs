//! Live migration of a transient guest between two hosts: its TPM moves, and leaves no copy.

use std::fs;

use crate::host::Host;
use crate::pair::{THERE, joined};

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_migrates_away_leaves_no_copy_of_its_tpm_behind() {
    let (here, guest) = Host::with_transient_guest();
    let there = Host::new();
    joined(&here, &there);
    here.create_running(&guest);

    for file in ["/run/nkp-a.recovery", "/run/passphrase"] {
        there.write(file, fs::read(here.path(file)).unwrap());
    }
    there.import_provider("nkp-a", None);
    there.insert_key_ref(&guest, &here.only_key_ref(&guest));
    let (uri, data) = (
        format!("qemu+tcp://{THERE}/system"),
        format!("tcp://{THERE}"),
    );
    here.virsh(&["migrate", "--live", "vm1", &uri, &data]).ok();

    assert_eq!(there.state(&guest), "running");
    assert!(there.has_tpm_state(&guest), "it came with the stream");
    assert_eq!(there.copies(&guest).len(), 0);
    assert_eq!(here.copies(&guest).len(), 0);
    // Started here all the same, it would have an old TPM, or a new one.
    here.create(&guest).refused_with("VG205");

    let state = there.tpm_state(&guest);
    there.stop(&guest);
    there.create_running(&guest);
    assert!(there.tpm_state(&guest) == state);
}
