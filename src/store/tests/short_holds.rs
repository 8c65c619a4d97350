//! A start waits for the store's lock, so no change of an administrator's takes it for a row of each guest. Counted in
//! rows, for timings are no test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::Connection;

use super::super::testing::*;
use super::super::written_keys::WrittenKeys;
use super::super::{Prune, Store};
use crate::fleet::Kind;
use crate::ids::{DomainUuid, ProviderUuid};
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::{Provider, SeenState};

/// More guests than a transaction may change rows.
const GUESTS: u64 = 1_200;

/// How many rows one transaction may change.
const MOST: u64 = 1_000;

/// Each guest has a key under this provider, a row of the history, a fact and a placement.
fn with_guests(name: &str, key: u8) -> (tempfile::TempDir, Store, Provider) {
    with_so_many_guests(GUESTS, name, key)
}

fn with_so_many_guests(guests: u64, name: &str, key: u8) -> (tempfile::TempDir, Store, Provider) {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, name, key);
    store.join_fleet("host1", NOW).unwrap();
    raw(
        dir.path(),
        &format!(
            "CREATE TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {guests})
                 SELECT i, printf('e0000000-0000-4000-8000-%012x', i) AS uuid FROM n;
             INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name, wrapped_dek)
                 SELECT uuid, '{}', '{name}', CAST(uuid AS BLOB) FROM n;
             INSERT INTO event (domain_uuid, domain_name, operation, decision)
                 SELECT uuid, 'vm', 'prepare', 'allow' FROM n;
             INSERT INTO fleet_fact (id, kind, domain_uuid, key_id, host_uuid, at, body)
                 SELECT CAST(uuid AS BLOB), 'key', uuid, '{}', 'x', 1, '' FROM n;
             INSERT INTO fleet_placement
                 SELECT uuid, (SELECT host_uuid FROM fleet), 'host1', 'vm', 1, 0 FROM n;
             INSERT INTO seen_state (domain_uuid, domain_name, path, at)
                 SELECT uuid, 'vm', '/states', i FROM n;
             DROP TABLE n",
            provider.uuid, provider.key_id
        ),
    );
    (dir, store, provider)
}

fn notes(store: &Store, what: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM fleet_outbox WHERE what = '{what}'");
    u64::try_from(number(store, &sql)).unwrap()
}

fn bound(store: &Store, sql: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM key_ref WHERE {sql}");
    u64::try_from(number(store, &sql)).unwrap()
}

#[test]
fn a_provider_is_renamed_and_deleted_while_guests_start() {
    let (_dir, mut store, provider) = with_guests("p", 1);
    let most = most_changes(|| store.rename_provider(provider.uuid, "q", NOW).unwrap());
    assert!(most <= MOST, "{most} rows");
    assert_eq!(store.provider("q").unwrap().uuid, provider.uuid);
    assert_eq!(bound(&store, "provider_name = 'q'"), GUESTS);

    let most = most_changes(|| store.delete_whoever_needs_it(provider.uuid).unwrap());
    assert!(most <= MOST, "{most} rows");
    assert_eq!(bound(&store, "provider_uuid IS NULL"), GUESTS);
    assert_eq!(bound(&store, "provider_name = 'q'"), GUESTS);
    assert!(store.providers().unwrap().is_empty());
}

/// Four times as many guests may cost four times as much, and not sixteen times: no step looks again through the
/// rows that are done.
#[test]
fn no_row_is_looked_at_again_with_each_step() {
    let costs = |guests: u64| {
        let (_dir, mut store, provider) = with_so_many_guests(guests, "p", 1);
        let renamed = steps(|| store.rename_provider(provider.uuid, "q", NOW).unwrap());
        let deleted = steps(|| store.delete_whoever_needs_it(provider.uuid).unwrap());
        assert_eq!(bound(&store, "provider_name = 'q'"), guests);
        let (_dir, mut store, announced) = with_so_many_guests(guests, "fleet/p/02020202", 2);
        let provider = make_provider(&mut store, "p", 1);
        let promoted = steps(|| store.promote_key(&provider, &announced, 2, NOW).unwrap());
        assert_eq!(bound(&store, "provider_name = 'p'"), guests);
        let noted = 100 * looks(|| store.announce_rows().unwrap());
        [renamed, deleted, promoted, noted]
    };
    let (few, many) = (costs(2_000), costs(8_000));
    for (few, many) in few.into_iter().zip(many) {
        assert!(few > 2_000 && many < 5 * few, "{few} and {many} steps");
    }
}

#[test]
fn a_name_that_is_taken_changes_no_row() {
    let (_dir, mut store, provider) = with_guests("p", 1);
    make_provider(&mut store, "q", 2);
    store.rename_provider(provider.uuid, "q", NOW).unwrap_err();
    store
        .rename_provider(ProviderUuid::random(), "r", NOW)
        .unwrap_err();
    assert_eq!(bound(&store, "provider_name = 'p'"), GUESTS);
}

#[test]
fn a_key_is_promoted_while_guests_start() {
    let (_dir, mut store, announced) = with_guests("fleet/p/02020202", 2);
    let provider = make_provider(&mut store, "p", 1);
    let most = most_changes(|| store.promote_key(&provider, &announced, 2, NOW).unwrap());
    assert!(most <= MOST, "{most} rows");
    let is_bound = format!(
        "provider_uuid = '{}' AND provider_name = 'p'",
        provider.uuid
    );
    assert_eq!(bound(&store, &is_bound), GUESTS);
    assert_eq!(store.provider("p").unwrap().key_id, announced.key_id);
    assert_eq!(store.previous_keys(&provider).unwrap().len(), 1);
    let pending = number(&store, "SELECT count(*) FROM fleet_pending");
    assert_eq!(u64::try_from(pending).unwrap(), GUESTS);
}

#[test]
fn however_much_the_fleet_knows_a_key_is_promoted_while_guests_start() {
    let cost = |guests: u64| {
        let (_dir, mut store, announced) = with_so_many_guests(guests, "fleet/p/02020202", 2);
        let provider = make_provider(&mut store, "p", 1);
        most_steps(|| store.promote_key(&provider, &announced, 2, NOW).unwrap())
    };
    let (few, many) = (cost(2_000), cost(8_000));
    assert!(few > 500 && many < 2 * few, "{few} and {many} steps");
}

#[test]
fn what_an_exchange_settles_just_before_a_key_is_promoted_is_looked_at_again() {
    let (dir, mut store, announced) = with_guests("fleet/p/02020202", 2);
    let provider = make_provider(&mut store, "p", 1);
    let is_promoted = format!(
        "EXISTS (SELECT 1 FROM key_provider WHERE name = 'p' AND key_id = '{}')",
        announced.key_id
    );
    let settle = format!("DELETE FROM fleet_pending WHERE NOT {is_promoted}");
    let (settled, ends) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|threads| {
        let exchange = threads.spawn(|| {
            let exchange = Connection::open(dir.path().join("store.db")).unwrap();
            while !ends.load(Ordering::Relaxed) {
                exchange.execute_batch(&settle).unwrap();
                settled.store(true, Ordering::Relaxed);
            }
        });
        while !settled.load(Ordering::Relaxed) && !exchange.is_finished() {
            thread::yield_now();
        }
        let promoted = store.promote_key(&provider, &announced, 2, NOW);
        ends.store(true, Ordering::Relaxed);
        promoted.unwrap();
    });
    let pending = number(&store, "SELECT count(*) FROM fleet_pending");
    assert_eq!(u64::try_from(pending).unwrap(), GUESTS);
}

#[test]
fn the_fleet_is_told_of_every_guest_while_guests_start() {
    let (_dir, mut store, _) = with_guests("p", 1);
    let most = most_changes(|| {
        store.join_fleet("again", NOW).unwrap();
        store.announce_again(7).unwrap();
    });
    assert!(most <= MOST, "{most} rows");
    assert_eq!(notes(&store, "row"), GUESTS);
    assert_eq!(notes(&store, "placement"), GUESTS);
    assert_eq!(notes(&store, "event"), GUESTS - 7);
    assert_eq!(notes(&store, "providers"), 1);
    // Of a store that was restored: the fleet has a later event.
    store.announce_again(i64::MAX).unwrap();
    assert_eq!(notes(&store, "event"), GUESTS);
}

#[test]
fn what_concerns_this_host_is_recorded_while_guests_start() {
    let (_dir, mut store, _) = with_guests("p", 1);
    let scope = |from: u64| {
        let guests = from..from + GUESTS;
        guests
            .map(|guest| ("guest".to_owned(), guest.to_string()))
            .collect()
    };
    let most = most_changes(|| {
        for scope in [scope(0), scope(GUESTS + 7), scope(3)] {
            store.set_fleet_scope(&scope).unwrap();
            assert_eq!(store.fleet_scope().unwrap(), scope);
        }
    });
    assert!(most <= MOST, "{most} rows");
}

#[test]
fn keys_that_are_in_metadata_are_recorded_while_guests_start() {
    let (_dir, mut store, _) = with_guests("p", 1);
    let keys = |bytes: &[u8]| -> WrittenKeys {
        let guests = (0..GUESTS).map(|_| DomainUuid::random());
        guests
            .map(|guest| (guest, vec![WrappedDek::from_stored(bytes.to_vec())]))
            .collect()
    };
    let written = keys(b"key");
    let most = most_changes(|| {
        store.add_written_keys(&written, NOW).unwrap();
        assert_eq!(store.written_keys().unwrap(), written);
        let none = written.keys().map(|guest| (*guest, Vec::new())).collect();
        store.keep_written_keys(&none).unwrap();
    });
    assert!(most <= MOST, "{most} rows");
    assert!(store.written_keys().unwrap().is_empty());
}

/// A start notes its row of the history, and an administrator removes guests, while the fleet knows much of others and is
/// yet to be told of them.
#[test]
fn what_concerns_one_guest_costs_the_same_whatever_there_is_of_others() {
    let costs = |guests: u64| {
        let (_dir, mut store, _) = with_so_many_guests(guests, "p", 1);
        store.announce_again(0).unwrap();
        let guest = DomainUuid::parse("e0000000-0000-4000-8000-000000000007").unwrap();
        let about = looks(|| drop(store.facts_about(guest, Kind::Key).unwrap()));
        let start = looks(|| store.record_event(&event(guest, "vm", NOW)).unwrap());
        let rows = store.all_key_refs(Some(guest), true).unwrap();
        let last_event = store.last_event(None).unwrap();
        let removed = event(guest, "vm", NOW);
        let prune = looks(|| {
            let gone = Prune {
                domain: guest,
                seen: &rows,
                event: &removed,
            };
            store.prune(&[gone], last_event).unwrap();
        });
        assert_eq!(rows.len(), 1);
        let seen = SeenState {
            domain_name: "vm".to_owned(),
            secret_uuid: None,
            path: "/states/vm".into(),
            at: NOW,
        };
        let end = looks(|| store.note_seen_state(guest, &seen).unwrap());
        let counted = looks(|| drop(store.facts_of_kind(&[Kind::Key]).unwrap()));
        assert!(counted > 20, "what grows is seen");
        [about, start, prune, end]
    };
    let (few, many) = (costs(1_000), costs(4_000));
    for (few, many) in few.into_iter().zip(many) {
        assert!(many < few + 20, "{few} and {many} looks");
    }
}
