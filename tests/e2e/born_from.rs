//! The case that the guard was born from: a provider is deleted and imported again, every
//! reference to it has lost its UUID, and half-made placeholders stand beside the real rows.

use crate::guest::{Guest, KeyRef};
use crate::host::Host;

/// The guest's start succeeds, with the same TPM, and leaves one healthy row: the keyed one,
/// bound to this provider.
#[track_caller]
fn assert_heals(host: &Host, guest: &Guest, keyed: &KeyRef, provider: &str) {
    let state = host.tpm_state(guest);
    host.start_running(guest);
    assert_eq!(host.tpm_state(guest), state, "the TPM's state changed");
    assert_eq!(host.tpms_made(guest), 1, "a new TPM was made");

    let (uuid, key_id) = host.provider(provider);
    let row = host.only_key_ref(guest);
    assert_eq!(row.id, keyed.id);
    assert_eq!(row.wrapped_dek, keyed.wrapped_dek);
    assert_eq!(row.provider_uuid, Some(uuid));
    assert_eq!(row.provider_name, provider);
    assert_eq!(row.kek_ref, Some(format!("native:{key_id}")));
    assert_eq!(row.secret_uuid, Some(guest.secret.to_string()));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_reimported_provider_beside_a_placeholder_is_rebound_and_the_guest_boots() {
    let (host, guest) = Host::with_used_guest();
    let keyed = host.only_key_ref(&guest);
    let (old_uuid, old_key_id) = host.provider("nkp-a");

    host.delete_provider("nkp-a");
    assert_eq!(host.only_key_ref(&guest).provider_uuid, None);
    host.start(&guest).refused_with("VG101");

    host.import_provider("nkp-a", None);
    let (new_uuid, new_key_id) = host.provider("nkp-a");
    assert_ne!(new_uuid, old_uuid);
    assert_eq!(new_key_id, old_key_id);

    host.insert_placeholder(&guest, "nkp-a");
    assert_eq!(host.key_refs(&guest).len(), 2);
    assert_heals(&host, &guest, &keyed, "nkp-a");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn after_it_healed_nothing_is_left_to_repair() {
    let (host, guest) = Host::with_used_guest();
    host.delete_provider("nkp-a");
    host.import_provider("nkp-a", None);
    host.insert_placeholder(&guest, "nkp-a");
    assert_eq!(host.guard(&["check", "vm1"]).status, 3);

    host.start_and_stop(&guest);
    let healed = host.key_refs(&guest);
    assert_eq!(host.guard(&["check", "vm1"]).status, 0);
    host.start_running(&guest);
    assert_eq!(host.key_refs(&guest), healed);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_placeholder_beside_a_healthy_row_is_deleted() {
    let (host, guest) = Host::with_used_guest();
    let keyed = host.only_key_ref(&guest);
    host.insert_placeholder(&guest, "nkp-a");
    assert_heals(&host, &guest, &keyed, "nkp-a");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_provider_uuid_that_dangles_is_as_good_as_none() {
    let (host, guest) = Host::with_used_guest();
    let keyed = host.only_key_ref(&guest);
    let (old_uuid, _) = host.provider("nkp-a");
    host.delete_provider("nkp-a");
    host.import_provider("nkp-a", None);
    host.update_key_refs(&guest, &format!("provider_uuid = '{old_uuid}'"));
    host.insert_placeholder(&guest, "nkp-a");
    assert_heals(&host, &guest, &keyed, "nkp-a");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_provider_imported_under_another_name_is_found_by_its_key_id() {
    let (host, guest) = Host::with_used_guest();
    let keyed = host.only_key_ref(&guest);
    host.delete_provider("nkp-a");
    host.import_provider("nkp-a", Some("nkp-b"));
    assert_heals(&host, &guest, &keyed, "nkp-b");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn of_two_rows_of_the_same_key_the_one_with_a_live_provider_stays() {
    let (host, guest) = Host::with_used_guest();
    host.delete_provider("nkp-a");
    let lost = host.only_key_ref(&guest);
    host.import_provider("nkp-a", None);
    let live = KeyRef {
        provider_uuid: Some(host.provider("nkp-a").0),
        ..lost.clone()
    };
    host.insert_key_ref(&guest, &live);
    let live = host.key_refs(&guest).pop().unwrap();
    assert_ne!(live.id, lost.id);
    assert_heals(&host, &guest, &live, "nkp-a");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_provider_of_the_same_name_with_another_key_changes_nothing() {
    let (host, guest) = Host::with_used_guest();
    let (_, wrapped_with) = host.provider("nkp-a");
    host.delete_provider("nkp-a");
    host.guard(&["provider", "create", "nkp-a"]).ok();
    let (_, has) = host.provider("nkp-a");
    host.insert_placeholder(&guest, "nkp-a");
    let (rows, state) = (host.key_refs(&guest), host.tpm_state(&guest));

    let refused = host.start(&guest).refused_with("VG102");
    for named in ["vm1", "nkp-a", &has[..8], &wrapped_with[..8]] {
        assert!(refused.stderr.contains(named), "{named}: {refused:#?}");
    }
    assert_eq!(host.key_refs(&guest), rows);
    assert_eq!(host.tpm_state(&guest), state);
    assert_eq!(host.state(&guest), "shut off");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_provider_that_is_gone_is_named_with_its_key_id() {
    let (host, guest) = Host::with_used_guest();
    let (_, key_id) = host.provider("nkp-a");
    host.delete_provider("nkp-a");
    let (rows, state) = (host.key_refs(&guest), host.tpm_state(&guest));

    let refused = host.start(&guest).refused_with("VG101");
    for named in ["nkp-a", &key_id[..8]] {
        assert!(refused.stderr.contains(named), "{named}: {refused:#?}");
    }
    assert_eq!(host.key_refs(&guest), rows);
    assert_eq!(host.tpm_state(&guest), state);
}
