//! The rows of the decision table that end in a start: what is made, filled in or left.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::Tpm;
use crate::host::Host;

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn the_first_start_makes_the_key() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, None);

    host.start_running(&guest);
    let row = host.only_key_ref(&guest);
    let (uuid, key_id) = host.provider("nkp-a");
    assert!(row.wrapped_dek.is_some_and(|wrapped| !wrapped.is_empty()));
    assert_eq!(row.provider_uuid, Some(uuid));
    assert_eq!(row.kek_ref, Some(format!("native:{key_id}")));
    assert!(row.first_used_at.is_some(), "`started` notes the use");
    assert_eq!(
        host.tpm_state(&guest)[5] & 1,
        1,
        "the state is not encrypted"
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn of_several_placeholders_one_gets_the_key_and_stays() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    host.insert_placeholder(&guest, "nkp-a");
    host.start_running(&guest);
    assert!(host.only_key_ref(&guest).wrapped_dek.is_some());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_healthy_guest_starts_again_and_its_row_stays_as_it_is() {
    let (host, guest) = Host::with_used_guest();
    let (rows, state) = (host.key_refs(&guest), host.tpm_state(&guest));
    host.start_running(&guest);
    assert_eq!(host.key_refs(&guest), rows);
    assert_eq!(host.tpm_state(&guest), state);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_nobody_bound_is_bound_where_the_policy_says_so() {
    let host = Host::new();
    host.create_provider("nkp-a");
    host.configure("[policy]\nauto_bind = \"nkp-a\"\n");
    let guest = host.define_guest("vm1", Tpm::Encrypted(SecretUuid::random()));
    host.start_running(&guest);
    let row = host.only_key_ref(&guest);
    assert_eq!(row.provider_name, "nkp-a");
    assert_eq!(row.secret_uuid, Some(guest.secret.to_string()));
    assert!(row.wrapped_dek.is_some());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn what_a_row_lacks_is_filled_in_and_the_xml_is_right_about_the_secret() {
    let (host, guest) = Host::with_used_guest();
    let whole = host.only_key_ref(&guest);
    let other = SecretUuid::random();
    host.update_key_refs(
        &guest,
        &format!("key_version = NULL, kek_ref = '', secret_uuid = '{other}'"),
    );
    host.start_running(&guest);
    assert_eq!(host.only_key_ref(&guest), whole);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_made_for_a_start_that_failed_is_taken_back() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    let later_hook = "/etc/libvirt/hooks/qemu.d/60-refuses";
    host.write_program(later_hook, "#!/bin/sh\n[ \"$2\" != prepare ]\n");

    assert_eq!(host.start(&guest).status, 1);
    assert!(!host.has_tpm_state(&guest));
    let rows = host.key_refs(&guest);
    let [made, placeholder] = rows.as_slice() else {
        panic!("{rows:#?}")
    };
    assert!(made.wrapped_dek.is_some() && made.retired_at.is_some());
    assert!(placeholder.wrapped_dek.is_none() && placeholder.retired_at.is_none());
    assert!(!host.has_secret(guest.secret));

    // The next start uses that key: no start that fails leaves another one.
    std::fs::remove_file(host.path(later_hook)).unwrap();
    host.start_running(&guest);
    assert_eq!(host.only_key_ref(&guest).wrapped_dek, made.wrapped_dek);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn twelve_guests_start_at_once() {
    let host = Host::new();
    host.configure_daemons("max_workers = 3\nmin_workers = 3\n");
    host.create_provider("nkp-a");
    let names = (1..=12).map(|number| format!("vm{number}"));
    let guests: Vec<_> = names
        .map(|name| host.define_bound_guest(&name, "nkp-a"))
        .collect();
    std::thread::scope(|scope| {
        for guest in &guests {
            scope.spawn(|| host.start(guest).ok());
        }
    });
    for guest in &guests {
        assert_eq!(host.state(guest), "running");
        assert!(host.only_key_ref(guest).wrapped_dek.is_some());
    }
}
