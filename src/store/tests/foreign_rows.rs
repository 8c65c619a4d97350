//! Rows that other tools wrote: the store lives with any of them.

use std::path::Path;

use super::super::testing::*;
use super::super::{Access, EventFilter, Store, StoreFinding};
use super::rotating::rotate;
use crate::ids::KeyRefId;
use crate::verdict::facts::Provider;

#[test]
fn a_row_with_only_what_a_tool_must_write_is_read() {
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
    store.delete_whoever_needs_it(provider.uuid).unwrap();
    assert_eq!(
        store.references(vm, NOW).unwrap().key_refs[0].provider_uuid,
        None
    );
}

#[test]
fn a_dangling_provider_uuid_is_reported_and_does_not_prevent_a_change() {
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
fn a_provider_that_cannot_be_read_is_left_out_and_reported() {
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
fn the_check_reports_unreadable_rows_and_missing_providers() {
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
fn the_check_reports_what_differs_from_the_schema() {
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
fn rows_of_other_resources_and_events_without_a_guest_are_ignored() {
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
fn a_provider_whose_name_is_not_a_text_can_be_bound_to() {
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

/// Another tool that does not know foreign keys deletes a provider's row.
fn delete_by_hand(dir: &Path, provider: &Provider) {
    raw(
        dir,
        &format!(
            "PRAGMA foreign_keys = OFF; DELETE FROM key_provider WHERE uuid = '{}'",
            provider.uuid
        ),
    );
}

#[test]
fn a_fresh_key_is_taken_back_whose_provider_another_tool_has_deleted() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    delete_by_hand(dir.path(), &provider);

    let taken_back = store.retire_fresh_key(domain(1), None, NOW).unwrap();
    assert_eq!(taken_back.unwrap().retired, [key_ref]);
    let rows = store.references(domain(1), NOW).unwrap().key_refs;
    let [placeholder] = rows.as_slice() else {
        panic!("{rows:#?}");
    };
    assert_eq!(placeholder.provider_uuid, None, "as if it had been deleted");
    assert_eq!(placeholder.provider_name, "p");
}

#[test]
fn a_provider_whose_uuid_is_spelled_otherwise_is_rotated_and_promoted() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let key_ref = make_key(&mut store, domain(1), &provider);
    raw(
        dir.path(),
        "PRAGMA foreign_keys = OFF;
         UPDATE key_provider SET uuid = replace(upper(uuid), '-', '');
         UPDATE key_ref SET provider_uuid = replace(upper(provider_uuid), '-', '')",
    );
    let bound_to = |store: &Store| store.key_ref(key_ref).unwrap().key_ref.provider_uuid;

    let rotated = rotate(&mut store, &provider, 2);
    assert_eq!(bound_to(&store), Some(provider.uuid));

    let announced = make_provider(&mut store, "fleet/p/03030303", 3);
    let other = make_key(&mut store, domain(2), &announced);
    store.promote_key(&rotated, &announced, 3, NOW).unwrap();
    let row = store.key_ref(other).unwrap().key_ref;
    assert_eq!(row.provider_uuid, Some(provider.uuid));
    assert_eq!(store.check().unwrap(), []);
}
