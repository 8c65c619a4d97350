//! A host is lost: another one starts its guests, with their TPMs.

use super::Fleet;

// The disk that it shares, the guest has on the other host, too; its key and its TPM's state come from the store.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_guest_of_a_lost_host_starts_on_another_one_with_its_tpm() {
    let (_fleet, [alpha, beta]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    alpha.exchange();
    let tpm = alpha.tpm(&guest);
    drop(alpha);
    beta.define_too(&guest);
    beta.starts_with(&guest, &tpm);
    assert_eq!(beta.tpms_made(&guest), 0);
    let list = beta.guard(&["key", "list", "vm1"]).ok().stdout;
    assert!(list.contains("nkp-a"), "{list}");
}

// What the guest wrote to its TPM since, is lost with the host: somebody has to know that before it is started.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_ran_when_its_host_was_lost_is_set_back_only_when_that_is_said() {
    let (_fleet, [alpha, beta]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    alpha.start_running(&guest);
    alpha.exchange();
    let tpm = alpha.tpm(&guest);
    drop(alpha);
    beta.define_too(&guest);
    for _ in 0..2 {
        let refused = beta.start(&guest).refused_with("VG205");
        assert!(refused.stderr.contains("older"), "{refused:#?}");
        assert!(refused.stderr.contains("state restore vm1"), "{refused:#?}");
        assert!(!beta.has_tpm_state(&guest));
    }
    let list = beta.guard(&["state", "list", "--fleet"]).ok().stdout;
    assert!(list.contains("vm1"), "{list}");
    beta.guard(&["state", "restore", "vm1"]).ok();
    beta.starts_with(&guest, &tpm);
    assert_eq!(beta.tpms_made(&guest), 0);
}

// Its store is that of yesterday, and its TPM states are gone. What it has said itself of the run since, it knows no more.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_ran_after_the_backup_of_its_host_is_set_back_only_when_that_is_said() {
    let (_fleet, [alpha]) = Fleet::with_hosts();
    let guest = alpha.define_bound_guest("vm1", "nkp-a");
    alpha.start_and_stop(&guest);
    alpha.exchange();
    let tpm = alpha.tpm(&guest);
    alpha.guard(&["store", "backup", "/run/backup"]).ok();
    alpha.start_running(&guest);
    alpha.exchange();
    alpha.stop(&guest);
    alpha.remove_tpm_state(&guest);
    alpha.guard(&["store", "restore", "/run/backup"]).ok();
    let refused = alpha.start(&guest).refused_with("VG205");
    assert!(refused.stderr.contains("state restore vm1"), "{refused:#?}");
    assert!(!alpha.has_tpm_state(&guest));
    alpha.guard(&["state", "restore", "vm1"]).ok();
    alpha.starts_with(&guest, &tpm);
    // That of its first start.
    assert_eq!(alpha.tpms_made(&guest), 1);
}
