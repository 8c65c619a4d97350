//! `key unbind`, `key retire`, `key use`, `key list`, `key show`.

use super::fixture::Fixture;
use super::kill;
use crate::clock::Timestamp;
use crate::ids::KeyRefId;
use crate::key::dek::Dek;
use crate::manage::host::HostError;
use crate::manage::key_refs::{KeyRefError, retire, unbind, use_key};
use crate::manage::keys::{RowState, list, show};
use crate::store::{Event, Origin, StoreError};

#[test]
fn unbind_deletes_placeholders_and_retires_keys() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.sql(&format!(
        "INSERT INTO key_ref (resource_uuid, provider_name) VALUES ('{}', 'a')",
        guest.uuid
    ));
    let unbound = unbind(&fixture.host, "vm1").unwrap();
    assert_eq!((unbound.placeholders, unbound.retired), (1, 1));
    assert!(unbound.changed);
    let rows = fixture.rows(&guest);
    assert_eq!(rows.len(), 1, "the key is kept");
    // As with the other commands of key references, what is so already is no error.
    let again = unbind(&fixture.host, "vm1").unwrap();
    assert_eq!(
        (again.placeholders, again.retired, again.changed),
        (0, 0, false)
    );
    assert_eq!(fixture.rows(&guest), rows);
    fixture.define("vm2");
    let none = unbind(&fixture.host, "vm2").unwrap_err();
    assert!(matches!(none, KeyRefError::None(_)), "{none:?}");
    assert!(matches!(
        unbind(&fixture.host, "nobody"),
        Err(KeyRefError::Guest(_))
    ));
}

#[test]
fn a_key_is_retired_and_used_again() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let id = fixture.opening_row(&guest).unwrap();
    let retired = retire(&fixture.host, id).unwrap();
    assert!(retired.changed && retired.was_last);
    assert!(!fixture.would_start(&guest));
    let again = retire(&fixture.host, id).unwrap();
    assert!(!again.changed && !again.was_last);

    let used = use_key(&fixture.host, id).unwrap();
    assert!(used.changed && used.retired.is_empty());
    assert!(fixture.would_start(&guest));
    assert!(!use_key(&fixture.host, id).unwrap().changed);
    let other = fixture.add_key(&guest, "b", &Dek::generate().unwrap());
    assert_eq!(use_key(&fixture.host, id).unwrap().retired, [other]);
}

#[test]
fn a_key_reference_that_does_not_exist_is_an_error() {
    let fixture = Fixture::new();
    let missing = KeyRefId(77);
    let is_missing = |error: &HostError| matches!(error, HostError::Store(StoreError::NoKeyRef(id)) if *id == missing);
    assert!(is_missing(&retire(&fixture.host, missing).unwrap_err()));
    assert!(is_missing(&use_key(&fixture.host, missing).unwrap_err()));
}

#[test]
fn rows_are_listed_and_tried() {
    let fixture = Fixture::new();
    assert!(list(&fixture.host, None).unwrap().is_empty());
    assert!(matches!(
        show(&fixture.host, "nobody"),
        Err(KeyRefError::Guest(_))
    ));
    let guest = fixture.guest_in_use("vm1");
    let proven = fixture.opening_row(&guest).unwrap();
    let refuted = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    let lost = fixture.add_key(&guest, "b", &Dek::generate().unwrap());
    retire(&fixture.host, refuted).unwrap();
    fixture.lose_key("b");

    let rows = list(&fixture.host, Some("vm1")).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.id, row.state)).collect();
    let expected = [
        (proven, RowState::Keyed),
        (refuted, RowState::Retired),
        (lost, RowState::Keyed),
    ];
    assert_eq!(rows, expected);

    let shown = show(&fixture.host, "vm1").unwrap();
    assert_eq!(shown.tpm_state.state, "encrypted");
    assert_eq!(shown.xml_path, None);
    let tried: Vec<_> = shown
        .key_refs
        .iter()
        .map(|tried| (tried.row.id, tried.opens, tried.tpm))
        .collect();
    let expected = [
        (proven, Some(true), Some("proven")),
        (refuted, Some(true), Some("refuted")),
        (lost, Some(false), None),
    ];
    assert_eq!(tried, expected);
    assert!(shown.key_refs[2].reason.is_some());
    let key_id = fixture.provider("b").key_id.short();
    fixture.sql("DELETE FROM key_provider WHERE name = 'b'");
    let shown = show(&fixture.host, "vm1").unwrap();
    let reason = format!("no provider of this host has key {key_id}");
    assert_eq!(shown.key_refs[2].reason, Some(reason));
}

#[test]
fn a_listed_key_is_that_of_its_guests_last_name_or_of_what_libvirt_calls_it() {
    let fixture = Fixture::new();
    let gone = ["vm1", "vm2", "vm3"].map(|name| fixture.guest_in_use(name));
    let (now, [_, renamed, unknown]) = (Timestamp::now(), gone);
    let event = Event::new(now, Origin::Renew, renamed.uuid, "old", "done");
    fixture.store().record_event(&event).unwrap();
    fixture.libvirt.guests.undefine("vm3");
    let rows = list(&fixture.host, None).unwrap().into_iter();
    let names: Vec<_> = rows.map(|row| (row.guest.name, row.guest.uuid)).collect();
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(names[0].0, name("vm1"));
    assert_eq!(
        names[1..],
        [(name("old"), renamed.uuid), (None, unknown.uuid)]
    );
}

#[test]
fn a_kill_leaves_the_key_in_use_or_retired() {
    let row = |fixture: &Fixture| fixture.rows(&fixture.defined("vm1")).remove(0);
    kill::everywhere(
        |fixture| drop(fixture.guest_in_use("vm1")),
        |fixture| drop(retire(&fixture.host, row(fixture).key_ref.id).unwrap()),
        |fixture| assert!(row(fixture).key_ref.wrapped_dek.is_some()),
        |fixture| assert!(row(fixture).retired_at.is_some()),
    );
}
