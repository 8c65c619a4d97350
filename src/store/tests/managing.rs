//! What the administrator's commands ask of the store.

use std::time::Duration;

use super::super::bindings::{DependentDomain, UnbindCounts};
use super::super::testing::*;
use super::super::{AddKey, BindingChange, EventFilter, NewProvider, OtherKeys, Store, StoreError};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid};
use crate::verdict::facts::Provider;

fn locked(store: &Store, provider: &Provider) -> Vec<DomainUuid> {
    let locked = store.dependent_domains(provider).unwrap();
    locked.into_iter().map(|it| it.uuid).collect()
}

#[test]
fn providers_are_found_by_name_and_by_uuid() {
    let (_dir, mut store) = new_store();
    let made = make_provider(&mut store, "p", 1);
    assert_eq!(store.provider("p").unwrap(), made);
    assert_eq!(
        store
            .provider(&made.uuid.to_string().to_uppercase())
            .unwrap(),
        made
    );
    let missing = store.provider("q");
    assert!(matches!(missing, Err(StoreError::NoProvider(name)) if name == "q"));
}

#[test]
fn a_name_belongs_to_one_provider() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_provider(&mut store, "q", 2);
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: "p".into(),
        key_id: key_id(3),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    assert!(matches!(
        store.create_provider(&new, &[], NOW),
        Err(StoreError::NameTaken(_))
    ));
    let taken = store.rename_provider(provider.uuid, "q", NOW);
    assert!(matches!(taken, Err(StoreError::NameTaken(_))));
    store.rename_provider(provider.uuid, "p", NOW).unwrap();
}

#[test]
fn renaming_a_provider_renames_it_in_its_key_references() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let other = make_provider(&mut store, "q", 2);
    make_key(&mut store, domain(1), &provider);
    make_key(&mut store, domain(2), &other);
    store.rename_provider(provider.uuid, "new", NOW).unwrap();
    let name = |uuid| {
        store.references(uuid, NOW).unwrap().key_refs[0]
            .provider_name
            .clone()
    };
    assert_eq!(name(domain(1)), "new");
    assert_eq!(name(domain(2)), "q");
}

#[test]
fn only_one_provider_is_the_default() {
    let (_dir, mut store) = new_store();
    let p = make_provider(&mut store, "p", 1);
    let q = make_provider(&mut store, "q", 2);
    for chosen in [&p, &q] {
        store.set_default_provider(chosen.uuid, NOW).unwrap();
        let all = store.providers().unwrap();
        let defaults: Vec<_> = all
            .iter()
            .filter(|it| it.is_default)
            .map(|it| it.uuid)
            .collect();
        assert_eq!(defaults, [chosen.uuid]);
    }
}

#[test]
fn an_error_names_what_was_not_found() {
    let (_dir, mut store) = new_store();
    let nobody = ProviderUuid::random();
    let nothing = KeyRefId(5);
    let refusals = [
        store.rename_provider(nobody, "x", NOW),
        store.set_default_provider(nobody, NOW),
        store.mark_exported(nobody, key_id(1), NOW),
        store.delete_whoever_needs_it(nobody),
        store.bind(domain(1), nobody, NOW).map(drop),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(StoreError::NoProvider(it)) if it == nobody.to_string()));
    }
    let refusals = [
        store.retire(nothing, NOW).map(drop),
        store.use_key(nothing, NOW).map(drop),
        store.key_ref(nothing).map(drop),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(StoreError::NoKeyRef(KeyRefId(5)))));
    }
}

#[test]
fn an_export_is_recorded() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let other_key = store.mark_exported(provider.uuid, key_id(2), NOW);
    assert!(matches!(other_key, Err(StoreError::Changed)));
    assert_eq!(store.provider("p").unwrap().exported_at, None);
    store
        .mark_exported(provider.uuid, provider.key_id, NOW)
        .unwrap();
    assert_eq!(store.provider("p").unwrap().exported_at, Some(NOW));
}

#[test]
fn a_deleted_provider_leaves_its_name_in_its_key_references() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    store.delete_whoever_needs_it(provider.uuid).unwrap();
    let row = &store.references(domain(1), NOW).unwrap().key_refs[0];
    assert_eq!(row.provider_uuid, None);
    assert_eq!(row.provider_name, "p");
    assert!(row.wrapped_dek.is_some());
}

#[test]
fn binding_again_changes_nothing() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let BindingChange::Added(made) = store.bind(domain(1), provider.uuid, NOW).unwrap() else {
        panic!("nothing was there before");
    };
    let before = store.all_key_refs(None, true).unwrap();
    assert_eq!(
        store.bind(domain(1), provider.uuid, NOW).unwrap(),
        BindingChange::Unchanged(made)
    );
    assert_eq!(store.all_key_refs(None, true).unwrap(), before);
}

#[test]
fn a_guest_without_a_key_can_be_bound_to_another_provider_and_one_with_a_key_cannot() {
    let (_dir, mut store) = new_store();
    let p = make_provider(&mut store, "p", 1);
    let q = make_provider(&mut store, "q", 2);
    store.bind(domain(1), p.uuid, NOW).unwrap();
    let moved = store.bind(domain(1), q.uuid, NOW).unwrap();
    assert!(matches!(moved, BindingChange::Moved { from, .. } if from == "p"));
    assert_eq!(store.references(domain(1), NOW).unwrap().key_refs.len(), 1);

    make_key(&mut store, domain(2), &p);
    assert!(matches!(
        store.bind(domain(2), p.uuid, NOW).unwrap(),
        BindingChange::Unchanged(_)
    ));
    let refused = store.bind(domain(2), q.uuid, NOW);
    assert!(matches!(refused, Err(StoreError::HasKey { provider, .. }) if provider == "p"));
}

#[test]
fn a_key_whose_provider_was_imported_again_counts_as_bound_by_its_name() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    store.delete_whoever_needs_it(provider.uuid).unwrap();
    let again = make_provider(&mut store, "p", 1);
    let bound = store.bind(domain(1), again.uuid, NOW).unwrap();
    assert!(matches!(bound, BindingChange::Unchanged(_)));
}

#[test]
fn unbinding_deletes_placeholders_and_retires_keys() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    insert_placeholder(dir.path(), domain(1), &provider);
    let unbound = store.unbind(domain(1), NOW).unwrap();
    assert_eq!(
        unbound,
        UnbindCounts {
            placeholders: 1,
            retired: 1
        }
    );
    assert!(!store.has_key_refs(domain(1)).unwrap());
    let left = store.all_key_refs(Some(domain(1)), true).unwrap();
    assert!(left[0].key_ref.wrapped_dek.is_some());
    let again = store.unbind(domain(1), NOW).unwrap();
    assert_eq!(
        again,
        UnbindCounts {
            placeholders: 0,
            retired: 0
        }
    );
}

#[test]
fn using_a_key_retires_the_others() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let first = make_key(&mut store, domain(1), &provider);
    let second = make_key(&mut store, domain(1), &provider);
    make_key(&mut store, domain(2), &provider);
    assert!(store.retire(first, NOW).unwrap());
    assert!(!store.retire(first, NOW).unwrap(), "it is already");

    let used = store.use_key(first, NOW).unwrap();
    assert_eq!(used.domain, domain(1));
    assert_eq!(used.retired, [second]);
    let live = store.references(domain(1), NOW).unwrap().key_refs;
    assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), [first]);
    assert!(store.has_key_refs(domain(2)).unwrap());
    assert_eq!(
        store.use_key(first, NOW).unwrap().retired,
        [],
        "again: nothing to do"
    );
}

#[test]
fn a_placeholder_is_neither_chosen_as_the_key_nor_retired() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let BindingChange::Added(placeholder) = store.bind(domain(1), provider.uuid, NOW).unwrap()
    else {
        panic!("nothing was there before");
    };
    let refused = store.use_key(placeholder, NOW);
    assert!(matches!(refused, Err(StoreError::NotKeyed(id)) if id == placeholder));
    let refused = store.retire(placeholder, NOW);
    assert!(matches!(refused, Err(StoreError::NotKeyed(id)) if id == placeholder));
    assert!(store.has_key_refs(domain(1)).unwrap());
}

#[test]
fn an_added_key_replaces_placeholders_and_on_request_retires_other_keys() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    store.bind(domain(1), provider.uuid, NOW).unwrap();
    let key = new_key(1);
    let mut add = AddKey {
        domain: domain(1),
        provider: provider.uuid,
        key: &key,
        secret_uuid: None,
        first_used_at: Some(NOW),
        others: OtherKeys::Refuse,
        now: NOW,
    };
    let first = store.add_key(&add).unwrap();
    let refused = store.add_key(&add);
    assert!(matches!(refused, Err(StoreError::HasKey { key_ref, .. }) if key_ref == first));
    // One that came after these were looked at is nobody's to retire.
    add.others = OtherKeys::Retire(&[]);
    let refused = store.add_key(&add);
    assert!(matches!(refused, Err(StoreError::HasKey { key_ref, .. }) if key_ref == first));
    let known = [first];
    add.others = OtherKeys::Retire(&known);
    let second = store.add_key(&add).unwrap();
    let live = store.references(domain(1), NOW).unwrap().key_refs;
    assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), [second]);
    assert_eq!(live[0].first_used_at, Some(NOW));
    let retired_key = store.retire_fresh_key(domain(1), None, NOW);
    assert_eq!(retired_key.unwrap(), None);
    assert_eq!(store.all_key_refs(Some(domain(1)), true).unwrap().len(), 2);
    add.others = OtherKeys::Keep;
    let third = store.add_key(&add).unwrap();
    let live = store.references(domain(1), NOW).unwrap().key_refs;
    let live: Vec<_> = live.iter().map(|row| row.id).collect();
    assert_eq!(live, [second, third], "both are in use");
}

#[test]
fn guests_whose_only_key_is_under_its_kek_depend_on_a_provider() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let other = make_provider(&mut store, "q", 2);
    make_key(&mut store, domain(1), &provider);
    make_key(&mut store, domain(2), &other);
    store.record_event(&event(domain(1), "old", NOW)).unwrap();
    store
        .record_event(&event(domain(1), "vm1", later(Duration::from_secs(1))))
        .unwrap();
    let expected = DependentDomain {
        uuid: domain(1),
        name: Some("vm1".into()),
    };
    assert_eq!(store.dependent_domains(&provider).unwrap(), [expected]);

    let retired = make_key(&mut store, domain(3), &provider);
    store.retire(retired, NOW).unwrap();
    assert_eq!(
        locked(&store, &provider),
        [domain(1)],
        "a retired key opens nothing"
    );
}

#[test]
fn another_provider_with_the_same_kek_opens_keys_but_does_not_help_placeholders() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    store.bind(domain(2), provider.uuid, NOW).unwrap();
    assert_eq!(locked(&store, &provider), [domain(1), domain(2)]);
    make_provider(&mut store, "twin", 1);
    assert_eq!(locked(&store, &provider), [domain(2)]);
}

#[test]
fn a_key_that_lost_its_provider_still_depends_on_the_kek() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    raw(
        dir.path(),
        "UPDATE key_ref SET provider_uuid = NULL, provider_name = 'else'",
    );
    assert_eq!(locked(&store, &provider), [domain(1)]);
}

#[test]
fn a_placeholder_without_a_provider_depends_on_none() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let other = make_provider(&mut store, "q", 2);
    make_key(&mut store, domain(1), &other);
    insert_placeholder(dir.path(), domain(1), &provider);
    assert_eq!(locked(&store, &provider), []);
    assert_eq!(locked(&store, &other), [domain(1)]);
}

#[test]
fn the_history_is_listed_newest_first() {
    let (_dir, mut store) = new_store();
    for (i, (uuid, name)) in [(1, "vm1"), (2, "vm2"), (1, "vm1-renamed")]
        .into_iter()
        .enumerate()
    {
        let at = later(Duration::from_secs(i as u64));
        store.record_event(&event(domain(uuid), name, at)).unwrap();
    }
    let names = |filter, limit| {
        let rows = store.history(filter, limit).unwrap();
        rows.into_iter()
            .map(|row| row.domain_name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(EventFilter::All, 2), ["vm1-renamed", "vm2"]);
    assert_eq!(
        names(EventFilter::Domain(domain(1)), 9),
        ["vm1-renamed", "vm1"]
    );
    assert_eq!(names(EventFilter::Name("vm1"), 9), ["vm1"]);
    assert_eq!(store.domain_uuid_by_name("vm2").unwrap(), Some(domain(2)));
    assert_eq!(store.domain_uuid_by_name("vm3").unwrap(), None);
}

#[test]
fn an_event_is_read_as_it_was_recorded() {
    let (_dir, mut store) = new_store();
    let denied = super::super::Event {
        code: Some(crate::verdict::code::Code::KeyLost),
        repairs_json: r#"[{"kind":"retire-key"}]"#.into(),
        ..event(domain(1), "vm1", NOW)
    };
    store.record_event(&denied).unwrap();
    let history = store.history(EventFilter::All, 1).unwrap();
    assert_eq!(history, [event_row(1, denied)]);
}

/// The rows' providers, by UUID and by name, in the order of the rows.
fn bindings(store: &Store) -> Vec<(Option<ProviderUuid>, String)> {
    let rows = store.all_key_refs(None, true).unwrap().into_iter();
    rows.map(|row| (row.key_ref.provider_uuid, row.key_ref.provider_name))
        .collect()
}

#[test]
fn rows_that_an_interrupted_deletion_left_by_name_are_renamed_with_their_provider() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let other = make_provider(&mut store, "other", 2);
    insert_placeholder(dir.path(), domain(1), &provider);
    make_key(&mut store, domain(2), &provider);
    // One that waits for another key of that name, and one of a provider that is here.
    make_key(&mut store, domain(3), &other);
    make_key(&mut store, domain(4), &other);
    raw(
        dir.path(),
        &format!(
            "UPDATE key_ref SET provider_uuid = NULL WHERE provider_name = 'p';
             UPDATE key_ref SET provider_uuid = NULL, provider_name = 'p' WHERE id = 3;
             UPDATE key_ref SET provider_name = 'p',
                 provider_uuid = upper(replace('{}', '-', '')) WHERE id = 4",
            other.uuid
        ),
    );
    store.rename_provider(provider.uuid, "q", NOW).unwrap();
    let q = (Some(provider.uuid), "q".to_owned());
    let expected = [
        q.clone(),
        q,
        (None, "p".to_owned()),
        (Some(other.uuid), "p".to_owned()),
    ];
    assert_eq!(bindings(&store), expected);
}

#[test]
fn rows_that_an_interrupted_renaming_left_under_the_new_name_keep_that_of_a_deleted_provider() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    insert_placeholder(dir.path(), domain(1), &provider);
    raw(dir.path(), "UPDATE key_ref SET provider_name = 'q'");
    store.delete_whoever_needs_it(provider.uuid).unwrap();
    assert_eq!(bindings(&store), [(None, "p".to_owned())]);
}
