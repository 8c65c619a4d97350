//! A change is applied whole or not at all, and only to the rows that were seen.

use super::super::testing::*;
use super::super::{Access, Change, EventFilter, StoreError};
use super::applying::{Setting, setting};
use crate::ids::KeyRefId;
use crate::verdict::repair::Repair;

#[test]
fn a_failing_repair_rolls_back_the_earlier_ones_and_the_event() {
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
fn nothing_is_applied_if_the_rows_are_not_those_that_were_seen() {
    let meanwhile: [fn(&mut Setting); 4] = [
        |it| assert_ne!(it.placeholder(), KeyRefId(0)),
        |it| it.store.delete_whoever_needs_it(it.other.uuid).unwrap(),
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
fn no_repair_changes_another_guests_row() {
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
fn a_full_disk_changes_nothing_and_is_reported() {
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
