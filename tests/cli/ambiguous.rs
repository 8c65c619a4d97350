//! A guest whose name is another guest's UUID: nothing is done to either until it is clear which
//! is meant. Here libvirt cannot be asked; where it can, `tests/e2e/names.rs` tries it.

use crate::env::{Host, VM1, VM2};

/// VM2 is named after VM1's UUID.
fn two_guests() -> Host {
    let host = Host::with_provider("nkp-a");
    for guest in [VM1, VM2] {
        host.start_for_the_first_time(guest, "nkp-a");
    }
    host.name_guest(VM1, "vm1");
    host.name_guest(VM2, VM1);
    host
}

#[test]
fn every_verb_refuses_a_text_that_names_two_guests() {
    let host = two_guests();
    host.run(&["store", "backup", "copy"]).succeeds();
    let stored = host.stored();
    for verb in [
        &["key", "show"][..],
        &["key", "list"],
        &["key", "bind", "--provider", "nkp-a"],
        &["key", "unbind"],
        &["key", "import", "--from", "copy"],
        &["reset"],
        &["state", "show"],
        &["state", "restore"],
        &["history"],
    ] {
        let ran = host.run(&[verb, &[VM1]].concat()).ends_with(2);
        assert_eq!(ran.stdout, "", "{verb:?}");
        ran.saying(&format!(
            "\"{VM1}\" is ambiguous: it is the UUID of one guest (vm1) and the name of another (UUID {VM2})"
        ))
        .saying(&format!("for the first: vm1; for the other: {VM2}"));
    }
    assert_eq!(host.stored(), stored);
}

#[test]
fn either_of_them_can_be_named() {
    let host = two_guests();
    for (text, guest) in [("vm1", VM1), (VM2, VM2), (&VM1.replace('-', ""), VM1)] {
        let shown = host.json(&["key", "show", text]);
        assert_eq!(shown["domain"]["uuid"], guest);
    }
}

#[test]
fn a_name_like_a_uuid_that_nobody_has_finds_what_the_guest_of_that_name_did() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM2, "nkp-a");
    host.name_guest(VM2, VM1);
    let decisions = host.json(&["history", VM1]);
    let decisions = decisions.as_array().unwrap();
    assert!(!decisions.is_empty());
    assert!(decisions.iter().all(|one| one["domain"]["uuid"] == VM2));
    // libvirt, which is silent here, may have a guest of that UUID: its keys are not shown for the other's.
    host.run(&["key", "list", VM1])
        .ends_with(2)
        .saying("is ambiguous")
        .saying(&format!("for the other: {VM2}"));
    host.run(&["history", "11111111-2222-4333-8444-0000000000ff"])
        .succeeds();
}

#[test]
fn a_guest_without_a_usable_name_is_named_by_another_spelling_of_its_uuid() {
    let host = two_guests();
    host.name_guest(VM1, "-f");
    host.run(&["reset", VM1])
        .ends_with(2)
        .saying(&format!("for the first: {};", VM1.replace('-', "")));
}

#[test]
fn of_two_providers_neither_is_taken_for_the_other() {
    let host = Host::with_provider("nkp-a");
    host.run(&["provider", "create", "nkp-b"]).succeeds();
    let uuid = host.json(&["provider", "show", "nkp-a"])["uuid"].clone();
    let uuid = uuid.as_str().unwrap();
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    let rename = "UPDATE key_provider SET name = ?1 WHERE name = 'nkp-b'";
    store.execute(rename, [uuid]).unwrap();
    drop(store);
    let stored = host.stored();
    for verb in [
        &["provider", "delete", "--force"][..],
        &["provider", "rotate"],
        &["provider", "set-default"],
        &["key", "bind", VM1, "--provider"],
    ] {
        host.run(&[verb, &[uuid]].concat())
            .ends_with(2)
            .saying("is ambiguous");
    }
    assert_eq!(host.stored(), stored);
    host.run(&["provider", "delete", "nkp-a", "--force"])
        .succeeds();
    let left = host.json(&["provider", "list"]);
    assert_eq!(left[0]["name"], uuid);
}
