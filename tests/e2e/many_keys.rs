//! Several keyed rows for one vTPM: which one is right is proven by the TPM's state, or asked.

use crate::guest::{Guest, KeyRef};
use crate::host::Host;

/// A stopped guest with the row of its present key, and a row of another key that was made for
/// it earlier. Only the present key's row is in the store.
fn guest_with_two_keys() -> (Host, Guest, KeyRef, KeyRef) {
    let (host, guest) = Host::with_used_guest();
    let earlier = host.only_key_ref(&guest);
    host.delete_key_refs(&guest);
    host.remove_tpm_state(&guest);
    host.bind(&guest, "nkp-a");
    host.start_and_stop(&guest);
    let present = host.only_key_ref(&guest);
    assert_ne!(present.wrapped_dek, earlier.wrapped_dek);
    (host, guest, present, earlier)
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_key_that_opens_the_tpm_is_used_and_the_other_is_retired() {
    let (host, guest, present, earlier) = guest_with_two_keys();
    host.insert_key_ref(&guest, &earlier);
    let state = host.tpm_state(&guest);

    host.start_running(&guest);
    assert_eq!(host.tpm_state(&guest), state);
    let rows = host.key_refs(&guest);
    assert_eq!(rows.len(), 2, "a key was deleted: {rows:#?}");
    for row in rows {
        assert_eq!(row.retired_at.is_none(), row.id == present.id, "{row:#?}");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_row_that_opens_nothing_never_stops_a_start_that_another_row_proves() {
    let (host, guest, present, earlier) = guest_with_two_keys();
    let mut damaged = earlier.wrapped_dek.clone().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = KeyRef {
        wrapped_dek: Some(damaged),
        ..earlier
    };
    host.insert_key_ref(&guest, &damaged);

    host.start_running(&guest);
    let rows = host.key_refs(&guest);
    let live = rows.iter().filter(|row| row.retired_at.is_none());
    assert_eq!(live.map(|row| row.id).collect::<Vec<_>>(), [present.id]);
    assert_eq!(rows.len(), 2);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn without_a_state_nobody_can_tell_and_the_administrator_chooses() {
    let (host, guest, _, earlier) = guest_with_two_keys();
    host.insert_key_ref(&guest, &earlier);
    host.remove_tpm_state(&guest);
    host.update_key_refs(&guest, "first_used_at = NULL");
    let rows = host.key_refs(&guest);

    let refused = host.start(&guest).refused_with("VG203");
    for row in &rows {
        let id = row.id.to_string();
        assert!(refused.stderr.contains(&id), "row {id}: {refused:#?}");
    }
    assert_eq!(host.key_refs(&guest), rows);
    assert!(!host.has_tpm_state(&guest));

    host.guard(&["key", "use", &rows[1].id.to_string()]).ok();
    host.start_running(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_that_does_not_open_the_tpm_stops_the_start_and_spares_the_state() {
    let (host, guest, _, earlier) = guest_with_two_keys();
    host.delete_key_refs(&guest);
    host.insert_key_ref(&guest, &earlier);
    let (rows, state) = (host.key_refs(&guest), host.tpm_state(&guest));

    host.start(&guest).refused_with("VG204");
    assert_eq!(host.key_refs(&guest), rows);
    assert_eq!(host.tpm_state(&guest), state);
}
