//! `provider delete`.

use std::fs;
use std::time::Duration;

use super::fixture::Fixture;
use super::{kill, meanwhile};
use crate::clock::{Deadline, Timestamp};
use crate::ids::ProviderUuid;
use crate::key::dek::Dek;
use crate::manage::host::HostError;
use crate::manage::provider_delete::{DeleteError, delete};
use crate::manage::providers::ProviderError;
use crate::store::{Access, NewProvider, Store, StoreError};

/// Records that the provider's key is in a recovery file.
fn note_export(fixture: &Fixture, name: &str) {
    let provider = fixture.provider(name);
    let mut store = fixture.store();
    store
        .mark_exported(provider.uuid, provider.key_id, Timestamp::now())
        .unwrap();
}

#[test]
fn a_provider_that_nothing_needs_goes_with_its_key() {
    let fixture = Fixture::new();
    note_export(&fixture, "a");
    let key_id = fixture.provider("a").key_id;
    let done = delete(&fixture.host, "a", false).unwrap();
    assert!(done.key_removed && done.was_default && done.locked.is_empty());
    assert!(done.exported_at.is_some());
    assert!(fixture.host.keyring().seal(key_id).is_err());
    assert_eq!(fixture.store().providers().unwrap().len(), 1);
}

#[test]
fn a_provider_that_guests_need_goes_by_force_alone() {
    let fixture = Fixture::new();
    note_export(&fixture, "a");
    let guest = fixture.guest_in_use("vm2");
    let other = fixture.guest_in_use("vm1");
    let before = fixture.provider("a");
    let refused = delete(&fixture.host, "a", false).unwrap_err();
    let DeleteError::Needed(needed) = &refused else {
        panic!("{refused:?}");
    };
    let uuids: Vec<_> = needed.locked.iter().map(|guest| guest.uuid).collect();
    assert_eq!(uuids, [other.uuid, guest.uuid], "by name");
    assert_eq!(fixture.provider("a"), before);
    assert!(fixture.would_start(&guest));

    let done = delete(&fixture.host, "a", true).unwrap();
    assert_eq!(done.locked.len(), 2);
    assert!(!fixture.would_start(&guest));
    assert_eq!(fixture.rows(&guest).len(), 1, "its wrapped key stays");
}

#[test]
fn a_provider_that_was_never_exported_goes_by_force_alone() {
    let fixture = Fixture::new();
    let refused = delete(&fixture.host, "b", false).unwrap_err();
    assert!(
        matches!(&refused, DeleteError::NeverExported(it) if it.name == "b"),
        "{refused:?}"
    );
    assert!(delete(&fixture.host, "b", true).unwrap().key_removed);
    let unknown = delete(&fixture.host, "b", true).unwrap_err();
    assert!(
        matches!(
            unknown,
            DeleteError::Provider(ProviderError::Host(HostError::Store(
                StoreError::NoProvider(_)
            )))
        ),
        "{unknown:?}"
    );
}

#[test]
fn a_key_that_another_provider_has_too_is_kept() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let key_id = fixture.provider("a").key_id;
    let twin = NewProvider {
        uuid: ProviderUuid::random(),
        name: "twin".to_owned(),
        key_id,
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    let mut store = fixture.store();
    store.create_provider(&twin, &[], Timestamp::now()).unwrap();
    let done = delete(&fixture.host, "a", true).unwrap();
    assert!(!done.key_removed && done.locked.is_empty());
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_key_that_cannot_be_removed_is_reported_when_the_provider_is_gone() {
    let fixture = Fixture::new();
    let key_id = fixture.provider("b").key_id;
    fixture.lose_key("b");
    let path = fixture.host.state_dir().keys().join(key_id.to_string());
    fs::create_dir(path).unwrap();
    let error = delete(&fixture.host, "b", true).unwrap_err();
    assert!(
        matches!(&error, DeleteError::Provider(ProviderError::KeyLeft(it, _)) if it.name == "b"),
        "{error:?}"
    );
    assert!(fixture.store().provider("b").is_err());
}

#[test]
fn a_kill_takes_no_key_whose_provider_is_there() {
    let key_opens = |fixture: &Fixture, name: &str| {
        let provider = fixture.store().provider(name).ok();
        provider.is_none_or(|it| fixture.host.keyring().seal(it.key_id).is_ok())
    };
    kill::everywhere(
        |fixture| {
            fixture.add_key(&fixture.define("vm1"), "a", &Dek::generate().unwrap());
            note_export(fixture, "b");
        },
        // Where its row is gone, there is no such provider any more.
        |fixture| drop(delete(&fixture.host, "b", false)),
        |fixture| assert!(key_opens(fixture, "b") && key_opens(fixture, "a")),
        |fixture| {
            assert!(fixture.store().provider("b").is_err());
            assert!(key_opens(fixture, "a"));
        },
    );
}

/// Binds the guest to the provider, if the store is free.
fn bound_at_once(fixture: &Fixture) -> Result<(), StoreError> {
    let soon = Deadline::after(Duration::from_millis(200));
    let mut store = Store::open(fixture.host.state_dir(), Access::Write, soon)?;
    let provider = store.provider("a")?;
    let (guest, now) = (fixture.defined("vm1"), Timestamp::now());
    store.bind(guest.uuid, provider.uuid, now).map(drop)
}

#[test]
fn a_guest_that_gets_a_key_of_the_provider_meanwhile_is_seen_or_the_provider_stays() {
    let (mut deleted, mut stayed) = (0, 0);
    meanwhile::everywhere(
        |fixture| {
            note_export(fixture, "a");
            fixture.define("vm1");
        },
        |fixture| drop(bound_at_once(fixture)),
        |fixture| delete(&fixture.host, "a", false),
        |fixture, result| {
            let has_key = !fixture.rows(&fixture.defined("vm1")).is_empty();
            if let Ok(done) = result {
                deleted += 1;
                assert!(!has_key || !done.locked.is_empty());
            } else {
                stayed += 1;
                let key_id = fixture.provider("a").key_id;
                assert!(has_key && fixture.host.keyring().seal(key_id).is_ok());
            }
        },
    );
    assert!(deleted > 0 && stayed > 0, "{deleted}, {stayed}");
}
