//! The rows of the decision table that end in a refusal, as `virsh` shows it, and what the
//! policy makes of them.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::Tpm;
use crate::host::Host;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_without_any_key_is_refused_before_a_tpm_is_made() {
    let host = Host::new();
    let guest = host.define_guest("vm1", Tpm::Encrypted(SecretUuid::random()));
    host.start(&guest).refused_with("VG201");
    assert!(!host.has_tpm_state(&guest));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_encrypted_state_without_any_key_is_a_lost_key() {
    let (host, guest) = Host::with_used_guest();
    host.delete_key_refs(&guest);
    let state = host.tpm_state(&guest);
    host.start(&guest).refused_with("VG202");
    assert_eq!(host.tpm_state(&guest), state);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_made_over_an_encrypted_state() {
    let (host, guest) = Host::with_used_guest();
    host.delete_key_refs(&guest);
    host.insert_placeholder(&guest, "nkp-a");
    let (rows, state) = (host.key_refs(&guest), host.tpm_state(&guest));
    host.start(&guest).refused_with("VG202");
    assert_eq!(host.key_refs(&guest), rows);
    assert_eq!(host.tpm_state(&guest), state);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_used_key_without_its_state_is_refused_until_the_administrator_lets_it() {
    let (host, guest) = Host::with_used_guest();
    host.remove_tpm_state(&guest);
    host.start(&guest).refused_with("VG205");
    assert!(!host.has_tpm_state(&guest), "libvirt made a new TPM");

    host.guard(&["reset", "vm1"]).ok();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_policy_may_allow_a_new_tpm_for_a_used_key() {
    let (host, guest) = Host::with_used_guest();
    host.configure("[policy]\nmissing_state = \"allow\"\n");
    host.remove_tpm_state(&guest);
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_damaged_key_is_refused() {
    let (host, guest) = Host::with_used_guest();
    let mut row = host.only_key_ref(&guest);
    *row.wrapped_dek.as_mut().unwrap().last_mut().unwrap() ^= 1;
    host.delete_key_refs(&guest);
    host.insert_key_ref(&guest, &row);
    let (rows, state) = (host.key_refs(&guest), host.tpm_state(&guest));
    host.start(&guest).refused_with("VG206");
    assert_eq!(host.key_refs(&guest), rows);
    assert_eq!(host.tpm_state(&guest), state);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_copied_from_another_guest_does_not_open() {
    let (host, guest) = Host::with_used_guest();
    let other = host.define_guest("vm2", Tpm::Encrypted(SecretUuid::random()));
    host.insert_key_ref(&other, &host.only_key_ref(&guest));
    host.update_key_refs(&other, "first_used_at = NULL");
    host.start(&other).refused_with("VG206");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_plain_state_under_an_encrypted_xml_is_refused() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_guest("vm1", Tpm::Plain);
    host.start_and_stop(&guest);
    let state = host.tpm_state(&guest);

    let secret = guest.secret;
    let guest = host.redefine_guest(guest, Tpm::Encrypted(secret));
    host.bind(&guest, "nkp-a");
    let refused = host.start(&guest).refused_with("VG503");
    assert!(refused.stderr.contains("encrypt"), "{refused:#?}");
    assert_eq!(host.tpm_state(&guest), state);
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, None);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn an_encrypted_state_under_a_plain_xml_is_refused() {
    let (host, guest) = Host::with_used_guest();
    let state = host.tpm_state(&guest);
    let guest = host.redefine_guest(guest, Tpm::Plain);
    host.start(&guest).refused_with("VG503");
    assert_eq!(host.tpm_state(&guest), state);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_policy_may_refuse_unencrypted_vtpms_but_never_a_guest_without_one() {
    let host = Host::new();
    host.configure("[policy]\nunencrypted = \"deny\"\n");
    let plain = host.define_guest("vm1", Tpm::Plain);
    let none = host.define_guest("vm2", Tpm::None);
    host.start(&plain).refused_with("VG502");
    host.start_running(&none);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_provider_whose_key_is_gone_from_the_host_is_sealed() {
    let (host, guest) = Host::with_used_guest();
    let (_, key_id) = host.provider("nkp-a");
    host.write(&format!("/var/lib/vtpm-guard/keys/{key_id}"), "nonsense");
    let rows = host.key_refs(&guest);
    host.start(&guest).refused_with("VG104");
    assert_eq!(host.key_refs(&guest), rows);
}
