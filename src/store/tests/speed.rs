//! One domain's facts cost the same among a million rows as among ten. Counted in SQLite's
//! own terms, for timings are no test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Store;
use super::super::key_rows;
use super::super::testing::*;
use crate::ids::SecretUuid;

fn plan(store: &Store, sql: &str) -> String {
    let mut query = store
        .connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let parameters = query.parameter_count();
    let values = rusqlite::params_from_iter(vec!["x"; parameters]);
    let lines = query
        .query_map(values, |row| row.get::<_, String>("detail"))
        .unwrap();
    lines.collect::<Result<Vec<_>, _>>().unwrap().join("; ")
}

/// How many instructions SQLite's machine needs for one domain's rows.
fn instructions(store: &Store) -> i32 {
    let mut query = store
        .connection
        .prepare(&key_rows::of_domain_sql())
        .unwrap();
    let rows = query
        .query_map([domain(1).to_string()], |row| row.get::<_, i64>(0))
        .unwrap();
    assert_eq!(rows.count(), 1);
    query.get_status(rusqlite::StatementStatus::VmStep)
}

#[test]
fn the_queries_of_a_start_use_an_index() {
    let (_dir, store) = new_store();
    let rows = plan(&store, &key_rows::of_domain_sql());
    assert_eq!(
        rows,
        "SEARCH key_ref USING INDEX key_ref_resource (resource_type=? AND resource_uuid=?)"
    );
    let history = plan(
        &store,
        "SELECT * FROM event WHERE domain_uuid = ? ORDER BY at DESC, id DESC",
    );
    assert!(
        history.contains("INDEX event_domain (domain_uuid=?)"),
        "{history}"
    );
    assert!(!history.contains("TEMP B-TREE"), "{history}");
    let all = plan(
        &store,
        "SELECT * FROM event WHERE ? IS NULL ORDER BY at DESC, id DESC",
    );
    assert!(!all.contains("TEMP B-TREE"), "{all}");
    let unbound = plan(&store, "SELECT 1 FROM key_ref WHERE provider_uuid = ?");
    assert!(unbound.contains("INDEX key_ref_provider"), "{unbound}");
}

#[test]
fn a_million_other_rows_cost_a_start_no_more_than_ten() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    let insert = |from: u32, to: u32| {
        let sql = format!(
            "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})
             INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
             SELECT printf('e0000000-0000-4000-8000-%012x', i), 'p', x'01' FROM n"
        );
        raw(dir.path(), &sql);
    };
    insert(1, 10);
    let among_ten = instructions(&store);
    insert(11, 1_000_000);
    assert_eq!(instructions(&store), among_ten);
}

/// How many instructions SQLite's machine executes for this work, in thousands.
fn thousands(store: &mut Store, work: impl FnOnce(&Store)) -> u64 {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let count_one = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    store
        .connection
        .progress_handler(1_000, Some(count_one))
        .unwrap();
    work(store);
    store
        .connection
        .progress_handler(0, None::<fn() -> bool>)
        .unwrap();
    count.load(Ordering::Relaxed)
}

/// Before a key is missed, or one is made: the start waits for it.
#[test]
fn the_search_under_another_name_does_not_look_at_all_keys() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    let name = event(domain(1), "web", NOW);
    store.record_event(&name).unwrap();
    raw(
        dir.path(),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
         INSERT INTO key_ref (resource_uuid, secret_uuid, provider_name, wrapped_dek, first_used_at)
         SELECT printf('e0000000-0000-4000-8000-%012x', i),
                printf('5e000000-0000-4000-8000-%012x', i), 'p', x'01', 1 FROM n;
         INSERT INTO event (domain_uuid, domain_name)
         SELECT resource_uuid, 'vm' || id FROM key_ref WHERE id % 100 = 0",
    );
    raw(dir.path(), "UPDATE key_ref SET first_used_at = 1");
    let secret = SecretUuid::parse("5e000000-0000-4000-8000-000000000001").unwrap();
    // A look at each key would be a hundred thousand rows of ten instructions or more.
    let most = 40;
    let took = thousands(&mut store, |store| {
        assert_eq!(store.users_of_name("web").unwrap(), [domain(1)]);
    });
    assert!(took < most, "{took}");
    let took = thousands(&mut store, |store| {
        assert_eq!(store.users_of_secret(secret).unwrap().len(), 1);
    });
    assert!(took < most, "{took}");
    let took = thousands(&mut store, |store| {
        let keys = store.candidate_keys(domain(2), Some(secret), "web", 500);
        let keys = keys.unwrap();
        assert_eq!(keys.len(), 500);
        assert_eq!(keys[0].key_ref.secret_uuid, Some(secret));
        assert_eq!(keys[1].domain, domain(1));
    });
    assert!(took < most, "{took}");
}

/// The short-lived guests of a CI host: one name, and another UUID for each run.
#[test]
fn of_many_guests_of_one_name_only_those_before_the_wanted_one_are_looked_at() {
    let (dir, store) = new_store();
    raw(
        dir.path(),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
         INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek, first_used_at)
         SELECT printf('e0000000-0000-4000-8000-%012x', i), 'p', x'01', 1 FROM n;
         INSERT INTO event (domain_uuid, domain_name, at)
         SELECT resource_uuid, 'runner', id FROM key_ref",
    );
    let mut asked = 0;
    let found = store.find_user_of_name("runner", |_| {
        asked += 1;
        asked == 3
    });
    let third_from_last = format!("e0000000-0000-4000-8000-{:012x}", 10_000 - 2);
    assert_eq!(found.unwrap().unwrap().to_string(), third_from_last);
}
