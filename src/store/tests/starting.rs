//! What the hook notes around a start.

use std::time::Duration;

use super::super::INCOMING_LIFETIME;
use super::super::testing::*;
use crate::clock::Timestamp;
use crate::ids::KeyRefId;

#[test]
fn a_note_of_arriving_state_holds_for_its_domain_and_its_time() {
    let (_dir, mut store) = new_store();
    store.note_incoming(domain(1), "migrate", NOW).unwrap();
    let arrives = |uuid, at| store.references(uuid, at).unwrap().state_arrives;
    assert!(arrives(domain(1), NOW));
    assert!(arrives(domain(1), later(INCOMING_LIFETIME)));
    assert!(!arrives(
        domain(1),
        later(INCOMING_LIFETIME + Duration::from_millis(1))
    ));
    assert!(!arrives(domain(1), Timestamp(0)), "the clock was set");
    assert!(!arrives(domain(2), NOW));
}

#[test]
fn a_later_note_replaces_the_earlier_and_old_ones_are_forgotten() {
    let (_dir, mut store) = new_store();
    store.note_incoming(domain(1), "migrate", NOW).unwrap();
    store.note_incoming(domain(2), "restore", NOW).unwrap();
    let tomorrow = later(Duration::from_hours(24));
    store.note_incoming(domain(1), "restore", tomorrow).unwrap();
    assert_eq!(number(&store, "SELECT count(*) FROM arriving"), 1);
    assert!(store.references(domain(1), tomorrow).unwrap().state_arrives);
}

#[test]
fn the_repairs_of_a_start_consume_the_note_if_told_so() {
    let (_dir, mut store) = new_store();
    store.note_incoming(domain(1), "migrate", NOW).unwrap();
    for (consume_incoming, arrives_after) in [(false, true), (true, false)] {
        let seen = store.references(domain(1), NOW).unwrap();
        let change = super::super::Change {
            consume_incoming,
            clients_key: None,
            ..change(domain(1), &seen, &[])
        };
        store.apply(&change).unwrap();
        let after = store.references(domain(1), NOW).unwrap();
        assert_eq!(after.state_arrives, arrives_after);
    }
}

#[test]
fn a_boot_that_worked_marks_the_keys_in_use_once() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    insert_placeholder(dir.path(), domain(1), &provider);
    let untouched = make_key(&mut store, domain(2), &provider);
    store.note_incoming(domain(1), "migrate", NOW).unwrap();

    store.mark_started(domain(1), NOW).unwrap();
    store
        .mark_started(domain(1), later(Duration::from_mins(1)))
        .unwrap();

    let rows = store.references(domain(1), NOW).unwrap();
    assert_eq!(rows.key_refs[0].id, key_ref);
    assert_eq!(rows.key_refs[0].first_used_at, Some(NOW));
    assert_eq!(
        rows.key_refs[1].first_used_at, None,
        "a placeholder is never used"
    );
    assert!(!rows.state_arrives);
    assert_eq!(
        store.key_ref(untouched).unwrap().key_ref.first_used_at,
        None
    );
    assert!(
        !store.take_back_fresh_key(domain(1), NOW).unwrap(),
        "it is not fresh any more"
    );
    assert!(
        store.take_back_fresh_key(domain(2), NOW).unwrap(),
        "this one is"
    );
}

#[test]
fn a_key_made_for_a_start_that_failed_is_taken_back_once() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);

    assert!(store.take_back_fresh_key(domain(1), NOW).unwrap());
    assert!(!store.take_back_fresh_key(domain(1), NOW).unwrap());

    let row = store.key_ref(key_ref).unwrap();
    assert_eq!(row.key_ref.wrapped_dek, None);
    assert_eq!(row.key_ref.kek_ref, None);
    assert_eq!(row.key_ref.key_version, None);
    assert_eq!(row.algorithm, None);
    assert_eq!(
        row.key_ref.provider_uuid,
        Some(provider.uuid),
        "still bound"
    );
}

#[test]
fn a_key_whose_state_was_seen_is_never_taken_back() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    make_key(&mut store, domain(2), &provider);
    for _ in 0..2 {
        store.keep_fresh_key(domain(1)).unwrap();
    }
    assert!(!store.take_back_fresh_key(domain(1), NOW).unwrap());
    assert!(store.take_back_fresh_key(domain(2), NOW).unwrap());
}

#[test]
fn a_key_that_was_not_made_by_a_start_is_never_taken_back() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    store.mark_started(domain(1), NOW).unwrap();
    store.reset_first_used(domain(1), NOW).unwrap();
    assert!(!store.take_back_fresh_key(domain(1), NOW).unwrap());
    let rows = store.references(domain(1), NOW).unwrap().key_refs;
    assert!(rows[0].wrapped_dek.is_some());
}

#[test]
fn a_key_of_another_tools_in_the_place_of_a_fresh_one_is_never_taken_back() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let KeyRefId(id) = make_key(&mut store, domain(1), &provider);
    raw(
        dir.path(),
        &format!(
            "PRAGMA foreign_keys = off;
             DELETE FROM key_ref;
             INSERT INTO key_ref (id, resource_uuid, provider_name, wrapped_dek)
             VALUES ({id}, '{}', 'p', x'0102')",
            domain(2)
        ),
    );
    assert!(
        !store
            .take_back_fresh_key(domain(2), later(Duration::from_mins(1)))
            .unwrap()
    );
    let rows = store.references(domain(2), NOW).unwrap().key_refs;
    assert!(rows[0].wrapped_dek.is_some());

    // The note of a row that is gone goes with the next one.
    raw(dir.path(), "PRAGMA foreign_keys = off; DELETE FROM key_ref");
    make_key(&mut store, domain(3), &provider);
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn a_key_that_some_state_may_be_encrypted_with_is_never_taken_back() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    make_key(&mut store, domain(2), &provider);
    store.keep_fresh_key(domain(1)).unwrap();
    assert!(!store.take_back_fresh_key(domain(1), NOW).unwrap());
    assert!(
        store
            .key_ref(key_ref)
            .unwrap()
            .key_ref
            .wrapped_dek
            .is_some()
    );
    assert!(store.take_back_fresh_key(domain(2), NOW).unwrap());
}
