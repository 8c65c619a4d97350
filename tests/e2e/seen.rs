//! A guest whose key is not the guard's, and whose TPM the guard has seen: it is missed.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::Host;

fn host_with_unmanaged_guest() -> (Host, Guest) {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Encrypted(SecretUuid::random()));
    host.define_secret(guest.secret, "vm1's own", Some("a value of its own"));
    (host, guest)
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_unmanaged_guest_whose_tpm_is_gone_gets_no_new_one() {
    let (host, guest) = host_with_unmanaged_guest();
    host.start_and_stop(&guest);
    host.remove_tpm_state(&guest);
    assert_eq!(host.guard(&["check", "vm1"]).status, 1);
    let refused = host.start(&guest).refused_with("VG205");
    let path = format!("/var/lib/libvirt/swtpm/{}", guest.uuid);
    assert!(refused.stderr.contains(&path), "{refused:#?}");

    host.configure("[policy]\nmissing_state = \"allow\"\n");
    host.start_and_stop(&guest);
    host.configure("");
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");

    host.guard(&["reset", "vm1"]).ok();
    host.start_and_stop(&guest);
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
}

// As where the guard is installed while the guest runs.
#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_tpm_is_seen_at_the_end_of_a_run_too() {
    let (host, guest) = host_with_unmanaged_guest();
    host.start_running(&guest);
    let forget = "DELETE FROM seen_state";
    assert_eq!(host.store().execute(forget, []).unwrap(), 1);
    host.stop(&guest);
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_never_ran_here_gets_its_tpm() {
    let (host, guest) = host_with_unmanaged_guest();
    host.fail_at("start");
    host.start_fails(&guest, "made-up failure");
    host.fail_no_longer();
    // That start has made a TPM, with which nobody has run.
    host.remove_tpm_state(&guest);
    host.start_and_stop(&guest);
}
