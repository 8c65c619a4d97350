//! `provider import`.

use std::fs;

use super::fixture::{Defined, Fixture};
use super::kill;
use super::recovery::{self, PROVIDER};
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, Signed, SuccessorClaim};
use crate::ids::{ProviderUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::keyring::WeakerSeal;
use crate::manage::fleet::kept_name;
use crate::manage::host::{HostError, default_deadline};
use crate::manage::name::BadName;
use crate::manage::provider_import::{
    ImportAction, ImportError, ImportProvider, ImportedProvider, import,
};
use crate::manage::providers::ProviderError;
use crate::recovery::file::{RecoveryError, RecoveryFile};
use crate::store::{KnownFact, NewProvider};
use crate::verdict::facts::Provider;

/// Imports the recovery file of the test vectors.
fn imported_as(
    fixture: &Fixture,
    name: Option<&str>,
    passphrase: &str,
    dry_run: bool,
) -> Result<ImportedProvider, ImportError> {
    let path = recovery::write(fixture);
    import(
        &fixture.host,
        &ImportProvider {
            path: &path,
            file: &RecoveryFile::read(&path).unwrap(),
            passphrase: &recovery::passphrase_of(passphrase),
            name,
            dry_run,
            weaker: WeakerSeal::Refused,
        },
    )
}

const PASSPHRASE: &str = "correct horse battery staple";

fn imported(fixture: &Fixture) -> Result<ImportedProvider, ImportError> {
    imported_as(fixture, None, PASSPHRASE, false)
}

fn dry_run(fixture: &Fixture) -> Result<ImportedProvider, ImportError> {
    imported_as(fixture, None, PASSPHRASE, true)
}

/// A provider that has the file's key, under this name.
fn with_its_key(fixture: &Fixture, name: &str) {
    let kek = recovery::kek();
    fixture.put_key(&kek);
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    let mut store = fixture.store();
    store.create_provider(&new, &[], Timestamp::now()).unwrap();
}

/// A guest whose key is under the file's, whose provider is gone.
fn locked_guest(fixture: &Fixture) -> Defined {
    with_its_key(fixture, PROVIDER);
    let guest = fixture.define("vm1");
    let dek = Dek::generate().unwrap();
    fixture.add_key(&guest, PROVIDER, &dek);
    fixture.encrypt_state(&guest, &dek);
    fixture.lose_key(PROVIDER);
    let provider = fixture.provider(PROVIDER).uuid;
    fixture.store().delete_whoever_needs_it(provider).unwrap();
    assert!(!fixture.would_start(&guest));
    guest
}

#[test]
fn a_provider_that_was_deleted_comes_back_and_opens_its_guests() {
    let fixture = Fixture::new();
    let guest = locked_guest(&fixture);
    let would = dry_run(&fixture).unwrap();
    assert_eq!(
        (would.action, would.opens.guests),
        (ImportAction::Create, 1)
    );
    assert!(would.stored.is_none() && !would.seal.is_sealed());
    assert!(
        fixture.store().provider(PROVIDER).is_err(),
        "nothing changed"
    );

    let done = imported(&fixture).unwrap();
    assert_eq!(
        (done.action, done.opens.key_refs),
        (ImportAction::Create, 1)
    );
    assert!(done.stored.is_some() && done.seal.is_sealed());
    let provider = fixture.provider(PROVIDER);
    assert!(provider.exported_at.is_some(), "it is in that file");
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_key_that_does_not_open_any_more_is_restored_in_its_place() {
    let fixture = Fixture::new();
    with_its_key(&fixture, PROVIDER);
    let before = fixture.provider(PROVIDER);
    fixture.lose_key(PROVIDER);
    assert_eq!(dry_run(&fixture).unwrap().action, ImportAction::OpenAgain);
    let done = imported(&fixture).unwrap();
    assert_eq!(
        (done.action, done.opens.key_refs),
        (ImportAction::OpenAgain, 0)
    );
    // Nothing but that it is in that file, which nobody had told the store.
    let after = fixture.provider(PROVIDER);
    assert!(before.exported_at.is_none() && after.exported_at.is_some());
    let exported_at = after.exported_at;
    assert_eq!(
        after,
        Provider {
            exported_at,
            ..before.clone()
        }
    );
    let keyring = fixture.host.keyring();
    assert!(keyring.open(before.key_id, default_deadline()).is_ok());
}

/// Whatever its row is called: a previous key of the provider, or one that other hosts announced.
#[test]
fn a_previous_or_announced_key_that_does_not_open_any_more_is_restored_in_its_place() {
    let key_id = recovery::kek().key_id();
    let previous = format!("{PROVIDER}/{}", key_id.short());
    let of_another = format!("other/{}", key_id.short());
    for name in [&previous, &kept_name(PROVIDER, key_id), &of_another] {
        let fixture = Fixture::new();
        with_its_key(&fixture, name);
        // The name is taken, by a later key.
        fixture.make_provider(PROVIDER);
        let uuid = fixture.provider(name).uuid;
        assert_eq!(dry_run(&fixture).unwrap().action, ImportAction::None);
        let here = imported(&fixture).unwrap_err();
        let is_called = if name == &of_another {
            matches!(&here, ImportError::KeyHasProvider(_, it) if it.name == *name)
        } else {
            matches!(&here, ImportError::AlreadyHere(it) if it == name)
        };
        assert!(is_called, "{here:?}");

        for wanted in [None, Some(name.as_str())] {
            fixture.lose_key(name);
            let would = imported_as(&fixture, wanted, PASSPHRASE, true).unwrap();
            assert_eq!((would.action, &would.name), (ImportAction::OpenAgain, name));
            let done = imported_as(&fixture, wanted, PASSPHRASE, false).unwrap();
            assert_eq!((done.action, &done.name), (ImportAction::OpenAgain, name));
            assert_eq!(fixture.provider(name).uuid, uuid);
            let keyring = fixture.host.keyring();
            assert!(keyring.open(key_id, default_deadline()).is_ok());
        }
        // Nobody asked for that name.
        let other_name = imported_as(&fixture, Some("third"), PASSPHRASE, false).unwrap_err();
        assert!(
            matches!(&other_name, ImportError::KeyHasProvider(_, it) if it.name == *name),
            "{other_name:?}"
        );
    }
}

#[test]
fn key_references_that_its_key_does_not_open_are_counted() {
    let fixture = Fixture::new();
    let guest = locked_guest(&fixture);
    let moved = Defined {
        name: "vm2".to_owned(),
        uuid: crate::ids::DomainUuid::random(),
        secret: SecretUuid::random(),
    };
    fixture.sql(&format!(
        "INSERT INTO key_ref (resource_uuid, provider_name, kek_ref, wrapped_dek)
         SELECT '{}', provider_name, kek_ref, wrapped_dek FROM key_ref",
        moved.uuid
    ));
    let done = imported(&fixture).unwrap();
    assert_eq!((done.opens.key_refs, done.does_not_open.key_refs), (1, 1));
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_provider_that_is_here_is_not_imported() {
    let fixture = Fixture::new();
    with_its_key(&fixture, PROVIDER);
    let here = imported(&fixture).unwrap_err();
    assert!(
        matches!(&here, ImportError::AlreadyHere(name) if name == PROVIDER),
        "{here:?}"
    );
    assert_eq!(dry_run(&fixture).unwrap().action, ImportAction::None);
    for dry_run in [false, true] {
        let other_name = imported_as(&fixture, Some("other"), PASSPHRASE, dry_run).unwrap_err();
        assert!(
            matches!(&other_name, ImportError::KeyHasProvider(_, it) if it.name == PROVIDER),
            "{other_name:?}"
        );
    }
}

#[test]
fn a_name_that_another_key_has_is_not_taken() {
    let fixture = Fixture::new();
    let here = fixture.provider("a").key_id;
    let refused = imported_as(&fixture, Some("a"), PASSPHRASE, false).unwrap_err();
    assert!(
        matches!(&refused, ImportError::NameHasKey { here: it, .. } if *it == here),
        "{refused:?}"
    );
    let bad = imported_as(&fixture, Some("a/b"), PASSPHRASE, false).unwrap_err();
    assert!(
        matches!(bad, ImportError::BadName(_, _, BadName::Slash)),
        "{bad:?}"
    );
    assert_eq!(fixture.sealed_keys(), 2, "no key was stored");
}

#[test]
fn a_wrong_passphrase_and_a_keyring_that_fails_change_nothing() {
    let fixture = Fixture::new();
    let wrong = imported_as(&fixture, None, "a wrong one", false).unwrap_err();
    assert!(
        matches!(wrong, ImportError::File(_, RecoveryError::WrongPassphrase)),
        "{wrong:?}"
    );
    let keys = fixture.host.state_dir().keys();
    fs::rename(&keys, keys.with_extension("aside")).unwrap();
    fs::write(&keys, "no directory").unwrap();
    let failed = imported(&fixture).unwrap_err();
    assert!(
        matches!(
            failed,
            ImportError::Provider(ProviderError::Host(HostError::Keyring(_)))
        ),
        "{failed:?}"
    );
    assert!(fixture.store().provider(PROVIDER).is_err());
}

fn is_here(fixture: &Fixture) -> bool {
    fixture.store().provider(PROVIDER).is_ok()
}

#[test]
fn a_kill_leaves_no_provider_without_its_key() {
    kill::everywhere(
        |fixture| drop(locked_guest(fixture)),
        // A kill at its end leaves nothing to import.
        |fixture| match imported(fixture) {
            Ok(_) | Err(ImportError::AlreadyHere(_)) => {}
            Err(error) => panic!("{error:?}"),
        },
        |fixture| {
            let provider = fixture.store().provider(PROVIDER);
            let keyring = fixture.host.keyring();
            assert!(provider.is_err() || keyring.seal(recovery::kek().key_id()).is_ok());
            // Nor is it one that no recovery file is known of.
            assert!(provider.is_ok_and(|it| it.exported_at.is_some()) || !is_here(fixture));
        },
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
    );
}

#[test]
fn a_key_that_follows_the_present_one_in_the_fleet_is_kept_as_the_next_one() {
    let fixture = Fixture::new();
    let present = fixture.provider("a");
    let mut store = fixture.store();
    let now = Timestamp::now();
    let host = store.join_fleet("host1", now).unwrap();
    let keyring = fixture.host.keyring();
    let kek = keyring.open(present.key_id, default_deadline()).unwrap();
    let says = SuccessorClaim {
        name: "a".to_owned(),
        old: present.key_id,
        new: recovery::kek().key_id(),
        key_version: 2,
        finished: false,
    };
    let unknown = imported_as(&fixture, Some("a"), PASSPHRASE, false).unwrap_err();
    let in_fleet =
        |error: &ImportError| matches!(error, ImportError::NameHasKey { in_fleet: true, .. });
    assert!(in_fleet(&unknown), "{unknown:?}");
    let said = KnownFact::said(Claim::Successor(Signed::new(says, &kek)), host, now);
    store.mark_sent(&[said], &[]).unwrap();
    let would = imported_as(&fixture, Some("a"), PASSPHRASE, true).unwrap();
    assert_eq!(would.action, ImportAction::NextKey);
    let done = imported_as(&fixture, Some("a"), PASSPHRASE, false).unwrap();
    assert_eq!(done.action, ImportAction::NextKey);
    assert_eq!(
        fixture.provider("a"),
        present,
        "it wraps new keys as before"
    );
    let providers = fixture.store().providers().unwrap();
    let kept = providers
        .iter()
        .find(|it| it.key_id == done.key_id)
        .unwrap();
    assert_eq!((kept.announced_as(), kept.is_default), (Some("a"), false));
    assert!(keyring.open(done.key_id, default_deadline()).is_ok());

    // Once more it is there, until it does not open any more.
    let again = imported_as(&fixture, Some("a"), PASSPHRASE, false).unwrap_err();
    assert!(
        matches!(&again, ImportError::AlreadyHere(name) if *name == kept.name),
        "{again:?}"
    );
    fixture.lose_key(&kept.name);
    let restored = imported_as(&fixture, Some("a"), PASSPHRASE, false).unwrap();
    assert_eq!(restored.action, ImportAction::OpenAgain);
    assert!(keyring.open(done.key_id, default_deadline()).is_ok());
    assert_eq!(fixture.store().providers().unwrap(), providers);
}
