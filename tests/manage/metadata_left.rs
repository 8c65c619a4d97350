//! What stays in guests' metadata after their keys are unbound, retired or pruned, and after they are
//! undefined: nothing that this host wrote and that is true no more.

use std::fs;
use std::time::Duration;

use super::fixture::{Defined, Fixture};
use crate::clock::Timestamp;
use crate::manage::key_metadata;
use crate::manage::key_refs::{retire, unbind};
use crate::manage::prune::{Rule, prune};
use crate::manage::sync::{SyncAction, after_change};

/// A host that writes keys, with a guest whose XML has its own.
fn synced() -> (Fixture, Defined) {
    let fixture = Fixture::new();
    fixture.set_metadata("wrapped");
    let guest = fixture.guest_in_use("vm1");
    fixture.synced();
    fixture.assert_travels(&guest);
    (fixture, guest)
}

#[test]
fn a_guest_that_is_unbound_keeps_what_a_hand_wrote_and_that_is_told() {
    for wrapped in ["off", "wrapped"] {
        let (fixture, guest) = synced();
        fixture.set_metadata(wrapped);
        key_metadata::write(&fixture.host, "vm1").unwrap();
        let unbound = unbind(&fixture.host, "vm1").unwrap();
        assert!(unbound.left_in_xml);
        assert!(after_change(&fixture.host, Timestamp(0)).is_none());
        assert!(fixture.elements(&guest)[0].is_some());
    }
    // What was written by itself goes by itself.
    let (fixture, guest) = synced();
    fixture.libvirt.guests.start("vm1");
    fixture.synced();
    assert!(!unbind(&fixture.host, "vm1").unwrap().left_in_xml);
    assert!(after_change(&fixture.host, Timestamp(0)).is_none());
    fixture.assert_bare(&guest);
}

#[test]
fn a_retired_key_leaves_the_xml_and_the_others_stay() {
    let (fixture, guest) = synced();
    let since = Timestamp::now();
    let dek = crate::key::dek::Dek::generate().unwrap();
    let second = fixture.add_key(&guest, "a", &dek);
    assert!(after_change(&fixture.host, since).is_none());
    fixture.assert_travels(&guest);
    assert_eq!(fixture.elements(&guest)[0].as_ref().unwrap().keys.len(), 2);
    retire(&fixture.host, second).unwrap();
    assert!(after_change(&fixture.host, since).is_none());
    fixture.assert_travels(&guest);
    let first = fixture.opening_row(&guest).unwrap();
    retire(&fixture.host, first).unwrap();
    assert!(after_change(&fixture.host, since).is_none());
    fixture.assert_bare(&guest);
}

#[test]
fn an_undefined_guest_is_written_to_while_it_runs_and_forgotten_when_it_is_pruned() {
    let (fixture, guest) = synced();
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.undefine("vm1");
    fixture.synced();
    fixture.assert_travels(&guest);
    fixture.libvirt.guests.stop("vm1");
    fixture.leave_note(&guest);
    assert!(fixture.synced().guests.is_empty());
    assert!(fixture.notes().is_empty());
    let written = || fixture.store().written_keys().unwrap();
    assert!(written().contains_key(&guest.uuid), "it may come back");

    let states = fixture.libvirt.dirs().tpm_states();
    fs::remove_dir_all(states.join(guest.uuid.to_string())).unwrap();
    let all = Rule {
        older_than: Some(Duration::ZERO),
        standby: true,
    };
    let done = prune(&fixture.host, all, false).unwrap();
    assert_eq!(done.removed.key_refs, 1);
    assert!(written().is_empty());
    // There is nobody to tell of, either.
    fixture.set_metadata("off");
    let calls = fixture.libvirt.calls();
    assert!(fixture.synced().guests.is_empty());
    assert_eq!(fixture.libvirt.calls(), calls);
}

#[test]
fn a_guest_that_comes_back_without_its_element_gets_it_again() {
    let (fixture, guest) = synced();
    let (xml, has) = (fixture.host.defined_guest("vm1").unwrap().xml, "<metadata>");
    let (head, rest) = xml.split_once(has).unwrap();
    let (_, tail) = rest.split_once("</metadata>").unwrap();
    let bare = format!("{head}{tail}");
    fixture.libvirt.guests.undefine("vm1");
    fixture.libvirt.guests.define(&bare);
    let synced = fixture.synced();
    assert_eq!(synced.guests[0].action, SyncAction::Written);
    fixture.assert_travels(&guest);
}
