//! A provider's new KEK, its rows, and its previous KEK.

use super::super::testing::*;
use super::super::{KeyChange, RewrappedRow, Store, StoreError};
use crate::ids::KeyRefId;
use crate::verdict::facts::Provider;

#[test]
fn a_provider_gets_its_new_kek_once_and_its_rows_stay_until_they_are_rewrapped() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    let retired = make_key(&mut store, domain(2), &provider);
    store.retire(retired, NOW).unwrap();
    let rows = store.key_refs_under(provider.key_id).unwrap();
    assert_eq!(rows.len(), 2);
    let change = KeyChange {
        provider: &provider,
        key_id: key_id(9),
        key_version: 2,
        slots: &[],
        rewrapped: &[],
        now: NOW,
    };
    store.change_key(&change).unwrap();
    let after = store.provider("p").unwrap();
    assert_eq!((after.key_id, after.key_version), (key_id(9), 2));
    assert_eq!(store.key_refs_under(provider.key_id).unwrap(), rows);
    let again = store.change_key(&change);
    assert!(
        matches!(again, Err(StoreError::Changed)),
        "it has another KEK by now"
    );
}

/// Rotates a provider to the KEK of this number; each row counts as re-wrapped.
pub(super) fn rotate(store: &mut Store, provider: &Provider, key: u8) -> Provider {
    let rows = store.key_refs_under(provider.key_id).unwrap();
    let rewrap = |row: &super::super::KeyRefRecord| RewrappedRow {
        key_ref: row.key_ref.id,
        seen: row.key_ref.wrapped_dek.clone().unwrap(),
        key: new_key(key),
    };
    let rewrapped: Vec<_> = rows.iter().map(rewrap).collect();
    let change = KeyChange {
        provider,
        key_id: key_id(key),
        key_version: provider.key_version + 1,
        slots: &[],
        rewrapped: &[],
        now: NOW,
    };
    store.change_key(&change).unwrap();
    let after = store.provider(&provider.uuid.to_string()).unwrap();
    store.rewrap(&after, &rewrapped, NOW).unwrap();
    after
}

fn names(providers: &[Provider]) -> Vec<&str> {
    providers.iter().map(|it| it.name.as_str()).collect()
}

#[test]
fn the_previous_kek_stays_as_a_provider_with_its_export_time() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    store
        .mark_exported(provider.uuid, provider.key_id, NOW)
        .unwrap();
    let provider = store.provider("p").unwrap();
    let after = rotate(&mut store, &provider, 2);
    assert_eq!(after.exported_at, None);

    let previous = store.previous_keys(&after).unwrap();
    assert_eq!(names(&previous), ["p/01010101"]);
    let [previous] = previous.as_slice() else {
        panic!("one previous KEK, not {previous:?}")
    };
    assert_eq!((previous.key_id, previous.key_version), (key_id(1), 1));
    assert_eq!(previous.exported_at, Some(NOW));
    assert!(!previous.is_default);
    assert_eq!(previous.previous_key_of(), Some("p"));
    assert_eq!(after.previous_key_of(), None);
}

#[test]
fn a_kek_that_another_provider_has_too_stays_with_that_one() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_provider(&mut store, "twin", 1);
    let after = rotate(&mut store, &provider, 2);
    assert_eq!(store.previous_keys(&after).unwrap(), []);
    assert_eq!(names(&store.providers().unwrap()), ["p", "twin"]);
}

#[test]
fn previous_keks_follow_the_name_of_their_provider() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_provider(&mut store, "p/other", 5);
    let provider = rotate(&mut store, &provider, 2);
    let provider = rotate(&mut store, &provider, 3);
    store.rename_provider(provider.uuid, "q", NOW).unwrap();
    let provider = store.provider("q").unwrap();
    let previous = store.previous_keys(&provider).unwrap();
    assert_eq!(names(&previous), ["q/01010101", "q/02020202"]);
    assert!(store.provider("p/other").is_ok(), "that one was never its");
}

#[test]
fn a_previous_kek_is_deleted_only_if_no_row_needs_it() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let after = rotate(&mut store, &provider, 2);
    let previous = store.previous_keys(&after).unwrap().remove(0);

    // A row of before, brought back, and then retired, needs it still.
    let row = make_key(&mut store, domain(1), &previous);
    assert!(!store.delete_previous_key(&previous).unwrap());
    store.retire(row, NOW).unwrap();
    raw(
        dir.path(),
        "UPDATE key_ref SET provider_uuid = NULL, provider_name = 'x'",
    );
    assert!(!store.delete_previous_key(&previous).unwrap());
    raw(dir.path(), &format!("DELETE FROM key_ref WHERE id = {row}"));

    // So does a placeholder that names it.
    insert_placeholder(dir.path(), domain(1), &previous);
    assert!(!store.delete_previous_key(&previous).unwrap());
    raw(dir.path(), "DELETE FROM key_ref");
    assert!(store.delete_previous_key(&previous).unwrap());
    assert_eq!(store.previous_keys(&after).unwrap(), []);
}

#[test]
fn rows_that_a_rotation_missed_are_rewrapped_all_or_none() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let after = rotate(&mut store, &provider, 2);
    let previous = store.previous_keys(&after).unwrap().remove(0);
    let row = make_key(&mut store, domain(1), &previous);
    let missed = |key_ref| RewrappedRow {
        key_ref,
        seen: new_key(1).wrapped_dek,
        key: new_key(2),
    };
    let changed = store.rewrap(&after, &[missed(row), missed(KeyRefId(99))], NOW);
    assert!(matches!(changed, Err(StoreError::Changed)));
    assert_eq!(store.key_refs_under(key_id(1)).unwrap().len(), 1);
    store.rewrap(&after, &[missed(row)], NOW).unwrap();
    assert_eq!(store.key_refs_under(key_id(1)).unwrap(), []);
    let before = store.rewrap(&provider, &[], NOW);
    assert!(matches!(before, Err(StoreError::Changed)));
}
