//! The TPM states that guests ran with.

use std::path::PathBuf;

use super::super::testing::*;
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, SecretUuid};
use crate::store::{Event, Origin, Prune};
use crate::verdict::facts::SeenState;

fn seen(path: &str, at: Timestamp) -> SeenState {
    SeenState {
        domain_name: "vm1".to_owned(),
        secret_uuid: Some(SecretUuid::parse("5ec00000-0000-4000-8000-000000000001").unwrap()),
        path: PathBuf::from(path),
        at,
    }
}

#[test]
fn a_known_state_is_not_written_again() {
    let (dir, mut store) = new_store();
    let first = seen("/var/lib/libvirt/swtpm/x", NOW);
    store.note_seen_state(domain(1), &first).unwrap();

    let other = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let again = SeenState {
        at: Timestamp(NOW.0 + 1),
        ..first.clone()
    };
    store.note_seen_state(domain(1), &again).unwrap();
    let known = |store: &super::super::Store| store.references(domain(1), NOW).unwrap().seen_state;
    assert_eq!(known(&store), Some(first));
    other.execute_batch("ROLLBACK").unwrap();

    let moved = seen("/elsewhere", Timestamp(NOW.0 + 2));
    store.note_seen_state(domain(1), &moved).unwrap();
    assert_eq!(known(&store), Some(moved));
}

#[test]
fn a_states_record_is_deleted_alone_and_with_its_guest() {
    let (_dir, mut store) = new_store();
    for number in 1..=3 {
        store
            .note_seen_state(domain(number), &seen("/a", NOW))
            .unwrap();
    }
    assert!(store.clear_seen_state(domain(1)).unwrap());
    assert!(!store.clear_seen_state(domain(1)).unwrap());
    let event = Event::new(NOW, Origin::Prune, domain(2), "vm2", "");
    let prune = Prune {
        domain: domain(2),
        seen: &[],
        event: &event,
    };
    store.prune(&[prune], i64::MAX).unwrap();
    let is_known = |uuid: DomainUuid| store.references(uuid, NOW).unwrap().seen_state.is_some();
    assert_eq!(
        [1, 2, 3].map(|it| is_known(domain(it))),
        [false, false, true]
    );
}

#[test]
fn of_too_many_states_the_oldest_records_are_deleted() {
    let (dir, mut store) = new_store();
    raw(
        dir.path(),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
         INSERT INTO seen_state (domain_uuid, domain_name, path, at)
         SELECT 'guest-' || i, 'x', '/x', i FROM n",
    );
    store.note_seen_state(domain(1), &seen("/a", NOW)).unwrap();
    assert_eq!(number(&store, "SELECT count(*) FROM seen_state"), 10_000);
    assert_eq!(number(&store, "SELECT min(at) FROM seen_state"), 2);
}
