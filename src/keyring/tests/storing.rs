//! How keys are stored and removed.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};

use super::*;
use crate::host::atomic;
use crate::host::crash::armed;

#[test]
fn a_stored_key_opens_and_its_file_is_private() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    let key_id = kek(1).key_id();
    assert_eq!(
        keyring
            .store(&kek(1), WeakerSeal::Refused, in_time())
            .unwrap()
            .seal,
        Seal::RootOnlyFile
    );
    assert_eq!(
        keyring.open(key_id, in_time()).unwrap().expose(),
        kek(1).expose()
    );
    assert_eq!(keyring.seal(key_id).unwrap(), Seal::RootOnlyFile);
    assert_eq!(mode(&keyring.dir), 0o700);
    assert_eq!(mode(&keyring.path(key_id)), 0o600);
    assert_eq!(
        fs::read_to_string(keyring.path(key_id)).unwrap(),
        format!("vtpm-guard-kek 1 root-only\n{}\n", digits(&kek(1)))
    );
}

#[test]
fn a_stored_key_that_opens_stays() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    let path = keyring.path(kek(1).key_id());
    let before = fs::metadata(&path).unwrap();
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().modified().unwrap(),
        before.modified().unwrap()
    );
}

#[test]
fn a_stored_key_that_does_not_open_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    let key_id = kek(1).key_id();
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    overwrite(&keyring, key_id, "");
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    assert!(keyring.open(key_id, in_time()).is_ok());

    fs::remove_file(keyring.path(key_id)).unwrap();
    symlink("/dev/null", keyring.path(key_id)).unwrap();
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    assert!(keyring.open(key_id, in_time()).is_ok());
}

#[test]
fn the_temporary_file_of_a_killed_writer_is_ignored_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    let left = atomic::leave_abandoned(&keyring.dir);
    assert_eq!(key_ids(&keyring), [kek(1).key_id()]);
    keyring
        .store(&kek(2), WeakerSeal::Refused, in_time())
        .unwrap();
    assert!(!left.exists());
}

#[test]
fn many_writers_at_once_lose_no_key() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    std::thread::scope(|scope| {
        for byte in 0..16 {
            let keyring = &keyring;
            scope.spawn(move || {
                keyring
                    .store(&kek(byte), WeakerSeal::Refused, in_time())
                    .unwrap()
            });
        }
    });
    for byte in 0..16 {
        assert!(
            keyring.open(kek(byte).key_id(), in_time()).is_ok(),
            "{byte}"
        );
    }
    assert_eq!(key_ids(&keyring).len(), 16);
}

#[test]
fn a_key_that_is_not_stored_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    let key_id = kek(1).key_id();
    assert!(matches!(failure(&keyring, key_id), KeyringError::Missing(id) if id == key_id));
    assert_eq!(key_ids(&keyring), []);
    keyring.remove(key_id).unwrap();
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    keyring.remove(key_id).unwrap();
    keyring.remove(key_id).unwrap();
    assert!(matches!(
        keyring.seal(key_id),
        Err(KeyringError::Missing(_))
    ));
}

#[test]
fn a_key_that_is_moved_to_the_disk_while_it_is_looked_for_is_found() {
    let home = tempfile::tempdir().unwrap();
    let boot_dir = home.path().join("boot");
    let keyring = plain_keyring(&home).with_boot_dir(boot_dir.clone());
    let (kek, keys) = (kek(1), home.path().join("keys"));
    keyring
        .store_only_in(KekPlace::Tmpfs, &kek, WeakerSeal::Allowed, in_time())
        .unwrap();
    let name = kek.key_id().to_string();
    armed::meanwhile(1, move || {
        fs::DirBuilder::new().mode(0o700).create(&keys).unwrap();
        fs::rename(boot_dir.join(&name), keys.join(&name)).unwrap();
    });
    assert!(keyring.open(kek.key_id(), in_time()).is_ok());
    assert!(!armed::forget(), "it was not moved");
}
