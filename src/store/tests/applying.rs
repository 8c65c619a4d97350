//! Applying repairs: each does what it says, to the rows that were seen, or nothing happens.

use super::super::testing::*;
use super::super::{Access, Change, EventFilter, Store, StoreError};
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::verdict::facts::{KeyRef, Provider};
use crate::verdict::repair::{KeyOrigin, Repair};

struct Setting {
    dir: tempfile::TempDir,
    store: Store,
    provider: Provider,
    other: Provider,
    vm: DomainUuid,
}

/// Two providers and nothing else.
fn setting() -> Setting {
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
    fn keyed(&mut self) -> KeyRefId {
        make_key(&mut self.store, self.vm, &self.provider)
    }

    fn placeholder(&mut self) -> KeyRefId {
        insert_placeholder(self.dir.path(), self.vm, &self.provider);
        self.rows().last().unwrap().id
    }

    fn rows(&self) -> Vec<KeyRef> {
        self.store.references(self.vm, NOW).unwrap().key_refs
    }

    fn apply(&mut self, repair: Repair) -> Result<Option<KeyRefId>, StoreError> {
        apply(&mut self.store, self.vm, &[repair], None)
    }
}

#[test]
fn a_first_start_binds_and_makes_the_key_in_one_row() {
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
fn a_key_goes_into_the_placeholder_that_is_there() {
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
fn a_rebind_sets_uuid_and_name_and_asks_for_a_provider_that_is_there() {
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
    it.store.delete_provider(it.provider.uuid).unwrap();
    let gone = it.apply(to(&it.provider, "p"));
    assert!(matches!(gone, Err(StoreError::Changed)));
}

#[test]
fn a_duplicate_goes_only_while_the_kept_row_holds_a_key() {
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
    it.apply(Repair::DeleteDuplicate { key_ref: old, kept })
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
            kept: keeper,
        });
        assert!(
            matches!(refused, Err(StoreError::Changed)),
            "kept by {what}"
        );
        assert!(it.rows().iter().any(|row| row.id == kept));
    }
}

#[test]
fn a_retired_row_keeps_its_key_and_is_out_of_the_verdicts_sight() {
    let mut it = setting();
    let key_ref = it.keyed();
    it.apply(Repair::RetireKey { key_ref }).unwrap();
    assert_eq!(it.rows(), []);
    let record = it.store.key_ref(key_ref).unwrap();
    assert_eq!(record.retired_at, Some(NOW));
    assert!(record.key_ref.wrapped_dek.is_some());
}

#[test]
fn gaps_are_filled_in() {
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

#[test]
fn a_repair_that_fails_takes_the_earlier_ones_and_the_event_back() {
    let mut it = setting();
    let key_ref = it.keyed();
    let placeholder = it.placeholder();
    let before = it.rows();
    let event = event(it.vm, "vm1", NOW);
    let repairs = [
        Repair::DeletePlaceholder {
            key_ref: placeholder,
        },
        Repair::RetireKey { key_ref },
        Repair::RetireKey { key_ref },
    ];
    let seen = it.store.references(it.vm, NOW).unwrap();
    let refused = it.store.apply(&Change {
        event: Some(&event),
        ..change(it.vm, &seen, &repairs)
    });
    assert!(matches!(refused, Err(StoreError::Changed)));
    assert_eq!(it.rows(), before);
    assert_eq!(it.store.history(EventFilter::All, 9).unwrap(), []);
}

#[test]
fn nothing_is_applied_when_the_rows_are_not_those_that_were_seen() {
    let meanwhile: [fn(&mut Setting); 4] = [
        |it| assert_ne!(it.placeholder(), KeyRefId(0)),
        |it| it.store.delete_provider(it.other.uuid).unwrap(),
        |it| it.store.announce(it.vm, &announcement(NOW)).unwrap(),
        |it| it.store.mark_started(it.vm, NOW).unwrap(),
    ];
    for happens in meanwhile {
        let mut it = setting();
        let key_ref = it.keyed();
        let seen = it.store.references(it.vm, NOW).unwrap();
        happens(&mut it);
        let refused = it
            .store
            .apply(&change(it.vm, &seen, &[Repair::RetireKey { key_ref }]));
        assert!(matches!(refused, Err(StoreError::Changed)));
        assert_eq!(it.rows()[0].id, key_ref);
    }
}

#[test]
fn no_repair_reaches_another_domains_row() {
    let mut it = setting();
    let key_ref = it.keyed();
    let refused = apply(
        &mut it.store,
        domain(2),
        &[Repair::RetireKey { key_ref }],
        None,
    );
    assert!(matches!(refused, Err(StoreError::Changed)));
    assert_eq!(it.rows().len(), 1);
}

#[test]
fn a_full_disk_changes_nothing_and_is_named() {
    let mut it = setting();
    let pages = number(&it.store, "PRAGMA page_count");
    it.store
        .connection
        .pragma_update(None, "max_page_count", pages)
        .unwrap();
    let big = super::super::Event {
        message: "x".repeat(100_000),
        ..event(it.vm, "vm1", NOW)
    };
    let placeholder = it.placeholder();
    let seen = it.store.references(it.vm, NOW).unwrap();
    let repairs = [Repair::DeletePlaceholder {
        key_ref: placeholder,
    }];
    let refused = it.store.apply(&Change {
        event: Some(&big),
        ..change(it.vm, &seen, &repairs)
    });
    let words = refused.unwrap_err().to_string();
    assert!(words.contains("full"), "{words}");
    assert_eq!(it.rows().len(), 1);
}

#[test]
fn many_at_once_on_one_domain_and_on_many_lose_nothing() {
    const THREADS: u8 = 8;
    const ROUNDS: usize = 10;
    let it = setting();
    std::thread::scope(|scope| {
        for i in 0..THREADS {
            let (dir, provider, shared) = (it.dir.path(), &it.provider, it.vm);
            scope.spawn(move || {
                let own = domain(100 + i);
                for _ in 0..ROUNDS {
                    let mut store = open(dir, Access::Write).unwrap();
                    make_key(&mut store, own, provider);
                    // On the shared domain others are faster now and then: read again.
                    let bind = [Repair::BindProvider {
                        key_ref: None,
                        provider: provider.uuid,
                        provider_name: provider.name.clone(),
                    }];
                    while let Err(error) = apply(&mut store, shared, &bind, None) {
                        assert!(matches!(error, StoreError::Changed), "{error}");
                    }
                }
            });
        }
    });
    assert_eq!(it.rows().len(), usize::from(THREADS) * ROUNDS);
    for i in 0..THREADS {
        let own = it.store.references(domain(100 + i), NOW).unwrap();
        assert_eq!(own.key_refs.len(), ROUNDS);
    }
    assert_eq!(it.store.check().unwrap(), []);
}
