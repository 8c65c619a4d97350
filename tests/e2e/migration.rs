//! docs/migration.md, played word for word on two hosts that are joined by a network: a running
//! guest moves, and a stopped one.

use std::fs;

use crate::guest::{Guest, Tpm, recovery_file};
use crate::page::blocks;
use crate::pair::Pair;

/// The blocks of commands in a section of the page.
fn page<const N: usize>(heading: &str) -> [String; N] {
    blocks("migration.md", heading).try_into().unwrap()
}

fn prepared() -> (Pair, Guest) {
    let pair = Pair::new();
    pair.here.create_provider("nkp-a");
    let guest = pair.here.define_bound_guest("vm1", "nkp-a");
    pair.here.start_and_stop(&guest);
    for host in [&pair.here, &pair.there] {
        host.attach_backup_disk();
    }
    let recovery = fs::read(pair.here.path(&recovery_file("nkp-a"))).unwrap();
    pair.here.write("/mnt/backup/nkp-a.recovery", recovery);
    pair.carry_over(&["passphrase", "nkp-a.recovery"]);
    let [import] = page("Once for both hosts");
    pair.there.play(&import).ok();
    (pair, guest)
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_running_guest_takes_its_tpm_along() {
    let (pair, guest) = prepared();
    pair.here.start_running(&guest);
    let state = pair.here.tpm_state(&guest);
    let [backup, import, migrate] = page("A running guest");
    pair.here.play(&backup).ok();
    pair.carry_over(&["store.backup"]);
    pair.there.play(&import).ok();
    pair.here.play(&migrate).ok();

    assert_eq!(pair.there.state(&guest), "running");
    let made = pair.there.tpms_made(&guest);
    let makes_one_first = pair.there.libvirt_version() > (9, 0);
    assert!(
        made == 0 || makes_one_first,
        "it is not the TPM that it had"
    );
    assert_eq!(pair.there.tpm_state(&guest).len(), state.len());
    assert!(!pair.there.has_secret(guest.secret));
    assert!(!pair.here.has_secret(guest.secret));
    pair.there.stop(&guest);
    pair.there.start_running(&guest);
    assert_eq!(pair.there.tpms_made(&guest), made);
}

// libvirt 11.3 lets swtpm make a TPM on the second host before the state of the first arrives.
// Encrypted states differ each time that they are written; plain ones can be compared.
#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_tpm_arrives_byte_for_byte() {
    let pair = Pair::new();
    let guest = pair.here.define_guest("vm1", Tpm::Plain);
    pair.here.start_running(&guest);
    let state = pair.here.tpm_state(&guest);
    let [_, _, migrate] = page("A running guest");
    pair.here.play(&migrate).ok();
    assert_eq!(pair.there.state(&guest), "running");
    assert!(pair.there.tpm_state(&guest) == state, "it is another TPM");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_stopped_guest_takes_its_tpm_along() {
    let (pair, guest) = prepared();
    let [save, bring] = page("A stopped guest");
    pair.here.play(&save).ok();
    pair.carry_over(&["store.backup", "vm1.xml", "vm1-tpm.tar"]);
    pair.there.play(&bring).ok();
    assert_eq!(pair.there.state(&guest), "running");
    assert_eq!(pair.there.tpms_made(&guest), 0);
}
