//! The keys that `sync` has written.

use super::super::testing::*;
use super::super::*;
use crate::clock::Timestamp;
use crate::key::wrap::WrappedDek;

fn blob(byte: u8) -> WrappedDek {
    WrappedDek::from_stored(vec![byte; 40])
}

fn keys(of: &[(u8, &[u8])]) -> WrittenKeys {
    let keys = of.iter().map(|(guest, bytes)| {
        let blobs = bytes.iter().map(|byte| blob(*byte));
        (domain(*guest), blobs.collect())
    });
    keys.collect()
}

#[test]
fn they_are_added_once_and_forgotten_but_for_those_that_are_kept() {
    let (_dir, mut store) = new_store();
    let two = keys(&[(1, &[1, 2]), (2, &[3])]);
    for _ in 0..2 {
        store.add_written_keys(&two, NOW).unwrap();
        assert_eq!(store.written_keys().unwrap(), two);
    }
    let kept = keys(&[(1, &[2, 9]), (3, &[])]);
    store.keep_written_keys(&kept).unwrap();
    let left = keys(&[(1, &[2]), (2, &[3])]);
    assert_eq!(store.written_keys().unwrap(), left);
}

#[test]
fn what_another_tool_writes_there_counts_as_missing() {
    let (dir, store) = new_store();
    raw(
        dir.path(),
        "INSERT INTO written_key VALUES ('no UUID', X'01', 0), \
         ('d0000000-0000-4000-8000-000000000001', X'', 0)",
    );
    assert!(store.written_keys().unwrap().is_empty());
}

#[test]
fn the_guests_of_changed_rows_are_known() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "a", 1);
    make_key(&mut store, domain(1), &provider);
    let second = make_key(&mut store, domain(2), &provider);
    let later = Timestamp(NOW.0 + 5);
    store.retire(second, later).unwrap();
    let changed = |since| store.domains_changed_since(since).unwrap();
    assert_eq!(changed(NOW).len(), 2);
    assert_eq!(changed(later).into_iter().collect::<Vec<_>>(), [domain(2)]);
    assert!(changed(Timestamp(later.0 + 1)).is_empty());
}
