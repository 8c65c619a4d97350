//! What the hook notes around a start.

use std::time::Duration;

use super::super::Store;
use super::super::testing::*;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::new_key::NewKey;
use crate::verdict::facts::Provider;
use crate::verdict::repair::{KeyOrigin, Repair};

fn is_retired(store: &mut Store, domain: DomainUuid) -> bool {
    let done = store.retire_fresh_key(domain, None, NOW);
    done.unwrap().is_some()
}

#[test]
fn a_successful_start_marks_the_keys_as_used_once() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    insert_placeholder(dir.path(), domain(1), &provider);
    let untouched = make_key(&mut store, domain(2), &provider);
    store.announce(domain(1), &announcement(NOW)).unwrap();

    store.mark_started(domain(1), NOW).unwrap();
    store
        .mark_started(domain(1), later(Duration::from_secs(60)))
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
        !is_retired(&mut store, domain(1)),
        "it is not fresh any more"
    );
    assert!(is_retired(&mut store, domain(2)), "this one is");
}

#[test]
fn a_key_made_for_a_failed_start_is_retired_and_replaced_by_a_placeholder() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    let before = store.key_ref(key_ref).unwrap().key_ref;

    let retired_key = store
        .retire_fresh_key(domain(1), None, NOW)
        .unwrap()
        .unwrap();
    assert_eq!(retired_key.retired, [key_ref]);
    assert!(!is_retired(&mut store, domain(1)), "once");

    let retired = store.key_ref(key_ref).unwrap();
    assert_eq!(retired.key_ref, before, "with its key");
    assert_eq!(retired.retired_at, Some(NOW));
    let rows = store.references(domain(1), NOW).unwrap().key_refs;
    let [placeholder] = rows.as_slice() else {
        panic!("{rows:#?}");
    };
    assert_eq!(Some(placeholder.id), retired_key.placeholder);
    assert_eq!(
        (&placeholder.wrapped_dek, placeholder.provider_uuid),
        (&None, Some(provider.uuid)),
        "still bound"
    );
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn only_a_recent_key_is_retired_if_libvirt_does_not_report_the_failure() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    let minute = Duration::from_secs(60);
    let late = later(minute + Duration::from_millis(1));
    let take_back = |store: &mut Store, at| {
        let done = store.retire_fresh_key(domain(1), Some(minute), at);
        done.unwrap().is_some()
    };
    assert!(!take_back(&mut store, late));
    assert!(take_back(&mut store, later(minute)));
}

/// A thousand failed starts leave one retired key.
#[test]
fn a_spare_key_is_used_again_and_its_row_is_deleted_if_another_row_holds_the_key() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let other = make_provider(&mut store, "other", 2);
    make_key(&mut store, domain(1), &provider);
    let spare =
        |store: &Store, provider: &Provider| store.spare_keys(domain(1), provider.key_id).unwrap();
    assert_eq!(spare(&store, &provider), [], "in use");
    for _ in 0..3 {
        assert!(is_retired(&mut store, domain(1)));
        let [wrapped] = spare(&store, &provider).try_into().unwrap();
        assert_eq!(spare(&store, &other), []);
        assert_eq!(store.spare_keys(domain(2), provider.key_id).unwrap(), []);
        let [placeholder] = store
            .references(domain(1), NOW)
            .unwrap()
            .key_refs
            .try_into()
            .unwrap();
        let again = NewKey {
            wrapped_dek: wrapped,
            ..new_key(1)
        };
        let create = Repair::CreateKey {
            key_ref: Some(placeholder.id),
            provider: provider.uuid,
            origin: KeyOrigin::Random,
        };
        apply(&mut store, domain(1), &[create], Some(&again)).unwrap();
        assert_eq!(store.all_key_refs(None, true).unwrap().len(), 1);
    }

    // One that somebody has done anything with is nobody's to use again.
    assert!(is_retired(&mut store, domain(1)));
    raw(
        dir.path(),
        "UPDATE key_ref SET updated_at = 7 WHERE wrapped_dek IS NOT NULL",
    );
    assert_eq!(spare(&store, &provider), []);
}

#[test]
fn a_fresh_key_whose_state_was_seen_is_never_retired() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    make_key(&mut store, domain(2), &provider);
    for _ in 0..2 {
        store.clear_fresh_key(domain(1)).unwrap();
    }
    assert!(!is_retired(&mut store, domain(1)));
    assert!(is_retired(&mut store, domain(2)));
}

#[test]
fn a_key_that_was_not_made_by_a_start_is_never_retired() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    store.mark_started(domain(1), NOW).unwrap();
    store.reset_first_used(domain(1), NOW).unwrap();
    assert!(!is_retired(&mut store, domain(1)));
    let rows = store.references(domain(1), NOW).unwrap().key_refs;
    assert!(rows[0].wrapped_dek.is_some());
}

#[test]
fn another_tools_key_with_the_id_of_a_fresh_one_is_never_retired() {
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
    assert!(!is_retired(&mut store, domain(2)));
    let rows = store.references(domain(2), NOW).unwrap().key_refs;
    assert!(rows[0].wrapped_dek.is_some());

    // The note of a row that is gone goes with the next one.
    raw(dir.path(), "PRAGMA foreign_keys = off; DELETE FROM key_ref");
    make_key(&mut store, domain(3), &provider);
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn a_key_that_may_encrypt_some_state_is_never_retired() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    make_key(&mut store, domain(2), &provider);
    store.clear_fresh_key(domain(1)).unwrap();
    assert!(!is_retired(&mut store, domain(1)));
    assert!(
        store
            .key_ref(key_ref)
            .unwrap()
            .key_ref
            .wrapped_dek
            .is_some()
    );
    assert!(is_retired(&mut store, domain(2)));
}
