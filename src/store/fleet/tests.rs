//! The notes of the outbox, and what others said, on real files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use super::super::testing::*;
use super::super::{Access, KeyChange, NewProvider, Prune, RewrappedRow, Store, StoreError};
use super::{KnownFact, Merge, RowChange, Subject};
use crate::fleet::claim::{Claim, KeyClaim, PlacementClaim, Signed, StatusClaim};
use crate::fleet::status::{KeyStatus, Stated};
use crate::fleet::{FactId, Kind};
use crate::ids::{DomainUuid, HostUuid, ProviderUuid};
use crate::key::dek::Dek;
use crate::key::kek::Kek;
use crate::key::new_key::NewKey;
use crate::key::wrap::{Generation, WrappedDek};
use crate::verdict::facts::Provider;
use crate::verdict::repair::Repair;

/// A store of a host that has joined, with nothing left to say.
fn member() -> (tempfile::TempDir, Store) {
    let (dir, mut store) = new_store();
    store.join_fleet("host1", NOW).unwrap();
    all_said(&mut store);
    (dir, store)
}

fn subjects(store: &Store) -> Vec<Subject> {
    let notes = store.outbox(0, 100).unwrap();
    notes.into_iter().map(|note| note.subject).collect()
}

fn all_said(store: &mut Store) {
    let notes: Vec<_> = store
        .outbox(0, 1000)
        .unwrap()
        .iter()
        .map(|it| it.seq)
        .collect();
    store.mark_sent(&[], &notes).unwrap();
    assert_eq!(subjects(store), []);
}

/// A provider of this KEK.
fn provider_of(store: &mut Store, kek: &Kek) -> Provider {
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: "p".to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    store.create_provider(&new, &[], NOW).unwrap();
    store.provider("p").unwrap()
}

fn key_of(store: &Store, domain: DomainUuid) -> WrappedDek {
    let rows = store.all_key_refs(Some(domain), true).unwrap();
    rows[0].key_ref.wrapped_dek.clone().unwrap()
}

#[test]
fn a_host_without_a_fleet_notes_nothing() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    store.note_placement(domain(1), "vm1", true, NOW).unwrap();
    store.announce_again(0).unwrap();
    assert_eq!(subjects(&store), []);
    assert_eq!(store.placements(domain(1)).unwrap(), []);
    let triggers = "SELECT count(*) FROM temp.sqlite_schema";
    assert_eq!(number(&store, triggers), 0);
}

#[test]
fn whoever_joins_says_what_there_is() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    make_key(&mut store, domain(1), &provider);
    let host = store.join_fleet("host1", NOW).unwrap();
    let row = Subject::Row(domain(1), key_of(&store, domain(1)));
    assert_eq!(subjects(&store), [row, Subject::Providers]);
    assert_eq!(
        store.join_fleet("other name", NOW).unwrap(),
        host,
        "it is itself"
    );
    let found = store.membership().unwrap().unwrap();
    assert_eq!((found.host, found.name.as_str()), (host, "other name"));
    store.leave_fleet().unwrap();
    assert_eq!(store.membership().unwrap(), None);
    assert_eq!(subjects(&store), []);
    assert_eq!(
        store.all_key_refs(None, true).unwrap().len(),
        1,
        "the keys stay"
    );
}

#[test]
fn every_change_of_a_key_is_noted_with_it() {
    let (_dir, mut store) = member();
    let provider = make_provider(&mut store, "p", 1);
    assert_eq!(subjects(&store), [Subject::Providers]);
    let row = make_key(&mut store, domain(1), &provider);
    let first = key_of(&store, domain(1));
    let key = |wrapped: &WrappedDek| Subject::Key(domain(1), wrapped.clone());
    assert_eq!(subjects(&store), [Subject::Providers, key(&first)]);
    all_said(&mut store);

    store.mark_started(domain(1), NOW).unwrap();
    assert_eq!(subjects(&store), [], "that is this host's alone");
    store.retire(row, NOW).unwrap();
    assert_eq!(subjects(&store), [key(&first)]);
    store.use_key(row, NOW).unwrap();
    assert_eq!(subjects(&store), [key(&first)], "one note for one subject");
    all_said(&mut store);

    let rewrapped = [RewrappedRow {
        key_ref: row,
        seen: first.clone(),
        key: new_key(9),
    }];
    let change = KeyChange {
        provider: &provider,
        key_id: key_id(9),
        key_version: 2,
        slots: &[],
        rewrapped: &[],
        now: NOW,
    };
    store.change_key(&change).unwrap();
    let rotated = store.provider("p").unwrap();
    store.rewrap(&rotated, &rewrapped, NOW).unwrap();
    let second = key_of(&store, domain(1));
    let mut noted = subjects(&store);
    noted.sort_by_key(|subject| format!("{subject:?}"));
    let mut expected = [key(&first), key(&second), Subject::Providers];
    expected.sort_by_key(|subject| format!("{subject:?}"));
    assert_eq!(noted, expected);
    all_said(&mut store);

    let seen = store.all_key_refs(Some(domain(1)), true).unwrap();
    let event = event(domain(1), "vm1", NOW);
    let prune = Prune {
        domain: domain(1),
        seen: &seen,
        event: &event,
    };
    store.prune(&[prune], i64::MAX).unwrap();
    assert_eq!(subjects(&store), [key(&second), Subject::Event(1)]);
    let Some(found) = store.event(1).unwrap() else {
        panic!("no event");
    };
    assert_eq!(found.domain_uuid, domain(1));
}

#[test]
fn what_is_not_committed_is_not_noted() {
    let (dir, mut store) = member();
    let provider = make_provider(&mut store, "p", 1);
    all_said(&mut store);
    let refused = apply(
        &mut store,
        domain(1),
        &[
            Repair::BindProvider {
                key_ref: None,
                provider: provider.uuid,
                provider_name: "p".to_owned(),
            },
            Repair::RetireKey {
                key_ref: crate::ids::KeyRefId(99),
            },
        ],
        None,
    );
    assert!(matches!(refused, Err(StoreError::Changed)));
    assert_eq!(subjects(&store), []);
    // Nor is a row without a key.
    insert_placeholder(dir.path(), domain(1), &provider);
    assert_eq!(subjects(&store), []);
}

#[test]
fn a_note_that_is_renewed_while_it_is_sent_stays() {
    let (_dir, mut store) = member();
    let provider = make_provider(&mut store, "p", 1);
    let row = make_key(&mut store, domain(1), &provider);
    let sending = store.outbox(0, 10).unwrap();
    store.retire(row, NOW).unwrap();
    let sent: Vec<_> = sending.iter().map(|note| note.seq).collect();
    store.mark_sent(&[], &sent).unwrap();
    let key = Subject::Key(domain(1), key_of(&store, domain(1)));
    assert_eq!(subjects(&store), [key]);
}

/// A guest's key under this KEK.
fn wrapped(kek: &Kek, domain: DomainUuid) -> NewKey {
    let dek = Dek::generate().unwrap();
    let wrapped = WrappedDek::wrap(kek, &dek, domain, Generation(1)).unwrap();
    NewKey::new(wrapped, kek.key_id(), 1)
}

fn known(claim: Claim, host: HostUuid) -> KnownFact {
    KnownFact {
        fact: claim.write(host, NOW),
        claim,
    }
}

#[test]
fn what_others_said_becomes_rows_and_is_not_said_again() {
    let (dir, mut store) = member();
    let kek = Kek::from_slice(&[7; Kek::LEN]).unwrap();
    let provider = provider_of(&mut store, &kek);
    all_said(&mut store);
    let other = HostUuid::random();
    let key = wrapped(&kek, domain(1));
    let id = FactId::of_key(domain(1), &key.wrapped_dek);
    let status = |revision, status| {
        let says = StatusClaim {
            key: id,
            domain: domain(1),
            revision,
            status,
            host: other,
        };
        known(Claim::Status(Signed::new(says, &kek)), other)
    };
    let key_fact = KeyClaim::new(domain(1), key.wrapped_dek.clone(), "p", Some(1)).unwrap();
    let facts = vec![
        known(Claim::Key(key_fact), other),
        status(2, KeyStatus::Live),
        status(1, KeyStatus::Retired),
    ];
    let merge = Merge {
        facts: facts.clone(),
        rows: vec![RowChange::Add {
            domain: domain(1),
            provider: provider.clone(),
            key,
            is_retired: false,
        }],
        cursor: Some("12".to_owned()),
        ..Merge::default()
    };
    store.merge(&merge, NOW).unwrap();
    assert_eq!(subjects(&store), []);
    assert_eq!(store.membership().unwrap().unwrap().cursor, "12");
    let stated = store.stated_key(id).unwrap();
    assert!(stated.is_known);
    let live = Stated {
        revision: 2,
        status: KeyStatus::Live,
    };
    assert_eq!(stated.stated, live);
    let ids: Vec<_> = facts.iter().map(|fact| fact.fact.id).collect();
    let of_kind = |kind| store.count_facts(kind).unwrap();
    assert_eq!(of_kind(Kind::Key) + of_kind(Kind::Status), 3);
    assert_eq!(
        store.facts(&ids).unwrap(),
        facts
            .into_iter()
            .map(|known| known.fact)
            .collect::<Vec<_>>()
    );

    let rows = store.all_key_refs(None, true).unwrap();
    let retire = |is_retired| Merge {
        rows: vec![RowChange::Retire {
            key_ref: rows[0].key_ref.id,
            seen: rows[0].key_ref.wrapped_dek.clone().unwrap(),
            is_retired,
        }],
        ..Merge::default()
    };
    store.merge(&retire(true), NOW).unwrap();
    assert!(!store.has_key_refs(domain(1)).unwrap());
    store.merge(&retire(false), NOW).unwrap();
    assert!(store.has_key_refs(domain(1)).unwrap());
    // A change of one's own is noted again after that.
    store.retire(rows[0].key_ref.id, NOW).unwrap();
    assert_eq!(subjects(&store).len(), 1);
    drop(store);
    assert_eq!(
        open(dir.path(), Access::Read)
            .unwrap()
            .outbox_len()
            .unwrap(),
        1
    );
}

#[test]
fn the_last_word_of_each_host_says_where_a_guest_is() {
    let (_dir, mut store) = member();
    let own = store.membership().unwrap().unwrap().host;
    let other = HostUuid::random();
    let said = |host, at, running| PlacementClaim {
        domain: domain(1),
        name: "vm1".to_owned(),
        host,
        host_name: "h".to_owned(),
        at,
        running,
    };
    let hear = |store: &mut Store, placement| {
        let merge = Merge {
            placements: vec![placement],
            ..Merge::default()
        };
        store.merge(&merge, NOW).unwrap();
    };
    hear(&mut store, said(other, 20, true));
    hear(&mut store, said(other, 10, false));
    let found = store.placements(domain(1)).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].placement.running && !found[0].is_own);
    hear(&mut store, said(other, 30, false));
    assert!(!store.placements(domain(1)).unwrap()[0].placement.running);

    store.note_placement(domain(1), "vm1", true, NOW).unwrap();
    let found = store.placements(domain(1)).unwrap();
    assert_eq!(found[0].placement.host, own);
    assert!(found[0].is_own && found[0].placement.running);
    assert_eq!(subjects(&store), [Subject::Placement(domain(1))]);
    assert_eq!(store.all_placements().unwrap(), found);
}

#[test]
fn a_merge_happens_whole_or_not_and_adds_no_key_twice() {
    let (_dir, mut store) = member();
    let kek = Kek::from_slice(&[7; Kek::LEN]).unwrap();
    let provider = provider_of(&mut store, &kek);
    let add = || RowChange::Add {
        domain: domain(1),
        provider: provider.clone(),
        key: wrapped(&kek, domain(1)),
        is_retired: false,
    };
    let first = Merge {
        rows: vec![add()],
        ..Merge::default()
    };
    store.merge(&first, NOW).unwrap();
    let rows = store.all_key_refs(None, true).unwrap();
    let again = store.merge(
        &Merge {
            rows: vec![
                add(),
                RowChange::Add {
                    domain: domain(1),
                    provider: provider.clone(),
                    key: NewKey::new(
                        rows[0].key_ref.wrapped_dek.clone().unwrap(),
                        kek.key_id(),
                        1,
                    ),
                    is_retired: false,
                },
            ],
            ..Merge::default()
        },
        NOW,
    );
    assert!(matches!(again, Err(StoreError::Changed)));
    assert_eq!(store.all_key_refs(None, true).unwrap(), rows);
}

/// Else a key that opens would be replaced by one that nobody here opens any more.
#[test]
fn what_was_decided_for_a_provider_changes_no_row_once_that_is_gone() {
    let (_dir, mut store) = member();
    let old = make_provider(&mut store, "old", 1);
    make_key(&mut store, domain(1), &old);
    let rows = store.all_key_refs(None, true).unwrap();
    let kek = Kek::from_slice(&[7; Kek::LEN]).unwrap();
    let provider = provider_of(&mut store, &kek);
    let rewrap = RowChange::Rewrap {
        provider: provider.clone(),
        row: RewrappedRow {
            key_ref: rows[0].key_ref.id,
            seen: key_of(&store, domain(1)),
            key: wrapped(&kek, domain(1)),
        },
    };
    let add = RowChange::Add {
        domain: domain(2),
        provider: provider.clone(),
        key: wrapped(&kek, domain(2)),
        is_retired: false,
    };
    let merges = [rewrap, add].map(|change| Merge {
        rows: vec![change],
        ..Merge::default()
    });
    store
        .delete_provider(provider.uuid, &BTreeSet::new())
        .unwrap();
    for merge in &merges {
        let refused = store.merge(merge, NOW);
        assert!(matches!(refused, Err(StoreError::Changed)), "{refused:?}");
    }
    assert_eq!(store.all_key_refs(None, true).unwrap(), rows);
    // Of one that has another name by now.
    let again = provider_of(&mut store, &kek);
    store.rename_provider(again.uuid, "q", NOW).unwrap();
    let add = RowChange::Add {
        domain: domain(2),
        provider: again,
        key: wrapped(&kek, domain(2)),
        is_retired: false,
    };
    let merge = Merge {
        rows: vec![add],
        ..Merge::default()
    };
    store.merge(&merge, NOW).unwrap();
    let added = store.all_key_refs(Some(domain(2)), true).unwrap();
    assert_eq!(added[0].key_ref.provider_name, "q");
}
