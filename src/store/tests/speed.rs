//! One domain's facts cost the same among a million rows as among ten. Counted in SQLite's
//! own terms, for timings are no test.

use super::super::Store;
use super::super::key_rows;
use super::super::testing::*;

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
