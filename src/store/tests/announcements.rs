//! Announcements of TPM state that will arrive.

use std::time::Duration;

use super::super::announcements::LIFETIME;
use super::super::testing::*;
use crate::clock::Timestamp;

#[test]
fn an_announcement_is_valid_for_its_guest_and_its_time() {
    let (_dir, mut store) = new_store();
    store.announce(domain(1), &announcement(NOW)).unwrap();
    let announced = |uuid, at| store.references(uuid, at).unwrap().announced;
    let whole = Some(announcement(NOW));
    assert_eq!(announced(domain(1), NOW), whole);
    assert_eq!(announced(domain(1), later(LIFETIME)), whole);
    let too_late = later(LIFETIME + Duration::from_millis(1));
    assert_eq!(announced(domain(1), too_late), None);
    assert_eq!(
        announced(domain(1), Timestamp(0)),
        None,
        "the clock was set"
    );
    assert_eq!(announced(domain(2), NOW), None);
}

#[test]
fn a_later_announcement_replaces_the_earlier_one_and_old_ones_are_deleted() {
    let (_dir, mut store) = new_store();
    store.announce(domain(1), &announcement(NOW)).unwrap();
    store.announce(domain(2), &announcement(NOW)).unwrap();
    let tomorrow = later(Duration::from_secs(24 * 60 * 60));
    store.announce(domain(1), &announcement(tomorrow)).unwrap();
    assert_eq!(number(&store, "SELECT count(*) FROM arriving"), 1);
    let found = store.references(domain(1), tomorrow).unwrap();
    assert_eq!(found.announced, Some(announcement(tomorrow)));
}

// A dispatcher in hooks/qemu that runs qemu.d/* again has every prepare made twice.
#[test]
fn the_repairs_of_a_start_keep_its_announcement() {
    let (_dir, mut store) = new_store();
    store.announce(domain(1), &announcement(NOW)).unwrap();
    for _ in 0..2 {
        let seen = store.references(domain(1), NOW).unwrap();
        assert!(seen.state_arrives);
        store.apply(&change(domain(1), &seen, &[])).unwrap();
    }
}

#[test]
fn an_announcement_that_was_judged_to_be_for_another_start_changes_no_rows() {
    let (_dir, mut store) = new_store();
    store.announce(domain(1), &announcement(NOW)).unwrap();
    let mut seen = store.references(domain(1), NOW).unwrap();
    seen.state_arrives = false;
    store.apply(&change(domain(1), &seen, &[])).unwrap();
}

#[test]
fn clearing_an_announcement_takes_no_lock_if_there_is_none() {
    let (dir, mut store) = new_store();
    store.announce(domain(1), &announcement(NOW)).unwrap();
    store.announce(domain(2), &announcement(NOW)).unwrap();
    store.clear_announcement(domain(1)).unwrap();
    assert_eq!(store.references(domain(1), NOW).unwrap().announced, None);
    assert!(store.references(domain(2), NOW).unwrap().state_arrives);

    let other = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.clear_announcement(domain(1)).unwrap();
}

#[test]
fn an_announcement_of_an_unknown_kind_counts_as_none() {
    let (dir, store) = new_store();
    raw(
        dir.path(),
        &format!(
            "INSERT INTO arriving (domain_uuid, operation, at) VALUES ('{}', 'teleport', {})",
            domain(1),
            NOW.0
        ),
    );
    assert_eq!(store.references(domain(1), NOW).unwrap().announced, None);
}
