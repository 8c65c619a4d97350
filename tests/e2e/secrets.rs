//! The host secret: given just in time, taken away again, and what becomes of secrets that
//! somebody else defined.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::Host;

fn guest_with_secret_by_hand(host: &Host) -> Guest {
    let secret = SecretUuid::random();
    host.define_secret(secret, "by hand", Some("a made-up key"));
    host.define_guest("vm1", Tpm::Encrypted(secret))
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_secret_is_gone_as_soon_as_the_guest_runs() {
    let (host, guest) = Host::with_used_guest();
    host.start_running(&guest);
    assert!(!host.has_secret(guest.secret));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_lifetime_run_the_secret_lives_as_long_as_the_guest() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[secret]\nlifetime = \"run\"\n");
    host.start_running(&guest);
    assert!(host.has_secret(guest.secret));
    host.stop(&guest);
    assert!(!host.has_secret(guest.secret));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn with_lifetime_keep_the_secret_outlives_the_guest_but_not_the_daemon() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[secret]\nlifetime = \"keep\"\n");
    host.start_and_stop(&guest);
    assert!(host.has_secret(guest.secret));
    let value = host.virsh(&["secret-get-value", &guest.secret.to_string()]);
    assert_ne!(value.status, 0, "the secret is not private: {value:#?}");

    host.restart_libvirtd();
    assert!(!host.has_secret(guest.secret), "it was on the disk");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_refused_start_leaves_no_secret() {
    let (host, guest) = Host::with_used_guest();
    host.delete_provider("nkp-a");
    host.start(&guest).refused_with("VG101");
    assert!(!host.has_secret(guest.secret));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_whose_secret_was_made_by_hand_starts_unmanaged() {
    let host = Host::new();
    let guest = guest_with_secret_by_hand(&host);
    host.start_and_stop(&guest);
    host.start_running(&guest);
    assert!(host.has_secret(guest.secret));
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_policy_may_refuse_unmanaged_guests() {
    let host = Host::new();
    let guest = guest_with_secret_by_hand(&host);
    host.configure("[policy]\nunmanaged = \"deny\"\n");
    host.start(&guest).refused_with("VG201");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_lost_provider_does_not_stop_a_guest_whose_secret_libvirt_still_has() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[secret]\nlifetime = \"keep\"\n");
    host.start_and_stop(&guest);
    host.delete_provider("nkp-a");
    let rows = host.key_refs(&guest);

    host.start_running(&guest);
    assert_eq!(host.key_refs(&guest), rows);
    host.stop(&guest);

    host.configure("[secret]\nlifetime = \"keep\"\n[policy]\ndegraded = \"deny\"\n");
    host.start(&guest).refused_with("VG101");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_usage_that_belongs_to_another_secret_is_a_conflict() {
    let (host, guest) = Host::with_used_guest();
    let usage = format!("vtpm-guard:{}", guest.uuid);
    let other = SecretUuid::random();
    host.define_secret(other, &usage, None);
    let rows = host.key_refs(&guest);

    host.start(&guest).refused_with("VG303");
    assert_eq!(host.key_refs(&guest), rows);
    assert!(host.has_secret(other));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_secret_for_another_use_is_a_conflict_that_a_check_foresees() {
    let (host, guest) = Host::with_used_guest();
    host.write(
        "/run/secret.xml",
        format!(
            "<secret ephemeral='no' private='no'><uuid>{}</uuid>\
             <usage type='volume'><volume>/a/disk</volume></usage></secret>",
            guest.secret
        ),
    );
    host.virsh(&["secret-define", "/run/secret.xml"]).ok();
    for rows in ["rows", "no rows"] {
        let check = host.guard(&["check", "vm1"]);
        assert_eq!(check.status, 1, "{rows}: {check:#?}");
        assert!(check.stdout.contains("VG303"), "{rows}: {check:#?}");
        host.start(&guest).refused_with("VG303");
        host.delete_key_refs(&guest);
    }
    assert!(host.has_secret(guest.secret));
}
