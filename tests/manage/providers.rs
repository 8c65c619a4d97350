//! `provider create | rename | set-default | list | show | reseal`.

use std::fs;

use super::fixture::{Fixture, a_provider};
use super::kill;
use super::meanwhile::{busy, rotation};
use crate::key::kek::Kek;
use crate::keyring::{KeyringError, Resealed, Seal, WeakerSeal};
use crate::manage::fleet::kept_name;
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::name::BadName;
use crate::manage::provider_create::{CreatedProvider, create, set_default};
use crate::manage::provider_delete::delete;
use crate::manage::provider_list::{ListedProvider, SealState, list, show};
use crate::manage::provider_rename::rename;
use crate::manage::provider_reseal::{ResealedProvider, reseal, reseal_all};
use crate::manage::provider_rotate::rotate;
use crate::manage::providers::{ProviderError, ProvidersLock};
use crate::manage::slots::SlotError;
use crate::store::{Access, StoreError};

fn created(fixture: &Fixture, name: &str, default: bool) -> Result<CreatedProvider, ProviderError> {
    let created = create(&fixture.host, name, default, &[], WeakerSeal::Refused);
    created.map_err(|error| match error {
        SlotError::Provider(error) => error,
        error => panic!("no slot was asked for: {error:?}"),
    })
}

fn listed(fixture: &Fixture, name: &str) -> ListedProvider {
    let mut all = list(&fixture.host).unwrap().into_iter();
    all.find(|it| it.provider.name == name).unwrap()
}

fn is_taken<T>(result: &Result<T, ProviderError>) -> bool {
    matches!(
        result,
        Err(ProviderError::Host(HostError::Store(
            StoreError::NameTaken(_)
        )))
    )
}

/// A rotation calls the key that it keeps after the name that it has seen.
#[test]
fn a_provider_is_renamed_when_nobody_changes_its_key() {
    let fixture = Fixture::new();
    let another = ProvidersLock::acquire(&fixture.host).unwrap();
    let root = fixture.root().to_owned();
    let name = |fixture: &Fixture| fixture.host.provider("c", Access::Read).is_ok();
    let meanwhile = busy(another, move || name(&Fixture::at(&root)));
    rename(&fixture.host, "a", "c").unwrap();
    assert_eq!((meanwhile.join().unwrap(), name(&fixture)), (false, true));
}

#[test]
fn the_key_is_sealed_that_the_provider_has_when_its_turn_comes() {
    for seals in [
        |host: &Host| vec![reseal(host, "a").unwrap()],
        |host: &Host| reseal_all(host).unwrap(),
    ] {
        let fixture = Fixture::new();
        let new = Kek::generate().unwrap();
        let rotated = rotation(&fixture, &new);
        let sealed = seals(&fixture.host);
        rotated.join().unwrap();
        assert!(sealed.iter().any(|it| it.key_id == new.key_id()));
    }
}

#[test]
fn a_new_provider_has_a_key_that_opens() {
    let fixture = Fixture::new();
    let made = created(&fixture, "c", false).unwrap().provider;
    assert!(!made.is_default && made.seal.is_sealed() && made.guests == 0);
    let keyring = fixture.host.keyring();
    assert!(keyring.open(made.key_id, default_deadline()).is_ok());
    assert!(created(&fixture, "d", true).unwrap().provider.is_default);
    assert!(!listed(&fixture, "a").is_default);
}

#[test]
fn a_name_that_is_taken_or_misleads_makes_no_key() {
    let fixture = Fixture::new();
    assert!(is_taken(&created(&fixture, "a", false)));
    assert!(is_taken(&rename(&fixture.host, "b", "a")));
    let bad = created(&fixture, "a/b", false).unwrap_err();
    assert!(
        matches!(bad, ProviderError::BadName(_, BadName::Slash)),
        "{bad:?}"
    );
    let bad = rename(&fixture.host, "a", "").unwrap_err();
    assert!(
        matches!(bad, ProviderError::BadName(_, BadName::Empty)),
        "{bad:?}"
    );
    assert_eq!(fixture.sealed_keys(), 2);
}

#[test]
fn a_key_that_cannot_be_stored_makes_no_provider() {
    let fixture = Fixture::new();
    let keys = fixture.host.state_dir().keys();
    fs::rename(&keys, keys.with_extension("aside")).unwrap();
    fs::write(&keys, "no directory").unwrap();
    let failed = created(&fixture, "c", false).unwrap_err();
    assert!(
        matches!(failed, ProviderError::Host(HostError::Keyring(_))),
        "{failed:?}"
    );
    assert!(fixture.store().provider("c").is_err());
}

#[test]
fn a_kill_leaves_no_provider_without_its_key() {
    kill::everywhere(
        |_| {},
        |fixture| {
            // A kill at its end leaves one.
            let made = created(fixture, "c", false);
            assert!(made.is_ok() || is_taken(&made));
        },
        |fixture| {
            let made = fixture.store().provider("c");
            assert!(
                made.is_ok_and(|it| fixture.host.keyring().seal(it.key_id).is_ok())
                    || fixture.store().provider("c").is_err()
            );
        },
        |fixture| assert!(show(&fixture.host, "c").unwrap().trouble.is_none()),
    );
}

#[test]
fn a_renamed_provider_keeps_its_uuid_and_its_guests() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let uuid = fixture.provider("a").uuid;
    let done = rename(&fixture.host, "a", "new name").unwrap();
    assert!(done.changed && done.old_name == "a" && done.provider.uuid == uuid);
    assert!(
        !rename(&fixture.host, "new name", "new name")
            .unwrap()
            .changed
    );
    assert_eq!(listed(&fixture, "new name").guests, 1);
    assert!(fixture.would_start(&guest));
}

#[test]
fn the_provider_of_new_guests_does_not_lose_its_name_unnoticed() {
    let fixture = Fixture::new();
    fixture.configure("[policy]\nauto_bind = \"a\"");
    assert!(!rename(&fixture.host, "b", "c").unwrap().was_auto_bind);
    assert!(!rename(&fixture.host, "a", "a").unwrap().was_auto_bind);
    assert!(rename(&fixture.host, "a", "d").unwrap().was_auto_bind);
    assert!(!rename(&fixture.host, "d", "a").unwrap().was_auto_bind);
    assert!(
        !delete(&fixture.host, "c", true).unwrap().was_auto_bind
            && delete(&fixture.host, "a", true).unwrap().was_auto_bind
    );
}

#[test]
fn one_provider_is_the_default_and_no_previous_key() {
    let fixture = Fixture::new();
    assert!(set_default(&fixture.host, "b").unwrap().changed);
    assert!(!set_default(&fixture.host, "b").unwrap().changed);
    assert!(listed(&fixture, "b").is_default && !listed(&fixture, "a").is_default);
    let rotated = rotate(&fixture.host, "b", WeakerSeal::Refused, &mut |_| {}).unwrap();
    let previous = &rotated.previous_keys[0].provider.name;
    assert!(matches!(
        set_default(&fixture.host, previous),
        Err(ProviderError::PreviousKey { owner, owner_exists: true, .. }) if owner == "b"
    ));
    // Nor is one that other hosts announced for it: that has to be accepted.
    let announced = kept_name("b", fixture.provider("b").key_id);
    fixture.sql(&format!(
        "UPDATE key_provider SET name = '{announced}' WHERE name = 'b'"
    ));
    assert!(matches!(
        set_default(&fixture.host, &announced),
        Err(ProviderError::AnnouncedKey { owner, .. }) if owner == "b"
    ));
    // Another tool has removed the provider alone.
    fixture.sql(&format!(
        "DELETE FROM key_provider WHERE name = '{announced}'"
    ));
    assert!(matches!(
        set_default(&fixture.host, previous),
        Err(ProviderError::PreviousKey {
            owner_exists: false,
            ..
        })
    ));
}

#[test]
fn what_a_key_is_worth_on_this_host_is_listed() {
    let fixture = Fixture::new();
    let path = |name: &str| {
        let key_id = fixture.provider(name).key_id.to_string();
        fixture.host.state_dir().keys().join(key_id)
    };
    let sealed = SealState::Sealed(Seal::RootOnlyFile);
    assert_eq!(listed(&fixture, "a").seal, sealed);
    assert!(show(&fixture.host, "a").unwrap().trouble.is_none());
    fs::write(path("a"), "nonsense").unwrap();
    assert_eq!(listed(&fixture, "a").seal, SealState::Damaged);
    assert!(show(&fixture.host, "a").unwrap().trouble.is_some());
    fs::remove_file(path("a")).unwrap();
    std::os::unix::fs::symlink(path("b"), path("a")).unwrap();
    assert!(!listed(&fixture, "a").seal.is_sealed());
    fs::remove_file(path("a")).unwrap();
    assert_eq!(listed(&fixture, "a").seal, SealState::Missing);
    let unknown = show(&fixture.host, "nobody").unwrap_err();
    assert!(
        matches!(unknown, ProviderError::Host(HostError::Store(_))),
        "{unknown:?}"
    );
}

#[test]
fn a_host_without_a_store_has_no_providers() {
    let fixture = Fixture::new();
    fs::remove_dir_all(fixture.host.state_dir()).unwrap();
    assert_eq!(list(&fixture.host).unwrap().len(), 0);
    assert_eq!(reseal_all(&fixture.host).unwrap().len(), 0);
}

#[test]
fn a_key_is_resealed_and_one_that_fails_stops_no_other() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.lose_key("b");
    let all = reseal_all(&fixture.host).unwrap();
    let [a, b] = &all[..] else { panic!("{all:#?}") };
    assert!(a.result.is_ok());
    // A host without systemd credentials leaves it as it is.
    let is_stronger = listed(&fixture, "a").seal != SealState::Sealed(Seal::RootOnlyFile);
    assert_eq!(a.was_in_clear(), is_stronger);
    assert!(matches!(b.result, Err(KeyringError::Missing(_))));
    assert!(!b.was_in_clear());
    assert!(fixture.would_start(&guest));
    assert!(
        reseal(&fixture.host, "a")
            .unwrap()
            .result
            .is_ok_and(|done| !done.is_changed())
    );
    let failed = reseal(&fixture.host, "b").unwrap_err();
    assert!(
        matches!(failed, ProviderError::Host(HostError::Keyring(_))),
        "{failed:?}"
    );
}

#[test]
fn only_a_key_that_was_in_a_file_in_clear_and_is_no_more_was_in_clear() {
    let was_in_clear = |before, after| {
        let provider = a_provider();
        let resealed = ResealedProvider {
            provider: (&provider).into(),
            key_id: provider.key_id,
            result: Ok(Resealed { before, after }),
        };
        resealed.was_in_clear()
    };
    assert!(was_in_clear(Seal::RootOnlyFile, Seal::Host));
    assert!(!was_in_clear(Seal::RootOnlyFile, Seal::RootOnlyFile));
    assert!(!was_in_clear(Seal::Host, Seal::HostAndTpm2));
}
