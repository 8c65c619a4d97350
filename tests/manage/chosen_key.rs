//! A key that somebody has chosen goes before newer ones, here and on every other host.

use super::fixture::{Defined, Fixture};
use super::kill;
use super::travelling::{Hosts, code, kinds};
use crate::domain::{TravellingKey, TravellingKeys};
use crate::ids::KeyRefId;
use crate::key::dek::Dek;
use crate::key::wrap::Generation;
use crate::keyring::unlock::Unlocker;
use crate::manage::encrypt::encrypt;
use crate::manage::host::default_deadline;
use crate::manage::import_key::import;
use crate::manage::key_refs::{retire, use_key};
use crate::manage::renew::renew;
use crate::manage::store_backup::backup;
use crate::manage::travelling::TravelFinding;
use crate::store::KeyRefRecord;
use crate::verdict::code::Code;

/// The generation of each row, in use or retired.
fn generations(fixture: &Fixture, guest: &Defined) -> Vec<(KeyRefId, u32, bool)> {
    let describe = |row: KeyRefRecord| {
        let generation = row.key_ref.generation().0;
        (row.key_ref.id, generation, row.retired_at.is_none())
    };
    fixture.rows(guest).into_iter().map(describe).collect()
}

/// The guest's XML has this key, wrapped on this host.
fn put_into_xml(fixture: &Fixture, guest: &Defined, dek: &Dek, generation: u32) {
    let provider = fixture.provider("a");
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let generation = Generation(generation);
    let key = unlocker.wrap(dek, &provider, guest.uuid, generation, default_deadline());
    fixture.redefine_with_keys(
        guest,
        &TravellingKeys {
            domain: Some(guest.uuid),
            keys: vec![TravellingKey {
                wrapped_dek: key.unwrap().wrapped_dek,
                provider: provider.name,
            }],
            fault: None,
        },
    );
}

#[test]
fn an_older_key_gets_a_generation_above_all_others_and_its_row_stays() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let old_state = std::fs::read(fixture.state_file(&guest)).unwrap();
    let first = fixture.opening_row(&guest).unwrap();
    let second = renew(&fixture.host, "vm1").unwrap().key_ref;
    fixture.write_state(&guest, &old_state);
    let used = use_key(&fixture.host, first).unwrap();
    assert_eq!((used.id, used.generation), (first, Generation(3)));
    assert_eq!(used.retired, [second]);
    assert!(used.changed && !used.may_be_passed_over);
    let rows = generations(&fixture, &guest);
    let third = used.key_ref;
    assert_eq!(
        rows,
        [(first, 1, false), (second, 2, false), (third, 3, true)]
    );
    fixture.assert_starts_with_one_key(&guest);
    // Whichever of its two rows is named, once more changes nothing.
    for id in [first, third] {
        let again = use_key(&fixture.host, id).unwrap();
        assert_eq!((again.key_ref, again.changed), (third, false));
    }
    assert_eq!(generations(&fixture, &guest), rows);
    // The newest one keeps its generation.
    retire(&fixture.host, third).unwrap();
    let again = use_key(&fixture.host, third).unwrap();
    assert_eq!((again.key_ref, again.generation), (third, Generation(3)));
}

#[test]
fn the_keys_of_the_guests_xml_count_as_far_as_they_are_authentic() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let first = fixture.opening_row(&guest).unwrap();
    put_into_xml(&fixture, &guest, &Dek::generate().unwrap(), 7);
    assert_eq!(use_key(&fixture.host, first).unwrap().generation.0, 8);

    let renewed = Fixture::new();
    let guest = renewed.guest_in_use("vm1");
    put_into_xml(&renewed, &guest, &Dek::generate().unwrap(), 7);
    let new = renew(&renewed.host, "vm1").unwrap().key_ref;
    assert_eq!(generations(&renewed, &guest)[1], (new, 8, true));

    // Anybody who may change metadata can write this.
    let forged = Fixture::new();
    let guest = forged.guest_in_use("vm1");
    let mut bytes = forged.rows(&guest)[0].key_ref.wrapped_dek.clone().unwrap();
    let mut raised = bytes.as_bytes().to_vec();
    raised[22..26].fill(0xFF);
    bytes = crate::key::wrap::WrappedDek::from_stored(raised);
    let key = TravellingKey {
        wrapped_dek: bytes,
        provider: "a".to_owned(),
    };
    let element = TravellingKeys {
        domain: Some(guest.uuid),
        keys: vec![key],
        fault: None,
    };
    forged.redefine_with_keys(&guest, &element);
    let new = renew(&forged.host, "vm1").unwrap().key_ref;
    assert_eq!(generations(&forged, &guest)[1], (new, 2, true));
}

#[test]
fn a_key_that_does_not_open_here_is_used_as_it_is_and_that_is_told() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let older = fixture.add_key_of(&guest, "b", &Dek::generate().unwrap(), Generation(0));
    fixture.lose_key("b");
    let used = use_key(&fixture.host, older).unwrap();
    assert_eq!((used.key_ref, used.generation), (older, Generation(0)));
    assert!(used.may_be_passed_over);
}

#[test]
fn the_newest_key_is_passed_over_nowhere_though_it_does_not_open_here() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let only = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    retire(&fixture.host, only).unwrap();
    fixture.lose_key("a");
    let used = use_key(&fixture.host, only).unwrap();
    assert!(used.changed && !used.may_be_passed_over);
}

#[test]
fn of_two_rows_with_one_key_that_one_is_used_that_was_named() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let dek = Dek::generate().unwrap();
    for named in ["a", "b"].map(|provider| fixture.add_key(&guest, provider, &dek)) {
        let used = use_key(&fixture.host, named).unwrap();
        assert_eq!((used.key_ref, used.generation), (named, Generation(1)));
    }
}

/// Other hosts may have either of them, and could not tell which one was chosen.
#[test]
fn a_key_that_is_no_newer_than_another_one_of_the_guest_gets_a_generation_above_it() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let keys = ["a", "b"].map(|provider| {
        let dek = Dek::generate().unwrap();
        fixture.add_key(&guest, provider, &dek)
    });
    let used = use_key(&fixture.host, keys[0]).unwrap();
    assert_eq!(used.generation, Generation(2));
    assert_ne!(used.key_ref, keys[0]);
}

#[test]
fn a_kill_leaves_the_old_key_or_the_chosen_one() {
    let in_use = |fixture: &Fixture| {
        let rows = generations(fixture, &fixture.defined("vm1")).into_iter();
        let rows = rows.filter(|(_, _, in_use)| *in_use);
        rows.map(|(_, generation, _)| generation)
            .collect::<Vec<_>>()
    };
    kill::everywhere(
        |fixture| {
            fixture.guest_in_use("vm1");
            renew(&fixture.host, "vm1").unwrap();
        },
        |fixture| {
            let first = fixture.rows(&fixture.defined("vm1")).remove(0).key_ref.id;
            use_key(&fixture.host, first).unwrap();
        },
        |fixture| assert!([vec![2], vec![3]].contains(&in_use(fixture))),
        |fixture| assert_eq!(in_use(fixture), [3]),
    );
}

/// The guest's key was renewed on the first host, and the second has both; then the old one was
/// chosen again on the first.
fn chosen_again() -> Hosts {
    let hosts = Hosts::new();
    hosts.bring_state();
    hosts.start(hosts.xml());
    let first = hosts.first.opening_row(&hosts.guest).unwrap();
    let old_state = std::fs::read(hosts.first.state_file(&hosts.guest)).unwrap();
    renew(&hosts.first.host, "vm1").unwrap();
    let new_state = std::fs::read(hosts.first.state_file(&hosts.guest)).unwrap();
    hosts.second.write_state(&hosts.guest, &new_state);
    let outcome = hosts.start(hosts.xml());
    assert_eq!(kinds(&outcome), ["learn-key", "retire-key"]);
    hosts.first.write_state(&hosts.guest, &old_state);
    use_key(&hosts.first.host, first).unwrap();
    hosts
}

#[test]
fn a_key_that_was_chosen_again_goes_before_the_newer_row_of_the_other_host() {
    let hosts = chosen_again();
    let row_of = |hosts: &Hosts, generation: u32| {
        let rows = generations(&hosts.second, &hosts.guest).into_iter();
        rows.filter(|(_, of, _)| *of == generation)
            .map(|(id, _, in_use)| (id, in_use))
            .collect::<Vec<_>>()
    };
    let outcome = hosts.arrive(hosts.xml());
    assert_eq!((code(&outcome), kinds(&outcome)), (None, vec!["learn-key"]));
    let value = hosts.second.libvirt.secrets.value(hosts.guest.secret);
    assert_eq!(value.as_deref(), Some(hosts.dek.expose()));
    assert_eq!(row_of(&hosts, 3).len(), 1);
    assert!(row_of(&hosts, 2)[0].1, "until a state has decided");
    // The state that arrived has.
    hosts.bring_state();
    let outcome = hosts.start(hosts.xml());
    assert_eq!(kinds(&outcome), ["retire-key"]);
    assert!(row_of(&hosts, 3)[0].1 && !row_of(&hosts, 2)[0].1);

    // What the second host then retires by hand stays so.
    let (chosen, _) = row_of(&hosts, 3)[0];
    retire(&hosts.second.host, chosen).unwrap();
    assert!(hosts.second.libvirt.secrets.undefine(hosts.guest.secret));
    assert_eq!(code(&hosts.arrive(hosts.xml())), Some(Code::KeyLost));
}

#[test]
fn a_generation_that_rose_elsewhere_is_learnt_and_not_written_over() {
    let hosts = chosen_again();
    hosts
        .second
        .sql("DELETE FROM key_ref WHERE id > 1; UPDATE key_ref SET retired_at = NULL");
    hosts.bring_state();
    let element = hosts.xml().travelling.unwrap();
    hosts.second.redefine_with_keys(&hosts.guest, &element);
    let generations = |hosts: &Hosts| {
        let rows = generations(&hosts.second, &hosts.guest).into_iter();
        rows.map(|(_, generation, _)| generation)
            .collect::<Vec<_>>()
    };
    assert_eq!(generations(&hosts), [1]);
    hosts.second.set_metadata("wrapped");
    let synced = hosts.second.synced();
    assert!(matches!(
        synced.guests[0].findings[..],
        [TravelFinding::NewerKey { .. }]
    ));
    let outcome = hosts.start(hosts.xml());
    assert_eq!(kinds(&outcome), ["learn-key", "delete-duplicate"]);
    assert_eq!(generations(&hosts), [3]);
    assert_eq!(hosts.second.synced().guests[0].findings, []);
    let again = hosts.start(hosts.xml());
    assert!(kinds(&again).is_empty());
}

#[test]
fn an_imported_key_goes_before_those_that_the_guest_has_had_here() {
    let there = Fixture::new();
    let guest = there.guest_in_use("vm1");
    let file = there.root().join("store.backup");
    backup(&there.host, &file).unwrap();
    let here = Fixture::new();
    here.adopt_provider_of(&there, "a");
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    here.define_with("vm1", guest.uuid, guest.secret, &encryption);
    let newer = here.add_key_of(&guest, "a", &Dek::generate().unwrap(), Generation(4));
    retire(&here.host, newer).unwrap();
    let imported = import(&here.host, "vm1", &file, None).unwrap();
    assert!(imported.changed);
    let rows = generations(&here, &guest);
    assert_eq!(rows, [(newer, 4, false), (imported.key_ref, 5, true)]);
    let again = import(&here.host, "vm1", &file, None).unwrap();
    assert_eq!(
        (again.key_ref, again.changed),
        (imported.key_ref, false),
        "the same key, wrapped once more"
    );
}

#[test]
fn a_state_is_encrypted_with_a_key_that_goes_before_the_others() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    fixture.add_key_of(&guest, "a", &Dek::generate().unwrap(), Generation(1));
    fixture.add_key_of(&guest, "b", &Dek::generate().unwrap(), Generation(2));
    fixture.plain_state(&guest);
    let done = encrypt(&fixture.host, "vm1", Some("a")).unwrap();
    let rows = generations(&fixture, &guest);
    assert_eq!(rows.last(), Some(&(done.key_ref, 3, true)));
    fixture.assert_starts_with_one_key(&guest);
}

#[test]
fn a_key_of_the_guests_xml_counts_if_it_is_newer_or_as_new_and_another_one() {
    let choose = |generation: u32, is_the_same: bool| {
        let fixture = Fixture::new();
        let guest = fixture.define("vm1");
        let dek = Dek::generate().unwrap();
        let row = fixture.add_key_of(&guest, "a", &dek, Generation(5));
        fixture.encrypt_state(&guest, &dek);
        let other = Dek::generate().unwrap();
        let in_xml = if is_the_same { &dek } else { &other };
        put_into_xml(&fixture, &guest, in_xml, generation);
        use_key(&fixture.host, row).unwrap().generation.0
    };
    for is_the_same in [true, false] {
        assert_eq!(choose(4, is_the_same), 5);
        assert_eq!(choose(6, is_the_same), 7);
    }
    assert_eq!(choose(5, true), 5);
    assert_eq!(choose(5, false), 6);
}
