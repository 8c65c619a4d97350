//! Schemas that other tools made: the store keeps its promises, or refuses to write.

use super::super::testing::*;
use super::super::{
    Access, AddKey, KeyChange, NewProvider, OtherKeys, RewrappedRow, Store, StoreError,
};
use crate::ids::{KeyRefId, ProviderUuid};
use crate::verdict::repair::{KeyOrigin, Repair};

#[test]
fn a_store_that_another_tool_made_may_have_other_types_and_collations() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let vm = domain(1);
    raw(
        dir.path(),
        &format!(
            "CREATE TABLE key_provider (uuid PRIMARY KEY, name UNIQUE, kind, key_id, key_version,
                 is_default, exported_at, created_at, updated_at);
             CREATE TABLE key_ref (id INTEGER PRIMARY KEY, resource_type, resource_uuid,
                 secret_uuid, provider_uuid REFERENCES key_provider(uuid) ON DELETE SET NULL,
                 provider_name NOT NULL, key_version, kek_ref, wrapped_dek BLOB, algorithm,
                 first_used_at, retired_at, created_at, updated_at);
             CREATE TABLE event (id INTEGER PRIMARY KEY, at, domain_uuid, domain_name, operation,
                 decision, code, message, repairs);
             INSERT INTO key_provider (uuid, name, key_id)
                 VALUES ('A0000000-0000-4000-8000-000000000000', 'p', upper('{key}'));
             INSERT INTO key_ref (id, resource_type, resource_uuid, provider_name, wrapped_dek,
                                  first_used_at, retired_at)
                 VALUES (1, 'tpm', upper('{vm}'), 'p', x'01', '2026-01-02 03:04:05', NULL),
                        (2, 'tpm', upper('{vm}'), 'p', 17, NULL, NULL),
                        (3, 'tpm', upper('{vm}'), 'p', x'02', NULL, '2026-01-02 03:04:05')",
            key = key_id(1)
        ),
    );
    let mut store = open(dir.path(), Access::Write).unwrap();
    let seen = store.references(vm, NOW).unwrap();
    let ids: Vec<_> = seen.key_refs.iter().map(|row| row.id.0).collect();
    assert_eq!(ids, [1, 2], "the third is retired");
    assert!(
        seen.key_refs[0].first_used_at.is_some(),
        "used, at whatever time"
    );
    assert_eq!(seen.key_refs[1].wrapped_dek, None, "a number is not a key");
    let provider = seen.providers[0].uuid;
    let repairs = [
        crate::verdict::repair::Repair::DeletePlaceholder {
            key_ref: KeyRefId(2),
        },
        crate::verdict::repair::Repair::RebindProvider {
            key_ref: KeyRefId(1),
            provider,
            provider_name: "p".into(),
        },
    ];
    apply(&mut store, vm, &repairs, None).unwrap();
    let rows = store.references(vm, NOW).unwrap().key_refs;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].provider_uuid, Some(provider));
    let retired = store.key_ref(KeyRefId(3)).unwrap();
    assert!(retired.retired_at.is_some(), "retired, at whatever time");
}

/// Triggers that lose every key that is made, changed or left by its provider.
const LOSE_KEYS: &str = "
    CREATE TRIGGER made AFTER INSERT ON key_ref
        BEGIN UPDATE key_ref SET wrapped_dek = randomblob(9) WHERE id = new.id; END;
    CREATE TRIGGER changed AFTER UPDATE ON key_ref
        BEGIN UPDATE key_ref SET wrapped_dek = randomblob(9) WHERE id = new.id; END;
    CREATE TRIGGER unbound AFTER DELETE ON key_provider BEGIN DELETE FROM key_ref; END;
    CREATE TRIGGER told AFTER INSERT ON event BEGIN DELETE FROM key_ref; END;";

#[test]
fn foreign_triggers_never_run_and_foreign_keys_still_work() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    raw(dir.path(), LOSE_KEYS);
    let mut store_again = open(dir.path(), Access::Write).unwrap();
    let key_ref = make_key(&mut store_again, domain(1), &provider);
    let wrapped = |store: &Store| store.key_ref(key_ref).unwrap().key_ref.wrapped_dek;
    let made = wrapped(&store_again);
    assert_eq!(made, Some(new_key(1).wrapped_dek));

    store.mark_started(domain(1), NOW).unwrap();
    store.record_event(&event(domain(1), "vm", NOW)).unwrap();
    let rewrapped = [RewrappedRow {
        key_ref,
        seen: made.unwrap(),
        key: new_key(2),
    }];
    let change = KeyChange {
        provider: &provider,
        key_id: key_id(2),
        key_version: 2,
        slots: &[],
        rewrapped: &[],
        now: NOW,
    };
    store.change_key(&change).unwrap();
    let rotated = store.provider("p").unwrap();
    store.rewrap(&rotated, &rewrapped, NOW).unwrap();
    assert_eq!(wrapped(&store), Some(new_key(2).wrapped_dek));

    store.delete_whoever_needs_it(provider.uuid).unwrap();
    let row = store.key_ref(key_ref).unwrap().key_ref;
    assert_eq!(row.wrapped_dek, Some(new_key(2).wrapped_dek));
    assert_eq!(row.provider_uuid, None, "ON DELETE SET NULL");
}

#[test]
fn a_view_instead_of_a_table_is_an_error() {
    let (dir, store) = new_store();
    drop(store);
    raw(
        dir.path(),
        "ALTER TABLE key_ref RENAME TO hidden;
         CREATE VIEW key_ref AS SELECT * FROM hidden;
         CREATE TRIGGER put INSTEAD OF INSERT ON key_ref BEGIN SELECT 1; END",
    );
    let store = open(dir.path(), Access::Write).unwrap();
    let refused = store.references(domain(1), NOW);
    assert!(
        matches!(refused, Err(StoreError::Corrupt { .. })),
        "{refused:?}"
    );
}

/// A store that another tool made so that it does not keep what is written to it.
fn foreign_store(key_ref: &str) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    raw(
        dir.path(),
        &format!(
            "CREATE TABLE key_provider (uuid PRIMARY KEY, name UNIQUE, kind, key_id, key_version,
                 is_default, exported_at, created_at, updated_at);
             CREATE TABLE key_ref (id INTEGER PRIMARY KEY, resource_type, resource_uuid,
                 secret_uuid, provider_uuid, provider_name, key_version, kek_ref, wrapped_dek,
                 algorithm, first_used_at, retired_at, created_at, updated_at {key_ref});
             CREATE TABLE event (id INTEGER PRIMARY KEY, at, domain_uuid, domain_name, operation,
                 decision, code, message, repairs);"
        ),
    );
    let store = open(dir.path(), Access::Write).unwrap();
    (dir, store)
}

#[test]
fn a_table_that_would_replace_other_rows_cannot_do_so() {
    let (_dir, mut store) = foreign_store(", UNIQUE (algorithm) ON CONFLICT REPLACE");
    let provider = make_provider(&mut store, "p", 1);
    let first = make_key(&mut store, domain(1), &provider);
    let add = AddKey {
        domain: domain(2),
        provider: provider.uuid,
        key: &new_key(1),
        secret_uuid: None,
        first_used_at: None,
        others: OtherKeys::Refuse,
        now: NOW,
    };
    store.add_key(&add).unwrap_err();
    assert!(store.key_ref(first).unwrap().key_ref.wrapped_dek.is_some());
}

#[test]
fn key_references_are_never_deleted_with_their_provider() {
    let (dir, mut store) = foreign_store(
        ", FOREIGN KEY (provider_uuid) REFERENCES key_provider (uuid) ON DELETE CASCADE",
    );
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    let key = |store: &Store| store.key_ref(key_ref).unwrap().key_ref;
    store.delete_whoever_needs_it(provider.uuid).unwrap();
    assert!(key(&store).wrapped_dek.is_some());

    // Nor where it makes room for another one, because it cannot be read.
    make_provider(&mut store, "q", 1);
    let unreadable = "UPDATE key_provider SET key_id = 'x';
        UPDATE key_ref SET provider_uuid = (SELECT uuid FROM key_provider)";
    raw(dir.path(), unreadable);
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: "q".to_owned(),
        key_id: key_id(2),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    let refused = store.create_provider(&new, &[], NOW);
    assert!(
        matches!(refused, Err(StoreError::NotAsWritten(_))),
        "{refused:?}"
    );
    assert!(key(&store).wrapped_dek.is_some());
}

/// Should something change a key between its writing and the commit, as a trigger would do that
/// runs after all.
#[test]
fn a_key_that_reads_back_differently_is_not_committed() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    insert_placeholder(dir.path(), domain(2), &provider);
    raw(dir.path(), LOSE_KEYS);
    let trigger = rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    store.connection.set_db_config(trigger, true).unwrap();
    let before = store.all_key_refs(None, true).unwrap();

    let rewrapped = [RewrappedRow {
        key_ref,
        seen: new_key(1).wrapped_dek,
        key: new_key(1),
    }];
    let key = new_key(1);
    let add = AddKey {
        domain: domain(3),
        provider: provider.uuid,
        key: &key,
        secret_uuid: None,
        first_used_at: None,
        others: OtherKeys::Refuse,
        now: NOW,
    };
    let create = Repair::CreateKey {
        key_ref: Some(store.references(domain(2), NOW).unwrap().key_refs[0].id),
        provider: provider.uuid,
        origin: KeyOrigin::Random,
    };
    for written in [
        store.rewrap(&provider, &rewrapped, NOW),
        store.add_key(&add).map(drop),
        apply(&mut store, domain(2), &[create], Some(&key)).map(drop),
    ] {
        assert!(
            matches!(written, Err(StoreError::NotAsWritten(_))),
            "{written:?}"
        );
    }
    assert_eq!(store.all_key_refs(None, true).unwrap(), before);
}
