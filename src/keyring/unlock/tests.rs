#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, ProviderUuid};
use crate::keyring::WeakerSeal;
use crate::keyring::seal::Sealer;
use crate::verdict::facts::KmsSlots;

struct Host {
    home: tempfile::TempDir,
    keyring: Keyring,
    guest: DomainUuid,
}

impl Host {
    /// A host without systemd credentials.
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let sealer = Sealer::at(PathBuf::from("/no/such/systemd-creds"));
        Self {
            keyring: Keyring::with_sealer(home.path().join("keys"), sealer),
            guest: DomainUuid::parse("8d0adf04-4b7c-4e35-9d5c-000000000001").unwrap(),
            home,
        }
    }

    fn provider(&self) -> Provider {
        let kek = Kek::generate().unwrap();
        self.keyring
            .store(&kek, WeakerSeal::Refused, soon())
            .unwrap();
        Provider {
            uuid: ProviderUuid::random(),
            name: "p".to_owned(),
            key_id: kek.key_id(),
            key_version: 3,
            is_default: true,
            exported_at: None,
            created_at: Timestamp(0),
            kms: KmsSlots::default(),
        }
    }

    fn remove_kek(&self, provider: &Provider) {
        let keys = self.home.path().join("keys");
        fs::remove_file(keys.join(provider.key_id.to_string())).unwrap();
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn row(provider: Option<&Provider>, key: NewKey) -> KeyRef {
    KeyRef {
        id: KeyRefId(1),
        secret_uuid: None,
        provider_uuid: provider.map(|provider| provider.uuid),
        provider_name: "p".to_owned(),
        key_version: Some(key.key_version),
        kek_ref: None,
        wrapped_dek: Some(key.wrapped_dek),
        first_used_at: None,
        created_at: Timestamp(0),
    }
}

#[test]
fn a_wrapped_key_opens_for_its_guest_alone() {
    let host = Host::new();
    let provider = host.provider();
    let mut unlocker = Unlocker::new(&host.keyring);
    let dek = Dek::generate().unwrap();
    let key = unlocker
        .wrap(&dek, &provider, host.guest, Generation(1), soon())
        .unwrap();
    assert_eq!((key.key_id, key.key_version), (provider.key_id, 3));

    let opened = unlocker.open(&key.wrapped_dek, host.guest, soon());
    assert!(opened.ok().unwrap().same_as(&dek));
    let other = DomainUuid::parse("8d0adf04-4b7c-4e35-9d5c-000000000002").unwrap();
    let refused = unlocker.open(&key.wrapped_dek, other, soon());
    assert!(matches!(refused, Err(NotOpened::Corrupt { .. })));
}

#[test]
fn a_kek_is_unsealed_once_even_if_its_file_goes_away() {
    let host = Host::new();
    let provider = host.provider();
    let mut unlocker = Unlocker::new(&host.keyring);
    let dek = Dek::generate().unwrap();
    let key = unlocker
        .wrap(&dek, &provider, host.guest, Generation(1), soon())
        .unwrap();
    host.remove_kek(&provider);
    assert!(
        unlocker
            .open(&key.wrapped_dek, host.guest, soon())
            .is_ok_and(|again| again.same_as(&dek))
    );
    let mut next = Unlocker::sharing(host.keyring.clone(), unlocker.unsealed.clone());
    assert!(next.open(&key.wrapped_dek, host.guest, soon()).is_ok());
    let mut fresh = Unlocker::new(&host.keyring);
    let failed = fresh.open(&key.wrapped_dek, host.guest, soon());
    assert!(matches!(failed, Err(NotOpened::NotHere { key_id }) if key_id == provider.key_id));
}

#[test]
fn a_kek_that_cannot_be_unsealed_is_tried_once() {
    let host = Host::new();
    let provider = host.provider();
    let sealed = host
        .home
        .path()
        .join("keys")
        .join(provider.key_id.to_string());
    let aside = host.home.path().join("aside");
    fs::rename(&sealed, &aside).unwrap();
    let mut unlocker = Unlocker::new(&host.keyring);
    let dek = Dek::generate().unwrap();
    let missing = |result: Result<NewKey, WrapError>| match result {
        Err(WrapError::Keyring(error)) => matches!(&*error, KeyringError::Missing(_)),
        _ => false,
    };
    assert!(missing(unlocker.wrap(
        &dek,
        &provider,
        host.guest,
        Generation(1),
        soon()
    )));
    fs::rename(&aside, &sealed).unwrap();
    assert!(missing(unlocker.wrap(
        &dek,
        &provider,
        host.guest,
        Generation(1),
        soon()
    )));
    // Nor by the unlocker of the next guest.
    let mut next = Unlocker::sharing(host.keyring.clone(), unlocker.unsealed.clone());
    assert!(missing(next.wrap(
        &dek,
        &provider,
        host.guest,
        Generation(1),
        soon()
    )));
    let mut fresh = Unlocker::new(&host.keyring);
    assert!(
        fresh
            .wrap(&dek, &provider, host.guest, Generation(1), soon())
            .is_ok()
    );
}

#[test]
fn a_row_is_opened_only_by_a_provider_that_is_in_the_store() {
    let host = Host::new();
    let (first, second) = (host.provider(), host.provider());
    let mut unlocker = Unlocker::new(&host.keyring);
    let dek = Dek::generate().unwrap();
    let key = unlocker
        .wrap(&dek, &first, host.guest, Generation(1), soon())
        .unwrap();
    let mut open = |row: KeyRef, providers: &[Provider]| {
        let rows = unlocker.open_rows([row], providers, host.guest, soon());
        rows.first().map(|opened| opened.provider.uuid)
    };
    let both = [second.clone(), first.clone()];
    assert_eq!(open(row(None, key.clone()), &both), Some(first.uuid));
    assert_eq!(
        open(row(Some(&second), key.clone()), &both),
        Some(first.uuid)
    );
    assert_eq!(open(row(Some(&first), key.clone()), &[second]), None);

    // Two providers with one KEK: the one that the row names.
    let twin = Provider {
        uuid: ProviderUuid::random(),
        ..first.clone()
    };
    let both = [first, twin.clone()];
    assert_eq!(open(row(Some(&twin), key), &both), Some(twin.uuid));
}

#[test]
fn a_placeholder_and_a_damaged_row_are_left_out() {
    let host = Host::new();
    let provider = host.provider();
    let mut unlocker = Unlocker::new(&host.keyring);
    let dek = Dek::generate().unwrap();
    let key = unlocker
        .wrap(&dek, &provider, host.guest, Generation(1), soon())
        .unwrap();
    let placeholder = KeyRef {
        wrapped_dek: None,
        ..row(Some(&provider), key.clone())
    };
    let damaged = KeyRef {
        wrapped_dek: Some(WrappedDek::from_stored(b"VGWD".to_vec())),
        ..row(Some(&provider), key.clone())
    };
    let rows = [placeholder, damaged, row(Some(&provider), key)];
    let opened = unlocker.open_rows(rows, &[provider], host.guest, soon());
    assert_eq!(opened.len(), 1);
    assert!(opened.first().is_some_and(|key| key.dek.same_as(&dek)));
}
