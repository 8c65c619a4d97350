//! Applying repairs: each does what it says, to the rows that were seen, or nothing happens.

use super::super::testing::*;
use super::super::{Change, EventFilter, Store, StoreError};
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::verdict::facts::{KeyRef, Provider};
use crate::verdict::repair::{KeyOrigin, Repair};

pub(super) struct Setting {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Store,
    pub(super) provider: Provider,
    pub(super) other: Provider,
    pub(super) vm: DomainUuid,
}

/// Two providers and nothing else.
pub(super) fn setting() -> Setting {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    let other = make_provider(&mut store, "q", 2);
    let vm = domain(1);
    Setting {
        dir,
        store,
        provider,
        other,
        vm,
    }
}

impl Setting {
    pub(super) fn keyed(&mut self) -> KeyRefId {
        make_key(&mut self.store, self.vm, &self.provider)
    }

    pub(super) fn placeholder(&mut self) -> KeyRefId {
        insert_placeholder(self.dir.path(), self.vm, &self.provider);
        self.rows().last().unwrap().id
    }

    pub(super) fn rows(&self) -> Vec<KeyRef> {
        self.store.references(self.vm, NOW).unwrap().key_refs
    }

    pub(super) fn apply(&mut self, repair: Repair) -> Result<Option<KeyRefId>, StoreError> {
        apply(&mut self.store, self.vm, &[repair], None)
    }
}

#[test]
fn a_first_start_binds_and_creates_the_key_in_one_row() {
    let Setting {
        dir: _dir,
        mut store,
        provider,
        vm,
        ..
    } = setting();
    let secret_uuid = SecretUuid::random();
    let seen = store.references(vm, NOW).unwrap();
    let repairs = [
        Repair::BindProvider {
            key_ref: None,
            provider: provider.uuid,
            provider_name: "p".into(),
        },
        Repair::CreateKey {
            key_ref: None,
            provider: provider.uuid,
            origin: KeyOrigin::Random,
        },
    ];
    let key = new_key(1);
    let event = event(vm, "vm1", NOW);
    let made = store
        .apply(&Change {
            new_key: Some(&key),
            secret_uuid: Some(secret_uuid),
            event: Some(&event),
            ..change(vm, &seen, &repairs)
        })
        .unwrap();

    let rows = store.all_key_refs(Some(vm), true).unwrap();
    let [row] = rows.as_slice() else {
        panic!("one row, not {rows:?}")
    };
    assert_eq!(Some(row.key_ref.id), made);
    assert_eq!(row.key_ref.provider_uuid, Some(provider.uuid));
    assert_eq!(row.key_ref.provider_name, "p");
    assert_eq!(row.key_ref.secret_uuid, Some(secret_uuid));
    assert_eq!(row.key_ref.wrapped_dek, Some(key.wrapped_dek));
    assert_eq!(
        row.key_ref.kek_ref,
        Some(format!("native:{}", provider.key_id))
    );
    assert_eq!(row.key_ref.key_version, Some(1));
    assert_eq!(row.algorithm.as_deref(), Some("hkdf-sha256+aes-256-gcm"));
    assert_eq!(row.key_ref.created_at, NOW);
    let history = store.history(EventFilter::Domain(vm), 9).unwrap();
    assert_eq!(history, [event_row(1, event)]);
}

#[test]
fn a_key_is_put_into_an_existing_placeholder() {
    let mut it = setting();
    let placeholder = it.placeholder();
    let create = Repair::CreateKey {
        key_ref: Some(placeholder),
        provider: it.provider.uuid,
        origin: KeyOrigin::Random,
    };
    apply(&mut it.store, it.vm, &[create], Some(&new_key(1))).unwrap();
    assert_eq!(it.rows()[0].id, placeholder);
    assert!(it.rows()[0].wrapped_dek.is_some());
}

#[test]
fn a_key_never_replaces_a_key() {
    let mut it = setting();
    let key_ref = it.keyed();
    let before = it.rows();
    let create = Repair::CreateKey {
        key_ref: Some(key_ref),
        provider: it.provider.uuid,
        origin: KeyOrigin::Random,
    };
    let refused = apply(&mut it.store, it.vm, &[create], Some(&new_key(1)));
    assert!(matches!(refused, Err(StoreError::Changed)));
    assert_eq!(it.rows(), before);
}

#[test]
fn a_key_is_only_stored_under_the_provider_whose_kek_wraps_it() {
    let mut it = setting();
    let placeholder = it.placeholder();
    let create = Repair::CreateKey {
        key_ref: Some(placeholder),
        provider: it.provider.uuid,
        origin: KeyOrigin::Random,
    };
    let foreign = apply(
        &mut it.store,
        it.vm,
        std::slice::from_ref(&create),
        Some(&new_key(2)),
    );
    assert!(matches!(foreign, Err(StoreError::Changed)));
    let none = apply(&mut it.store, it.vm, &[create], None);
    assert!(matches!(none, Err(StoreError::NoNewKey)));
    assert_eq!(it.rows()[0].wrapped_dek, None);
}

#[test]
fn a_placeholder_is_deleted_and_a_keyed_row_is_not() {
    let mut it = setting();
    let keyed = it.keyed();
    let placeholder = it.placeholder();
    it.apply(Repair::DeletePlaceholder {
        key_ref: placeholder,
    })
    .unwrap();
    let refused = it.apply(Repair::DeletePlaceholder { key_ref: keyed });
    assert!(matches!(refused, Err(StoreError::Changed)));
    assert_eq!(it.rows().len(), 1);
}

#[test]
fn a_rebind_sets_uuid_and_name_and_needs_an_existing_provider() {
    let mut it = setting();
    let key_ref = it.keyed();
    let to = |provider: &Provider, name: &str| Repair::RebindProvider {
        key_ref,
        provider: provider.uuid,
        provider_name: name.to_owned(),
    };
    it.apply(to(&it.other, "q")).unwrap();
    assert_eq!(it.rows()[0].provider_uuid, Some(it.other.uuid));
    assert_eq!(it.rows()[0].provider_name, "q");

    let misnamed = it.apply(to(&it.provider, "q"));
    assert!(matches!(misnamed, Err(StoreError::Changed)));
    it.store.delete_whoever_needs_it(it.provider.uuid).unwrap();
    let gone = it.apply(to(&it.provider, "p"));
    assert!(matches!(gone, Err(StoreError::Changed)));
}

#[test]
fn a_duplicate_is_deleted_only_if_the_kept_row_holds_a_key() {
    let mut it = setting();
    let old = it.keyed();
    let kept = it.keyed();
    it.store.mark_started(it.vm, NOW).unwrap();
    raw(
        it.dir.path(),
        &format!("UPDATE key_ref SET first_used_at = 7 WHERE id = {old}"),
    );
    raw(
        it.dir.path(),
        &format!("UPDATE key_ref SET first_used_at = NULL WHERE id = {kept}"),
    );
    it.apply(Repair::DeleteDuplicate {
        key_ref: old,
        kept: Some(kept),
    })
    .unwrap();
    let rows = it.rows();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [kept]);
    assert_eq!(
        rows[0].first_used_at.map(|time| time.0),
        Some(7),
        "inherited"
    );

    let placeholder = it.placeholder();
    let cases = [
        ("itself", kept),
        ("a placeholder", placeholder),
        ("nothing", KeyRefId(999)),
    ];
    for (what, keeper) in cases {
        let refused = it.apply(Repair::DeleteDuplicate {
            key_ref: kept,
            kept: Some(keeper),
        });
        assert!(
            matches!(refused, Err(StoreError::Changed)),
            "kept by {what}"
        );
        assert!(it.rows().iter().any(|row| row.id == kept));
    }
}

#[test]
fn a_retired_row_keeps_its_key_and_is_not_judged() {
    let mut it = setting();
    let key_ref = it.keyed();
    it.apply(Repair::RetireKey { key_ref }).unwrap();
    assert_eq!(it.rows(), []);
    let record = it.store.key_ref(key_ref).unwrap();
    assert_eq!(record.retired_at, Some(NOW));
    assert!(record.key_ref.wrapped_dek.is_some());
}

#[test]
fn missing_values_are_filled_in() {
    let mut it = setting();
    let key_ref = it.keyed();
    raw(
        it.dir.path(),
        "UPDATE key_ref SET kek_ref = '', key_version = NULL",
    );
    let secret_uuid = SecretUuid::random();
    let filled_in = "native:x".to_owned();
    it.apply(Repair::FillKeyVersion {
        key_ref,
        key_version: 4,
    })
    .unwrap();
    it.apply(Repair::FillKekRef {
        key_ref,
        kek_ref: filled_in.clone(),
    })
    .unwrap();
    it.apply(Repair::SetSecretUuid {
        key_ref,
        secret_uuid,
    })
    .unwrap();
    let row = &it.rows()[0];
    assert_eq!(row.key_version, Some(4));
    assert_eq!(row.kek_ref, Some(filled_in));
    assert_eq!(row.secret_uuid, Some(secret_uuid));
}

#[test]
fn a_placeholder_is_bound_to_another_provider_and_a_keyed_row_is_not() {
    let mut it = setting();
    let bind = |key_ref, provider: &Provider| Repair::BindProvider {
        key_ref: Some(key_ref),
        provider: provider.uuid,
        provider_name: provider.name.clone(),
    };
    let placeholder = it.placeholder();
    it.apply(bind(placeholder, &it.other)).unwrap();
    assert_eq!(it.rows()[0].provider_uuid, Some(it.other.uuid));
    let keyed = it.keyed();
    assert!(matches!(
        it.apply(bind(keyed, &it.other)),
        Err(StoreError::Changed)
    ));
}
