//! Whose files are trusted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::host::trusted::Reason;

#[test]
fn a_file_that_others_may_read_is_not_trusted() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    let key_id = kek(1).key_id();
    fs::set_permissions(keyring.path(key_id), fs::Permissions::from_mode(0o640)).unwrap();
    let error = failure(&keyring, key_id);
    assert!(
        error
            .to_string()
            .ends_with("others have access to it (mode 0640)"),
        "{error}"
    );
}

#[test]
fn a_link_or_a_fifo_is_not_trusted() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    let (key_id, path) = (kek(1).key_id(), keyring.path(kek(1).key_id()));
    let not_a_file = |error| {
        matches!(
            error,
            KeyringError::NotTrusted {
                reason: Reason::NotAFile,
                ..
            }
        )
    };
    fs::rename(&path, home.path().join("elsewhere")).unwrap();
    symlink(home.path().join("elsewhere"), &path).unwrap();
    assert!(not_a_file(failure(&keyring, key_id)));
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(not_a_file(failure(&keyring, key_id)));
}

#[test]
fn a_directory_that_others_may_write_or_a_link_to_one_is_not_trusted() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    fs::set_permissions(&keyring.dir, fs::Permissions::from_mode(0o770)).unwrap();
    let error = failure(&keyring, kek(1).key_id());
    assert!(matches!(
        error,
        KeyringError::NotTrusted {
            reason: Reason::Writable(0o770),
            ..
        }
    ));
    fs::set_permissions(&keyring.dir, fs::Permissions::from_mode(0o700)).unwrap();
    let link = home.path().join("link");
    symlink(&keyring.dir, &link).unwrap();
    let through_link = Keyring::with_sealer(link, keyring.sealer.clone());
    let error = through_link
        .store(&kek(2), WeakerSeal::Refused, in_time())
        .unwrap_err();
    assert!(matches!(
        error,
        KeyringError::NotTrusted {
            reason: Reason::NotADirectory,
            ..
        }
    ));
}

#[test]
fn a_file_or_directory_of_another_user_is_not_trusted() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can give a file away.
    }
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    let key_id = kek(1).key_id();
    let owned_by_65534 = |error| {
        matches!(
            error,
            KeyringError::NotTrusted {
                reason: Reason::Owner(65_534),
                ..
            }
        )
    };
    std::os::unix::fs::chown(keyring.path(key_id), Some(65_534), None).unwrap();
    assert!(owned_by_65534(failure(&keyring, key_id)));
    std::os::unix::fs::chown(&keyring.dir, Some(65_534), None).unwrap();
    assert!(owned_by_65534(failure(&keyring, key_id)));
}

#[test]
fn a_file_of_another_key_or_another_format_is_damaged() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    let (key_id, own) = (kek(1).key_id(), digits(&kek(1)));
    let other = digits(&kek(2));
    for content in [
        String::new(),
        format!("vtpm-guard-kek 1 root-only\n{other}\n"),
        format!("vtpm-guard-kek 1 root-only\n{}\n", &own[1..]),
        format!("vtpm-guard-kek 2 root-only\n{own}\n"),
        format!("vtpm-guard-kek 1 root-only {own}\n"),
        format!("vtpm-guard-kek 1 root-only\n{own}{}\n", " ".repeat(20_000)),
    ] {
        overwrite(&keyring, key_id, &content);
        let error = failure(&keyring, key_id);
        assert!(
            matches!(error, KeyringError::Damaged { .. }),
            "{content:.40}: {error}"
        );
        assert!(!error.to_string().contains(&own[1..]), "no key in an error");
    }
}
