//! Procedures that change something of each guest let starts in between: see `src/store/tests/short_holds.rs`.

use std::time::Duration;

use super::fixture::Fixture;
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::dek::Dek;
use crate::key::wrap::Generation;
use crate::keyring::WeakerSeal;
use crate::keyring::unlock::Unlocker;
use crate::manage::host::default_deadline;
use crate::manage::provider_rotate::rotate;
use crate::manage::prune::{Rule, prune};
use crate::store::testing::most_changes;
use crate::store::{AddKey, OtherKeys};

/// More guests than a transaction may change rows.
const GUESTS: usize = 1_200;

/// How many rows one transaction may change.
const MOST: u64 = 1_000;

/// A host of a fleet that has the keys of many guests, none of which libvirt knows.
fn with_guests() -> (Fixture, Vec<KeyRefId>) {
    let fixture = Fixture::new();
    let (provider, mut store) = (fixture.provider("a"), fixture.store());
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let (dek, now) = (Dek::generate().unwrap(), Timestamp::now());
    let mut add = || {
        let domain = DomainUuid::random();
        let key = unlocker.wrap(&dek, &provider, domain, Generation(1), default_deadline());
        let added = store.add_key(&AddKey {
            domain,
            provider: provider.uuid,
            key: &key.unwrap(),
            secret_uuid: None,
            first_used_at: Some(now),
            others: OtherKeys::Refuse,
            now,
        });
        added.unwrap()
    };
    let rows = (0..GUESTS).map(|_| add()).collect();
    store.join_fleet("host1", now).unwrap();
    (fixture, rows)
}

#[test]
fn a_provider_is_rotated_while_guests_start() {
    let (fixture, rows) = with_guests();
    let mut steps = Vec::new();
    let most = most_changes(|| {
        let done = rotate(&fixture.host, "a", WeakerSeal::Refused, &mut |step| {
            steps.push((step.index, step.of));
        });
        let done = done.unwrap();
        assert!(done.rotated);
        let rotated: Vec<_> = done.key_refs.iter().map(|row| row.id).collect();
        assert_eq!((done.rewrapped, rotated), (GUESTS, rows));
    });
    assert!(most <= MOST, "{most} rows");
    let in_order: Vec<_> = (0..GUESTS).map(|index| (index, GUESTS)).collect();
    assert_eq!(steps, in_order);
    let key_id = fixture.provider("a").key_id;
    let under = fixture.store().key_refs_under(key_id).unwrap();
    assert_eq!(under.len(), GUESTS);
}

#[test]
fn guests_that_are_gone_are_pruned_while_others_start() {
    let (fixture, rows) = with_guests();
    let all = Rule {
        older_than: Some(Duration::ZERO),
        standby: true,
    };
    let most = most_changes(|| {
        let done = prune(&fixture.host, all, false).unwrap();
        assert_eq!(done.removed.key_refs, rows.len());
        assert!(done.backup.unwrap().exists());
    });
    assert!(most <= MOST, "{most} rows");
    assert!(fixture.store().all_key_refs(None, true).unwrap().is_empty());
}
