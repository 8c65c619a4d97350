//! Rows that other tools wrote: the store lives with any of them.

use super::super::testing::*;
use super::super::{
    Access, AddKey, EventFilter, OtherKeys, RewrappedRow, Rotation, Store, StoreError, StoreFinding,
};
use crate::ids::KeyRefId;
use crate::verdict::repair::{KeyOrigin, Repair};

#[test]
fn the_least_that_a_tool_must_write_is_a_row() {
    let (dir, store) = new_store();
    let vm = domain(1);
    raw(
        dir.path(),
        &format!("INSERT INTO key_ref (resource_uuid, provider_name) VALUES ('{vm}', 'p')"),
    );
    let row = &store.references(vm, NOW).unwrap().key_refs[0];
    assert_eq!(row.provider_name, "p");
    assert_eq!(row.provider_uuid, None);
    assert_eq!(row.wrapped_dek, None);
    let age = crate::clock::Timestamp::now().0 - row.created_at.0;
    assert!((-1_000..60_000).contains(&age), "made {age} ms ago");
}

#[test]
fn what_is_empty_or_malformed_counts_as_missing() {
    let (dir, store) = new_store();
    let vm = domain(1);
    raw(
        dir.path(),
        &format!(
            "INSERT INTO key_ref (resource_uuid, provider_name, secret_uuid, provider_uuid,
                                  kek_ref, wrapped_dek, key_version)
             VALUES ('{vm}', '', 'no uuid', CAST(x'ff' AS TEXT), '', x'', NULL),
                    ('{vm}', CAST(x'70ff' AS TEXT), '', '', NULL, NULL, -1)"
        ),
    );
    let rows = store.references(vm, NOW).unwrap().key_refs;
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!(row.secret_uuid, None);
        assert_eq!(row.provider_uuid, None);
        assert_eq!(row.kek_ref, None);
        assert_eq!(row.wrapped_dek, None);
    }
    assert_eq!(rows[1].provider_name, "p\u{fffd}");
    assert_eq!(rows[1].key_version, Some(-1));
}

#[test]
fn uuids_in_upper_case_name_the_same_domain_and_provider() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let vm = domain(1);
    let (vm_upper, provider_upper) = (
        vm.to_string().to_uppercase(),
        provider.uuid.to_string().to_uppercase(),
    );
    raw(
        dir.path(),
        &format!(
            "UPDATE key_provider SET uuid = '{provider_upper}', key_id = upper(key_id);
             INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name)
             VALUES ('{vm_upper}', '{provider_upper}', 'p')"
        ),
    );
    let seen = store.references(vm, NOW).unwrap();
    assert_eq!(seen.key_refs[0].provider_uuid, Some(provider.uuid));
    assert_eq!(seen.providers[0].uuid, provider.uuid);
    let create = crate::verdict::repair::Repair::CreateKey {
        key_ref: Some(seen.key_refs[0].id),
        provider: provider.uuid,
        origin: crate::verdict::repair::KeyOrigin::Random,
    };
    apply(&mut store, vm, &[create], Some(&new_key(1))).unwrap();
    store.delete_provider(provider.uuid).unwrap();
    assert_eq!(
        store.references(vm, NOW).unwrap().key_refs[0].provider_uuid,
        None
    );
}

#[test]
fn a_dangling_provider_uuid_is_told_and_does_not_stop_a_change() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let vm = domain(1);
    let gone = crate::ids::ProviderUuid::random();
    raw(
        dir.path(),
        &format!(
            "INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name, wrapped_dek)
             VALUES ('{vm}', '{gone}', 'p', x'01')"
        ),
    );
    let row = store.references(vm, NOW).unwrap().key_refs[0].clone();
    assert_eq!(row.provider_uuid, Some(gone));
    let dangling = StoreFinding::Dangling {
        table: "key_ref".into(),
        rows: 1,
    };
    assert_eq!(store.check().unwrap(), [dangling]);

    store.mark_started(vm, NOW).unwrap();
    let rebind = crate::verdict::repair::Repair::RebindProvider {
        key_ref: row.id,
        provider: provider.uuid,
        provider_name: "p".into(),
    };
    apply(&mut store, vm, &[rebind], None).unwrap();
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn a_provider_that_cannot_be_read_is_left_out_and_told() {
    let (dir, mut store) = new_store();
    make_provider(&mut store, "good", 1);
    raw(
        dir.path(),
        "INSERT INTO key_provider (uuid, name, key_id) VALUES
             ('no uuid', 'a', '00000000000000000000000000000000'),
             ('a0000000-0000-4000-8000-000000000000', 'b', 'no key id'),
             ('b0000000-0000-4000-8000-000000000000', 'c', NULL)",
    );
    let names: Vec<_> = store
        .providers()
        .unwrap()
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(names, ["good"]);
    let unreadable = |name: &str, column| StoreFinding::ProviderUnreadable {
        name: name.to_owned(),
        column,
    };
    assert_eq!(
        store.check().unwrap(),
        [
            unreadable("a", "uuid"),
            unreadable("b", "key_id"),
            unreadable("c", "key_id")
        ]
    );
}

#[test]
fn the_check_names_rows_that_cannot_be_read_and_providers_that_are_not_there() {
    let (dir, store) = new_store();
    raw(
        dir.path(),
        "INSERT INTO key_ref (id, resource_uuid, secret_uuid, provider_name) VALUES (7, 'vm', 'x', 'p')",
    );
    let key_ref = KeyRefId(7);
    assert_eq!(
        store.check().unwrap(),
        [
            StoreFinding::KeyRefUnreadable {
                key_ref,
                column: "resource_uuid"
            },
            StoreFinding::KeyRefUnreadable {
                key_ref,
                column: "secret_uuid"
            },
            StoreFinding::ProviderUnknown {
                key_ref,
                provider: "p".into()
            },
        ]
    );
    assert_eq!(store.all_key_refs(None, true).unwrap(), []);
}

#[test]
fn the_check_names_what_is_not_of_our_schema() {
    let (dir, store) = new_store();
    raw(
        dir.path(),
        "DROP INDEX event_at; DROP INDEX event_domain; CREATE INDEX event_domain ON event (domain_uuid);
         CREATE TABLE notes (text)",
    );
    assert_eq!(
        store.check().unwrap(),
        [
            StoreFinding::SchemaMissing("index event_at".into()),
            StoreFinding::SchemaDiffers("index event_domain".into()),
            StoreFinding::SchemaForeign("table notes".into()),
        ]
    );
}

#[test]
fn rows_of_other_resources_and_events_without_a_domain_are_not_ours() {
    let (dir, store) = new_store();
    let vm = domain(1);
    raw(
        dir.path(),
        &format!(
            "INSERT INTO key_ref (resource_type, resource_uuid, provider_name) VALUES ('disk', '{vm}', 'p');
             INSERT INTO event (message) VALUES ('hello');
             INSERT INTO event (domain_uuid) VALUES ('{vm}')"
        ),
    );
    assert_eq!(store.references(vm, NOW).unwrap().key_refs, []);
    assert!(!store.has_key_refs(vm).unwrap());
    let events = store.history(EventFilter::All, 9).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].repairs_json, "[]");
    open(dir.path(), Access::Write).unwrap();
}

#[test]
fn uuids_without_hyphens_name_the_same_domain_and_provider() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let vm = domain(1);
    raw(
        dir.path(),
        &format!(
            "UPDATE key_provider SET uuid = replace(uuid, '-', '');
             INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
             VALUES (replace('{vm}', '-', ''), 'p', x'01')"
        ),
    );
    let seen = store.references(vm, NOW).unwrap();
    let rebind = crate::verdict::repair::Repair::RebindProvider {
        key_ref: seen.key_refs[0].id,
        provider: provider.uuid,
        provider_name: "p".into(),
    };
    apply(&mut store, vm, &[rebind], None).unwrap();
    store.mark_started(vm, NOW).unwrap();

    let row = &store.references(vm, NOW).unwrap().key_refs[0];
    assert_eq!(row.provider_uuid, Some(provider.uuid));
    assert_eq!(row.first_used_at, Some(NOW));
    assert_eq!(store.check().unwrap(), []);
    store.rename_provider(provider.uuid, "other", NOW).unwrap();
    let row = &store.references(vm, NOW).unwrap().key_refs[0];
    assert_eq!(row.provider_name, "other");
}

#[test]
fn a_provider_whose_name_is_no_text_can_be_bound_to() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let vm = domain(1);
    let key_ref = make_key(&mut store, vm, &provider);
    raw(
        dir.path(),
        "UPDATE key_provider SET name = CAST(x'70ff' AS TEXT)",
    );
    let rebind = crate::verdict::repair::Repair::RebindProvider {
        key_ref,
        provider: provider.uuid,
        provider_name: "p\u{fffd}".into(),
    };
    apply(&mut store, vm, &[rebind], None).unwrap();
    let row = &store.references(vm, NOW).unwrap().key_refs[0];
    assert_eq!(row.provider_name, "p\u{fffd}");
}

#[test]
fn a_store_of_another_tools_making_may_compare_and_type_as_it_likes() {
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
    assert_eq!(seen.key_refs[1].wrapped_dek, None, "a number is no key");
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
fn triggers_of_strangers_never_run_and_foreign_keys_act_all_the_same() {
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
    let rotation = Rotation {
        provider: &provider,
        key_id: key_id(2),
        key_version: 2,
        rewrapped: &rewrapped,
        given_up: &[],
        now: NOW,
    };
    store.rotate_provider(&rotation).unwrap();
    assert_eq!(wrapped(&store), Some(new_key(2).wrapped_dek));

    store.delete_provider(provider.uuid).unwrap();
    let row = store.key_ref(key_ref).unwrap().key_ref;
    assert_eq!(row.wrapped_dek, Some(new_key(2).wrapped_dek));
    assert_eq!(row.provider_uuid, None, "ON DELETE SET NULL");
}

#[test]
fn a_view_in_the_place_of_a_table_is_an_error() {
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
fn meddling_store(key_ref: &str) -> (tempfile::TempDir, Store) {
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
fn a_table_that_replaces_other_rows_is_not_let_do_so() {
    let (_dir, mut store) = meddling_store(", UNIQUE (algorithm) ON CONFLICT REPLACE");
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
fn key_references_never_go_with_their_provider() {
    let (_dir, mut store) = meddling_store(
        ", FOREIGN KEY (provider_uuid) REFERENCES key_provider (uuid) ON DELETE CASCADE",
    );
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    let refused = store.delete_provider(provider.uuid);
    assert!(
        matches!(refused, Err(StoreError::NotAsWritten(_))),
        "{refused:?}"
    );
    assert!(store.provider("p").is_ok());
    assert!(
        store
            .key_ref(key_ref)
            .unwrap()
            .key_ref
            .wrapped_dek
            .is_some()
    );
}

/// Should something change a key between its writing and the commit, as a trigger would do that
/// runs after all.
#[test]
fn a_key_that_reads_back_as_another_one_is_not_committed() {
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
