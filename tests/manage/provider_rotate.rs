//! `provider rotate`.

use super::fixture::{Defined, Fixture};
use super::kill;
use super::meanwhile::start;
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, ProviderUuid};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::keyring::{KeyringError, WeakerSeal};
use crate::manage::fleet::kept_name;
use crate::manage::fleet::rotation::RotateError;
use crate::manage::host::HostError;
use crate::manage::key_refs::retire;
use crate::manage::provider_rotate::{
    LeftRow, RotatedProvider, RotatedRow, RowResult, rotate as rotate_with,
};
use crate::manage::providers::ProviderError;
use crate::manage::slots::SlotError;
use crate::store::NewProvider;
use crate::verdict::facts::NotOpened;

fn rotate(fixture: &Fixture, provider: &str) -> Result<RotatedProvider, RotateError> {
    rotate_with(&fixture.host, provider, WeakerSeal::Refused, &mut |_| {})
}

fn rotated(fixture: &Fixture) -> RotatedProvider {
    rotate(fixture, "a").unwrap()
}

fn result(done: &RotatedProvider, row: KeyRefId) -> &RotatedRow {
    done.key_refs.iter().find(|it| it.id == row).unwrap()
}

/// Under which key each of a guest's rows is.
fn key_ids(fixture: &Fixture, guest: &Defined) -> Vec<KeyId> {
    let rows = fixture.rows(guest).into_iter();
    rows.filter_map(|row| row.key_ref.wrapped_dek?.key_id().ok())
        .collect()
}

/// Another tool writes the rows of before back, beside those of now.
pub(super) fn bring_rows_back(fixture: &Fixture, act: impl FnOnce()) {
    fixture.sql("CREATE TABLE kept AS SELECT * FROM key_ref");
    act();
    fixture.sql(
        "UPDATE kept SET id = id + 100; INSERT INTO key_ref SELECT * FROM kept; DROP TABLE kept",
    );
}

#[test]
fn every_row_is_under_the_new_key_and_the_previous_one_is_kept() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let old = fixture.provider("a");
    let retired = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    retire(&fixture.host, retired).unwrap();
    let (mut steps, host) = (Vec::new(), &fixture.host);
    let done = rotate_with(host, "a", WeakerSeal::Refused, &mut |step| steps.push(step)).unwrap();
    assert!(done.rotated && !done.is_exported && done.stored.is_some());
    assert_eq!(
        steps
            .iter()
            .map(|step| (step.index, step.of))
            .collect::<Vec<_>>(),
        [(0, 2), (1, 2)]
    );
    assert_eq!((done.rewrapped, done.not_opened), (2, 0));
    assert_eq!(
        (done.previous_key_id, done.key_version),
        (Some(old.key_id), 2)
    );
    let new = fixture.provider("a");
    assert_eq!(key_ids(&fixture, &guest), [new.key_id; 2]);
    assert!(fixture.would_start(&guest));
    let kept = &done.previous_keys[0];
    assert_eq!((kept.key_id, kept.is_exported), (old.key_id, false));
    assert!(fixture.host.keyring().seal(old.key_id).is_ok());
}

#[test]
fn a_kill_at_any_moment_leaves_guests_that_start() {
    kill::everywhere(
        |fixture| {
            fixture.guest_in_use("vm1");
            fixture.guest_in_use("vm2");
        },
        |fixture| drop(rotated(fixture)),
        |fixture| {
            for name in ["vm1", "vm2"] {
                assert!(fixture.would_start(&fixture.defined(name)));
            }
        },
        |fixture| {
            let key_id = fixture.provider("a").key_id;
            for name in ["vm1", "vm2"] {
                let guest = fixture.defined(name);
                assert!(fixture.would_start(&guest));
                assert_eq!(key_ids(fixture, &guest), [key_id]);
            }
        },
    );
}

#[test]
fn what_an_earlier_rotation_missed_is_re_wrapped_first() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    bring_rows_back(&fixture, || drop(rotated(&fixture)));
    let present = fixture.provider("a").key_id;
    let done = rotated(&fixture);
    assert!(!done.rotated && done.stored.is_none());
    assert_eq!((done.previous_key_id, done.rewrapped), (None, 1));
    let already = done.key_refs.iter().find(|row| row.id.0 < 100).unwrap();
    assert!(matches!(already.result, RowResult::Already));
    assert_eq!(key_ids(&fixture, &guest), [present; 2]);
    assert!(rotated(&fixture).rotated, "nothing is left to complete");
}

#[test]
fn rows_that_name_the_provider_or_are_under_a_previous_key_of_it_are_re_wrapped_first() {
    for (row, by_name) in [
        // Under a previous key, and bound to no provider.
        (
            "UPDATE key_ref SET provider_uuid = NULL WHERE id > 100",
            false,
        ),
        // Under the key of another provider.
        (
            "UPDATE key_ref SET provider_uuid = (SELECT uuid FROM key_provider WHERE name = 'a')",
            true,
        ),
    ] {
        let fixture = Fixture::new();
        let guest = if by_name {
            let guest = fixture.define("vm1");
            fixture.add_key(&guest, "b", &Dek::generate().unwrap());
            guest
        } else {
            let guest = fixture.guest_in_use("vm1");
            bring_rows_back(&fixture, || drop(rotated(&fixture)));
            guest
        };
        fixture.sql(row);
        let done = rotated(&fixture);
        assert_eq!((done.rotated, done.rewrapped), (false, 1), "{row}");
        let present = fixture.provider("a").key_id;
        let are_present = key_ids(&fixture, &guest).iter().all(|id| *id == present);
        assert!(are_present, "{row}");
    }
}

#[test]
fn a_kill_while_it_completes_an_earlier_rotation_loses_nothing() {
    kill::everywhere(
        |fixture| {
            fixture.guest_in_use("vm1");
            bring_rows_back(fixture, || drop(rotated(fixture)));
        },
        |fixture| drop(rotated(fixture)),
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
        |fixture| {
            let guest = fixture.defined("vm1");
            assert!(fixture.would_start(&guest));
            assert_eq!(key_ids(fixture, &guest), [fixture.provider("a").key_id; 2]);
        },
    );
}

#[test]
fn a_previous_key_that_does_not_open_does_not_stop_it() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    let old = fixture.provider("a").key_id;
    bring_rows_back(&fixture, || drop(rotated(&fixture)));
    fixture.host.keyring().remove(old).unwrap();
    let done = rotated(&fixture);
    assert!(done.rotated);
    let [unusable] = &done.unusable[..] else {
        panic!("{done:#?}");
    };
    assert_eq!(unusable.key_refs, 1);
    assert!(matches!(*unusable.error, KeyringError::Missing(id) if id == old));
    // The answer has the row that still needs that key, beside the one that was re-wrapped.
    let left = done.key_refs.iter().map(|row| row.result.word());
    assert_eq!(left.collect::<Vec<_>>(), ["rewrapped", "not-opened"]);
    assert_eq!((done.rewrapped, done.not_opened), (1, 1));
}

#[test]
fn the_answer_has_every_key_reference_of_the_provider_also_those_that_it_leaves() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let lost = fixture.make_provider("lost");
    let other = fixture.add_key(&guest, "b", &Dek::generate().unwrap());
    let [by_uuid, by_name, damaged, unreadable] = ["lost", "lost", "a", "a"]
        .map(|name| fixture.add_key(&guest, name, &Dek::generate().unwrap()));
    let provider = fixture.provider("a");
    // Rows of the provider under a key that no provider has any more, as another tool may have written them.
    fixture.sql(&format!(
        "UPDATE key_ref SET provider_uuid = '{}', provider_name = 'a' WHERE id = {by_uuid};
         UPDATE key_ref SET provider_uuid = NULL, provider_name = 'a' WHERE id = {by_name};
         DELETE FROM key_provider WHERE name = 'lost';
         UPDATE key_ref SET wrapped_dek = CAST(substr(wrapped_dek, 1, 60) ||
             zeroblob(8) || substr(wrapped_dek, 69) AS BLOB) WHERE id = {damaged};
         UPDATE key_ref SET wrapped_dek = X'FF' WHERE id = {unreadable}",
        provider.uuid
    ));
    let done = rotated(&fixture);
    for row in [by_uuid, by_name] {
        let result = &result(&done, row).result;
        let has_no_provider = matches!(
            result,
            RowResult::Left(LeftRow::NotOpened(NotOpened::NoProvider { key_id })) if *key_id == lost.key_id
        );
        assert!(has_no_provider, "{result:?}");
    }
    for row in [damaged, unreadable] {
        assert_eq!(result(&done, row).result.word(), "not-opened");
    }
    assert!(done.key_refs.iter().all(|row| row.id != other), "it is b's");
    assert_eq!((done.rewrapped, done.not_opened), (1, 4));
    assert_eq!(done.key_refs.len(), 5);
}

#[test]
fn a_row_that_does_not_open_stays_as_it_is() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let damaged = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    fixture.sql(&format!(
        "UPDATE key_ref SET wrapped_dek = CAST(substr(wrapped_dek, 1, 60) ||
             zeroblob(8) || substr(wrapped_dek, 69) AS BLOB) WHERE id = {damaged}"
    ));
    let old = fixture.provider("a").key_id;
    let done = rotated(&fixture);
    assert_eq!((done.rewrapped, done.not_opened), (1, 1));
    let row = &result(&done, damaged).result;
    assert!(
        matches!(row, RowResult::Left(LeftRow::NotOpened(_))),
        "{row:?}"
    );
    assert_eq!(key_ids(&fixture, &guest)[1], old);
    assert!(fixture.would_start(&guest));
}

#[test]
fn what_stopped_halfway_is_said_with_how_far_it_came_and_the_next_one_goes_on() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    for _ in 0..149 {
        fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    }
    let old = fixture.provider("a").key_id;
    // The second transaction of rows finds a table that is not as it was.
    let renamed = |from, to| {
        fixture.sql(&format!("ALTER TABLE key_ref RENAME COLUMN {from} TO {to}"));
    };
    let stopped = rotate_with(&fixture.host, "a", WeakerSeal::Refused, &mut |step| {
        if step.index == 120 {
            renamed("algorithm", "cipher");
        }
    });
    renamed("cipher", "algorithm");
    let error = stopped.unwrap_err();
    let RotateError::Interrupted(rotation) = error else {
        panic!("{error:?}");
    };
    let new = fixture.provider("a").key_id;
    assert_ne!(new, old);
    assert_eq!(rotation.new_key, Some(new));
    assert_eq!((rotation.done, rotation.of), (100, 150));
    let under = |key_id| fixture.store().key_refs_under(key_id).unwrap().len();
    assert_eq!((under(old), under(new)), (50, 100));

    // So is what stops while it completes that one, and what stops before it has re-wrapped anything.
    let early = Fixture::new();
    early.guest_in_use("vm1");
    let stopped = rotate_with(&early.host, "a", WeakerSeal::Refused, &mut |step| {
        if step.index == 0 {
            early.sql("ALTER TABLE key_ref RENAME COLUMN algorithm TO cipher");
        }
    });
    let error = stopped.unwrap_err();
    assert!(
        matches!(&error, RotateError::Interrupted(it) if it.done == 0 && it.new_key.is_some()),
        "{error:?}"
    );
    let stopped = rotate_with(&fixture.host, "a", WeakerSeal::Refused, &mut |step| {
        assert_eq!(step.of, 50);
        if step.index == 20 {
            renamed("algorithm", "cipher");
        }
    });
    renamed("cipher", "algorithm");
    let error = stopped.unwrap_err();
    assert!(
        matches!(error, RotateError::Slot(_)),
        "nothing was done: {error:?}"
    );
    let done = rotated(&fixture);
    assert!(!done.rotated, "it goes on with that one");
    assert_eq!((done.rewrapped, done.key_id), (50, new));
    assert_eq!((under(old), under(new)), (0, 150));
}

#[test]
fn rows_that_are_bound_before_the_provider_gets_an_announced_key_stay_under_it() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let next = fixture.make_provider("next");
    let dek = Dek::generate().unwrap();
    fixture.add_key(&guest, "next", &dek);
    fixture.encrypt_state(&guest, &dek);
    let mut store = fixture.store();
    let kept = kept_name("a", next.key_id);
    let now = Timestamp::now();
    store.rename_provider(next.uuid, &kept, now).unwrap();
    // As a promotion leaves them that was killed between two of its transactions.
    let provider = fixture.provider("a");
    fixture.sql(&format!(
        "UPDATE key_ref SET provider_uuid = '{}', provider_name = 'a'",
        provider.uuid
    ));
    let rows = fixture.rows(&guest);
    start(&fixture, &guest);
    assert_eq!(fixture.rows(&guest), rows, "a start leaves it as it is");
    let done = rotated(&fixture);
    assert!(done.rotated, "there was nothing to complete");
    assert_eq!(fixture.rows(&guest), rows);
    let left = &done.key_refs[..];
    assert!(
        matches!(left, [row] if row.result.word() == "announced"),
        "{left:?}"
    );
    assert!(fixture.would_start(&guest));
}

/// Another provider with the key of `a`.
fn make_twin(fixture: &Fixture) {
    let twin = NewProvider {
        uuid: ProviderUuid::random(),
        name: "twin".to_owned(),
        key_id: fixture.provider("a").key_id,
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    let mut store = fixture.store();
    store.create_provider(&twin, &[], Timestamp::now()).unwrap();
}

#[test]
fn a_kill_leaves_no_guest_to_another_provider_with_the_previous_key() {
    kill::everywhere(
        |fixture| {
            fixture.guest_in_use("vm1");
            make_twin(fixture);
            let other = fixture.define("vm2");
            fixture.add_key(&other, "twin", &Dek::generate().unwrap());
        },
        |fixture| drop(rotated(fixture)),
        |fixture| {
            let guest = fixture.defined("vm1");
            assert!(fixture.would_start(&guest));
            // Between the two a start would bind it to the other one.
            assert_eq!(key_ids(fixture, &guest), [fixture.provider("a").key_id]);
        },
        |fixture| {
            let (guest, other) = (fixture.defined("vm1"), fixture.defined("vm2"));
            assert_eq!(key_ids(fixture, &guest), [fixture.provider("a").key_id]);
            assert_eq!(key_ids(fixture, &other), [fixture.provider("twin").key_id]);
        },
    );
}

#[test]
fn of_two_providers_with_one_key_each_keeps_its_own_guests() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let old = fixture.provider("a").key_id;
    make_twin(&fixture);
    let other = fixture.define("vm2");
    let row = fixture.add_key(&other, "twin", &Dek::generate().unwrap());
    let done = rotated(&fixture);
    let result = &result(&done, row).result;
    assert!(
        matches!(result, RowResult::Left(LeftRow::NotOurs)),
        "{result:?}"
    );
    assert_eq!(key_ids(&fixture, &other), [old]);
    assert_eq!(done.previous_keys.len(), 0, "the twin keeps it");
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_provider_that_is_unknown_or_a_previous_key_or_has_no_key_is_refused() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let unknown = rotate(&fixture, "nobody").unwrap_err();
    assert!(
        matches!(
            unknown,
            RotateError::Slot(SlotError::Provider(ProviderError::Host(HostError::Store(
                _
            ))))
        ),
        "{unknown:?}"
    );
    let previous = rotated(&fixture).previous_keys.remove(0).provider.name;
    let rows = fixture.rows(&guest);
    let refused = rotate(&fixture, &previous).unwrap_err();
    assert!(
        matches!(&refused, RotateError::Slot(SlotError::Provider(ProviderError::PreviousKey { owner, .. })) if owner == "a"),
        "{refused:?}"
    );
    fixture.lose_key("a");
    let lost = rotate(&fixture, "a").unwrap_err();
    assert!(
        matches!(
            lost,
            RotateError::Slot(SlotError::Provider(ProviderError::Host(
                HostError::ProviderKey(_)
            )))
        ),
        "{lost:?}"
    );
    assert_eq!(fixture.rows(&guest), rows);
}
