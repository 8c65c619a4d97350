//! Opening: what is made, what is refused, what is brought forward.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::super::schema::{self, APPLICATION_ID, Identity, KNOWN, MIGRATIONS, Migration};
use super::super::testing::*;
use super::super::{Access, Store, StoreError, StoreFinding, UnavailableReason};
use crate::clock::Deadline;
use crate::host::trusted::Reason;
use crate::verdict::facts::StoreAccessError;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn reading_a_missing_store_creates_nothing() {
    let parent = TempDir::new().unwrap();
    let state_dir = parent.path().join("state");
    for access in [Access::Read, Access::Write] {
        assert!(matches!(open(&state_dir, access), Err(StoreError::Missing)));
        assert!(!state_dir.exists());
    }
    fs::create_dir(&state_dir).unwrap();
    for access in [Access::Read, Access::Write] {
        assert!(matches!(open(&state_dir, access), Err(StoreError::Missing)));
        assert_eq!(fs::read_dir(&state_dir).unwrap().count(), 0);
    }
}

#[test]
fn a_created_store_is_readable_by_its_owner_alone() {
    let parent = TempDir::new().unwrap();
    let state_dir = parent.path().join("state");
    let mut store = open(&state_dir, Access::Create).unwrap();
    store.record_event(&event(domain(1), "vm1", NOW)).unwrap();
    assert_eq!(mode(&state_dir), 0o700);
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        assert_eq!(mode(&state_dir.join(name)), 0o600, "{name}");
    }
    assert_eq!(number(&store, "PRAGMA application_id"), APPLICATION_ID);
    assert_eq!(number(&store, "PRAGMA user_version"), KNOWN);
    assert_eq!(number(&store, "PRAGMA foreign_keys"), 1);
    assert_eq!(number(&store, "PRAGMA synchronous"), 2, "FULL");
    assert_eq!(
        number(
            &store,
            "SELECT count(*) FROM pragma_journal_mode WHERE journal_mode = 'wal'"
        ),
        1
    );
    assert_eq!(
        number(
            &store,
            "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%' AND NOT strict"
        ),
        0
    );
}

#[test]
fn creating_again_keeps_the_content() {
    let (dir, mut store) = new_store();
    make_provider(&mut store, "p", 1);
    drop(store);
    let store = open(dir.path(), Access::Create).unwrap();
    assert_eq!(store.providers().unwrap().len(), 1);
}

#[test]
fn what_a_killed_creation_leaves_counts_as_missing_and_can_be_created() {
    for leave_wal_header in [false, true] {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("store.db"), "").unwrap();
        if leave_wal_header {
            raw(dir.path(), "PRAGMA journal_mode = wal");
        }
        for access in [Access::Read, Access::Write] {
            assert!(matches!(open(dir.path(), access), Err(StoreError::Missing)));
        }
        open(dir.path(), Access::Create).unwrap();
        open(dir.path(), Access::Read).unwrap();
    }
}

#[test]
fn a_link_or_a_directory_instead_of_the_file_is_refused() {
    let (elsewhere, _store) = new_store();
    let dir = TempDir::new().unwrap();
    symlink(
        elsewhere.path().join("store.db"),
        dir.path().join("store.db"),
    )
    .unwrap();
    let not_a_file = |result: Result<Store, StoreError>| {
        matches!(
            result,
            Err(StoreError::Unavailable {
                reason: UnavailableReason::Untrusted(Reason::NotAFile),
                ..
            })
        )
    };
    assert!(not_a_file(open(dir.path(), Access::Read)));
    assert!(not_a_file(open(dir.path(), Access::Create)));

    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("store.db")).unwrap();
    assert!(not_a_file(open(dir.path(), Access::Create)));
}

#[test]
fn a_link_to_the_state_directory_is_followed() {
    let (dir, _store) = new_store();
    let parent = TempDir::new().unwrap();
    let link = parent.path().join("state with spaces?");
    symlink(dir.path(), &link).unwrap();
    open(&link, Access::Write).unwrap();
}

#[test]
fn a_directory_or_a_file_that_others_can_write_to_is_refused() {
    let (dir, _store) = new_store();
    for path in [dir.path().to_owned(), dir.path().join("store.db")] {
        let before = mode(&path);
        fs::set_permissions(&path, Permissions::from_mode(before | 0o020)).unwrap();
        let refused = open(dir.path(), Access::Read).unwrap_err();
        let reason = Reason::Writable(before | 0o020);
        assert_eq!(
            refused.access_error(),
            StoreAccessError::Unavailable(format!("{}: {reason}", path.display()))
        );
        fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
    }
}

#[test]
fn a_file_instead_of_the_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for access in [Access::Read, Access::Create] {
        let refused = open(file.path(), access);
        assert!(matches!(
            refused,
            Err(StoreError::Unavailable {
                reason: UnavailableReason::Untrusted(Reason::NotADirectory),
                ..
            })
        ));
    }
}

#[test]
fn a_newer_schema_is_refused_and_both_versions_are_reported() {
    let (dir, store) = new_store();
    drop(store);
    raw(dir.path(), "PRAGMA user_version = 99");
    for access in [Access::Read, Access::Write, Access::Create] {
        let error = open(dir.path(), access).unwrap_err().access_error();
        assert_eq!(
            error,
            StoreAccessError::TooNew {
                found: 99,
                known: KNOWN
            }
        );
    }
}

#[test]
fn the_database_of_another_program_is_refused_and_not_changed() {
    let dir = TempDir::new().unwrap();
    raw(
        dir.path(),
        "CREATE TABLE bookmarks (url TEXT); PRAGMA user_version = 1",
    );
    let before = fs::read(dir.path().join("store.db")).unwrap();
    for access in [Access::Read, Access::Create] {
        let refused = open(dir.path(), access);
        assert!(matches!(
            refused,
            Err(StoreError::Unavailable {
                reason: UnavailableReason::NotAStore,
                ..
            })
        ));
    }
    assert_eq!(fs::read(dir.path().join("store.db")).unwrap(), before);
}

#[test]
fn a_store_that_another_tool_made_is_read_and_then_adopted() {
    let dir = TempDir::new().unwrap();
    let domain = domain(1);
    raw(
        dir.path(),
        &format!(
            "CREATE TABLE key_provider (uuid TEXT PRIMARY KEY, name TEXT UNIQUE, kind, key_id,
                 key_version, is_default, exported_at, created_at, updated_at);
             CREATE TABLE key_ref (id INTEGER PRIMARY KEY, resource_type, resource_uuid,
                 secret_uuid, provider_uuid, provider_name, key_version, kek_ref, wrapped_dek,
                 algorithm, first_used_at, retired_at, created_at, updated_at);
             CREATE TABLE event (id INTEGER PRIMARY KEY, at, domain_uuid, domain_name, operation,
                 decision, code, message, repairs);
             INSERT INTO key_ref (resource_type, resource_uuid, provider_name)
                 VALUES ('tpm', '{domain}', 'p');
             PRAGMA user_version = 1"
        ),
    );
    let store = open(dir.path(), Access::Read).unwrap();
    assert_eq!(
        store.references(domain, NOW).unwrap().key_refs[0].provider_name,
        "p"
    );
    let differs = |found: &StoreFinding| matches!(found, StoreFinding::SchemaDiffers(_));
    let findings = store.check().unwrap();
    let of_schema: Vec<_> = findings.iter().filter(|it| !is_of_a_row(it)).collect();
    assert!(
        of_schema.iter().all(|it| differs(it)),
        "what the next change adds is not missing: {of_schema:?}"
    );
    drop(store);
    let mut store = open(dir.path(), Access::Write).unwrap();
    let provider = make_provider(&mut store, "q", 1);
    assert_eq!(number(&store, "PRAGMA application_id"), APPLICATION_ID);
    make_key(&mut store, domain, &provider);
    store.mark_started(domain, NOW).unwrap();
    assert_eq!(store.references(domain, NOW).unwrap().key_refs.len(), 2);
}

fn is_of_a_row(finding: &StoreFinding) -> bool {
    matches!(finding, StoreFinding::ProviderUnknown { .. })
}

#[test]
fn what_an_older_schema_has_to_have_is_missed() {
    let dir = TempDir::new().unwrap();
    raw(dir.path(), EARLIER[2]);
    raw(dir.path(), "DROP TABLE written_key");
    let store = open(dir.path(), Access::Read).unwrap();
    let missing = StoreFinding::SchemaMissing("table written_key".into());
    assert_eq!(store.check().unwrap(), [missing]);
}

/// The stores of earlier versions, with the same content.
const EARLIER: [&str; 3] = [
    include_str!("../../../tests/vectors/store-v1.sql"),
    include_str!("../../../tests/vectors/store-v2.sql"),
    include_str!("../../../tests/vectors/store-v3.sql"),
];

#[test]
fn a_store_of_an_earlier_version_opens_with_all_its_content() {
    for (earlier, access) in EARLIER
        .into_iter()
        .flat_map(|earlier| [Access::Read, Access::Write].map(|access| (earlier, access)))
    {
        let dir = TempDir::new().unwrap();
        raw(dir.path(), earlier);
        let mut store = open(dir.path(), access).unwrap();
        assert_eq!(store.check().unwrap(), [], "an older schema is no damage");
        let vm1 = store.domain_uuid_by_name("vm1").unwrap().unwrap();
        let references = store.references(vm1, NOW).unwrap();
        assert_eq!(references.providers[0].name, "nkp-a");
        let [row] = references.key_refs.as_slice() else {
            panic!("one live row, not {:?}", references.key_refs)
        };
        assert_eq!(row.provider_uuid, Some(references.providers[0].uuid));
        assert_eq!(row.wrapped_dek.as_ref().unwrap().as_bytes(), b"\x01wrapped");
        assert_eq!(store.all_key_refs(None, true).unwrap().len(), 3);
        assert!(store.written_keys().unwrap().is_empty());
        assert_eq!(store.slots().unwrap(), []);
        if access == Access::Write {
            store.record_event(&event(vm1, "vm1", NOW)).unwrap();
            assert_eq!(number(&store, "PRAGMA user_version"), KNOWN);
            assert_eq!(
                number(
                    &store,
                    "SELECT count(*) FROM temp.sqlite_schema WHERE type = 'table'"
                ),
                0
            );
            assert_eq!(store.check().unwrap(), []);
            assert_eq!(store.references(vm1, NOW).unwrap(), references);
        }
    }
}

/// A start whose key is there reads on; what it has to write waits for the lock, and brings the schema with it.
#[test]
fn an_older_store_that_is_locked_opens_and_is_migrated_by_the_first_change() {
    let dir = TempDir::new().unwrap();
    raw(dir.path(), EARLIER[2]);
    let other = Connection::open(dir.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let deadline = soon();
    let mut store = Store::open(dir.path(), Access::Write, deadline).unwrap();
    assert!(!deadline.has_passed(), "it waits for nobody");
    let vm1 = store.domain_uuid_by_name("vm1").unwrap().unwrap();
    let briefly = Deadline::after(Duration::from_millis(80));
    store.set_deadline(briefly).unwrap();
    let refused = store.record_event(&event(vm1, "vm1", NOW));
    assert!(matches!(refused, Err(StoreError::Locked)), "{refused:?}");
    store.set_deadline(soon()).unwrap();
    assert_eq!(store.references(vm1, NOW).unwrap().key_refs.len(), 1);

    other.execute_batch("COMMIT").unwrap();
    // Another process is faster.
    let mut faster = open(dir.path(), Access::Write).unwrap();
    faster.record_event(&event(vm1, "vm1", NOW)).unwrap();
    assert_eq!(store.slots().unwrap(), [], "its stand-ins are still there");
    store.record_event(&event(vm1, "vm1", NOW)).unwrap();
    assert_eq!(number(&store, "PRAGMA user_version"), KNOWN);
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn what_version_2_has_noted_is_still_noted() {
    let dir = TempDir::new().unwrap();
    raw(dir.path(), EARLIER[1]);
    let store = open(dir.path(), Access::Write).unwrap();
    let [vm1, vm2] = ["vm1", "vm2"].map(|name| store.domain_uuid_by_name(name).unwrap().unwrap());
    assert_eq!(store.seen_state(vm1).unwrap().unwrap().domain_name, "vm1");
    assert!(store.references(vm2, NOW).unwrap().clients_key);
}

#[test]
fn migrations_that_are_due_are_applied_once_and_in_order() {
    let steps = [
        Migration {
            version: 1,
            sql: MIGRATIONS[0].sql,
        },
        Migration {
            version: 2,
            sql: "CREATE TABLE trail (step); INSERT INTO trail VALUES (2)",
        },
        Migration {
            version: 3,
            sql: "INSERT INTO trail VALUES (3)",
        },
    ];
    for (identity, begin) in [(Identity::Empty, 0), (Identity::Ours(1), 1)] {
        let mut database = Connection::open_in_memory().unwrap();
        let transaction = database.transaction().unwrap();
        if begin == 1 {
            transaction.execute_batch(steps[0].sql).unwrap();
        }
        schema::migrate(&transaction, identity, &steps).unwrap();
        schema::migrate(&transaction, Identity::Ours(3), &steps).unwrap();
        let trail = "SELECT group_concat(step) FROM trail";
        let trail: String = transaction.query_row(trail, [], |row| row.get(0)).unwrap();
        assert_eq!(trail, "2,3");
        let version: i64 = transaction
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, 3);
    }
}

#[test]
fn opening_a_locked_store_waits_until_the_deadline() {
    let (dir, _store) = new_store();
    let other = Connection::open(dir.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let mut store = open(dir.path(), Access::Write).unwrap();
    let begin = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(80));
    store.set_deadline(deadline).unwrap();
    let refused = store.record_event(&event(domain(1), "vm1", NOW));
    assert!(matches!(refused, Err(StoreError::Locked)), "{refused:?}");
    assert!(begin.elapsed() >= Duration::from_millis(80));
    assert!(begin.elapsed() < Duration::from_secs(5));

    assert_eq!(
        store.references(domain(1), NOW).unwrap().key_refs,
        [],
        "reading goes on"
    );
    store.set_deadline(soon()).unwrap();
    other.execute_batch("COMMIT").unwrap();
    store.record_event(&event(domain(1), "vm1", NOW)).unwrap();
}

#[test]
fn the_log_stays_from_run_to_run_and_does_not_grow_for_ever() {
    let (dir, store) = new_store();
    drop(store);
    let log = dir.path().join("store.db-wal");
    assert!(log.exists());
    let mut longest = 0;
    for _ in 0..100 {
        let mut store = open(dir.path(), Access::Write).unwrap();
        store.record_event(&event(domain(1), "vm1", NOW)).unwrap();
        drop(store);
        longest = longest.max(fs::metadata(&log).map_or(0, |log| log.len()));
    }
    assert!((100_000..400_000).contains(&longest), "{longest} bytes");
}

#[test]
fn a_long_query_ends_at_the_deadline() {
    let (dir, _store) = new_store();
    let mut store = open(dir.path(), Access::Read).unwrap();
    let deadline = Deadline::after(Duration::from_millis(50));
    store.set_deadline(deadline).unwrap();
    let endless = store.read(|connection| {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                   SELECT count(*) FROM n";
        Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)
    });
    assert!(matches!(endless, Err(StoreError::TooSlow)), "{endless:?}");
}

#[test]
fn many_processes_at_once_create_one_store() {
    for _ in 0..20 {
        let dir = TempDir::new().unwrap();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let dir = dir.path();
                scope.spawn(move || {
                    let mut store = open(dir, Access::Create).unwrap();
                    store.record_event(&event(domain(i), "vm", NOW)).unwrap();
                });
            }
        });
        let store = open(dir.path(), Access::Read).unwrap();
        assert_eq!(number(&store, "SELECT count(*) FROM event"), 8);
    }
}
