//! The history: what is asked of it, and how long it grows.

use super::super::events::EVENTS_KEPT;
use super::super::{Event, EventFilter, EventQuery, MAX_MESSAGE, Origin, Store};
use crate::clock::Timestamp;
use crate::store::testing::{NOW, domain, event, new_store};
use crate::verdict::code::Code;

fn denied(code: Code, at: i64) -> Event {
    Event {
        code: Some(code),
        ..event(domain(1), "vm1", Timestamp(at))
    }
}

fn times<'a>(store: &Store, query: impl Into<EventQuery<'a>>) -> Vec<i64> {
    let rows = store.history(query, 99).unwrap();
    rows.into_iter().map(|row| row.at.0).collect()
}

#[test]
fn the_history_can_be_filtered_by_code_and_time() {
    let (_dir, mut store) = new_store();
    for (code, at) in [
        (Code::KeyLost, 10),
        (Code::KeyMissing, 20),
        (Code::KeyLost, 30),
    ] {
        store.record_event(&denied(code, at)).unwrap();
    }
    store
        .record_event(&event(domain(2), "vm2", Timestamp(40)))
        .unwrap();
    let all = EventQuery::from(EventFilter::All);

    let lost = Some(Code::KeyLost);
    assert_eq!(times(&store, EventQuery { code: lost, ..all }), [30, 10]);
    let since = Some(Timestamp(20));
    assert_eq!(times(&store, EventQuery { since, ..all }), [40, 30, 20]);
    let until = Some(Timestamp(20));
    assert_eq!(times(&store, EventQuery { until, ..all }), [20, 10]);
    let both = EventQuery {
        since,
        until,
        ..all
    };
    assert_eq!(times(&store, both), [20]);
    let vm2 = EventQuery {
        code: lost,
        ..EventFilter::Name("vm2").into()
    };
    assert_eq!(times(&store, vm2), [] as [i64; 0]);
}

#[test]
fn only_a_start_that_was_allowed_and_did_not_fail_is_a_run() {
    let (_dir, mut store) = new_store();
    let (guest, other) = (domain(1), domain(2));
    assert!(!store.has_started_since(guest, Timestamp(0)));
    let start = |uuid, at| event(uuid, "vm1", Timestamp(at));
    store.record_event(&start(other, 50)).unwrap();
    store.record_event(&denied(Code::KeyLost, 50)).unwrap();
    let failed = Event {
        origin: Origin::Stopped,
        ..start(guest, 50)
    };
    store.record_event(&failed).unwrap();
    assert!(!store.has_started_since(guest, Timestamp(0)));
    store.record_event(&start(guest, 20)).unwrap();
    assert!(store.has_started_since(guest, Timestamp(19)));
    assert!(!store.has_started_since(guest, Timestamp(20)));
}

#[test]
fn where_runs_cannot_be_read_nothing_is_set_back_and_no_other_host_is_contradicted() {
    let (dir, store) = new_store();
    let (guest, at) = (domain(1), Timestamp(0));
    let said = || {
        let started = store.has_started_since(guest, at);
        let elsewhere = store.has_run_elsewhere_since(guest, at);
        let noted = store.has_run_noted_since(guest, at);
        (
            started,
            elsewhere,
            noted,
            store.has_own_run_since(guest, at),
        )
    };
    assert_eq!(said(), (false, false, false, false));
    let other = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    other
        .execute_batch("DROP TABLE event; DROP TABLE fleet_placement")
        .unwrap();
    assert_eq!(said(), (true, true, true, false));
}

#[test]
fn what_became_of_a_start_is_in_its_row() {
    let (_dir, mut store) = new_store();
    let at = |origin, at| Event {
        origin,
        ..event(domain(1), "vm1", Timestamp(at))
    };
    for time in [10, 20] {
        store.record_start(&at(Origin::Prepare, time)).unwrap();
    }
    // A change by a command, and another guest's start at the same moment.
    store.record_event(&at(Origin::Adopt, 10)).unwrap();
    let other = event(domain(2), "vm2", Timestamp(10));
    store.record_event(&other).unwrap();
    let rows = |store: &Store| {
        let rows = store.history(EventFilter::Domain(domain(1)), 99).unwrap();
        let rows = rows
            .into_iter()
            .map(|row| (row.at.0, row.operation, row.code));
        rows.collect::<Vec<_>>()
    };
    let row = |at, origin: Origin, code| (at, origin.as_str().to_owned(), code);
    let (adopted, started) = (row(10, Origin::Adopt, None), row(20, Origin::Prepare, None));

    let repaired = |json: &str, event| Event {
        repairs_json: json.to_owned(),
        ..event
    };
    let repairs = |store: &Store| {
        let row = store.history(EventFilter::Domain(domain(1)), 99).unwrap();
        let row = row
            .into_iter()
            .find(|row| row.operation == "prepare" && row.at.0 == 10);
        row.unwrap().repairs_json
    };
    // The verdict is repeated, with other repairs: those of both were made.
    let again = repaired(r#"["one"]"#, at(Origin::Prepare, 10));
    store.record_start(&again).unwrap();
    let lost = repaired(r#"["two"]"#, denied(Code::KeyLost, 10));
    store.record_start(&lost).unwrap();
    let refused = row(10, Origin::Prepare, Some(Code::KeyLost));
    assert_eq!(
        rows(&store),
        [started.clone(), adopted.clone(), refused.clone()]
    );
    assert_eq!(repairs(&store), r#"["one","two"]"#);
    // It is refused already, so it has not failed after it was allowed.
    let failed = |time| at(Origin::Stopped, time);
    store.record_start(&failed(10)).unwrap();
    assert_eq!(
        rows(&store),
        [started.clone(), adopted.clone(), refused.clone()]
    );
    assert_eq!(repairs(&store), r#"["one","two"]"#);
    // The row is gone, or was never written; once it is there, it is the start's.
    for _ in 0..2 {
        store.record_start(&failed(15)).unwrap();
    }
    let alone = row(15, Origin::Stopped, None);
    assert_eq!(rows(&store), [started, alone, adopted, refused]);
    // What another tool has written there is no list.
    let sql = "UPDATE event SET repairs = 'none' WHERE at = 10";
    store.connection.execute(sql, []).unwrap();
    store.record_start(&lost).unwrap();
    assert_eq!(repairs(&store), r#"["two"]"#);
    let others = store.history(EventFilter::Domain(domain(2)), 99).unwrap();
    assert_eq!((others.len(), others[0].code), (1, None));
}

#[test]
fn the_oldest_events_are_deleted_if_there_are_too_many() {
    let (_dir, mut store) = new_store();
    for at in 0..4 {
        store.record_event(&denied(Code::KeyLost, at)).unwrap();
    }
    let far = EVENTS_KEPT + 2;
    let sql = "UPDATE event SET id = ?1 WHERE at = 3";
    store.connection.execute(sql, [far]).unwrap();
    store.record_event(&denied(Code::KeyLost, 4)).unwrap();
    assert_eq!(times(&store, EventFilter::All), [4, 3, 2]);
}

#[test]
fn one_huge_id_deletes_at_most_two_events() {
    let (_dir, mut store) = new_store();
    for at in 0..5 {
        store.record_event(&denied(Code::KeyLost, at)).unwrap();
    }
    let sql = "UPDATE event SET id = 1 << 60 WHERE at = 4";
    store.connection.execute(sql, []).unwrap();
    store.record_event(&denied(Code::KeyLost, 5)).unwrap();
    assert_eq!(times(&store, EventFilter::All), [5, 4, 3, 2]);
}

/// Another program's error may be any length.
#[test]
fn a_sentence_is_kept_up_to_some_lines() {
    let (_dir, mut store) = new_store();
    let mut long = event(domain(1), "vm1", NOW);
    long.message = "Ä".repeat(100_000);
    store.record_event(&long).unwrap();
    let later = Event {
        at: Timestamp(NOW.0 + 1),
        ..long
    };
    store.record_start(&later).unwrap();
    for row in store.history(EventFilter::All, 9).unwrap() {
        let kept = row.message;
        assert!(kept.len() <= MAX_MESSAGE && kept.len() > MAX_MESSAGE - 6);
        assert!(kept.ends_with("Ä…"), "{kept}");
    }
}
