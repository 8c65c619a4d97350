#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::child;
use crate::durable;
use crate::key::hex;

fn in_time() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn kek(byte: u8) -> Kek {
    Kek::from_bytes(Zeroizing::new([byte; Kek::LEN]))
}

fn digits(kek: &Kek) -> String {
    let mut digits = vec![0; 2 * Kek::LEN];
    hex::encode(kek.expose(), &mut digits);
    String::from_utf8(digits).unwrap()
}

/// A keyring that is not there yet, on a host without systemd credentials.
fn plain_keyring(home: &tempfile::TempDir) -> Keyring {
    sealed_by("/no/such/systemd-creds", home)
}

fn sealed_by(program: &str, home: &tempfile::TempDir) -> Keyring {
    Keyring::with_sealer(home.path().join("keys"), Sealer::at(PathBuf::from(program)))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The error of an opening, for a key has no `Debug`.
fn failure(keyring: &Keyring, key_id: KeyId) -> KeyringError {
    match keyring.open(key_id, in_time()) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

/// Replaces what the keyring holds of a key.
fn overwrite(keyring: &Keyring, key_id: KeyId, content: &str) {
    fs::write(keyring.path(key_id), content).unwrap();
}

#[test]
fn a_stored_key_opens_and_lies_there_privately() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    let key_id = kek(1).key_id();
    assert_eq!(
        keyring.store(&kek(1), in_time()).unwrap(),
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
fn the_host_seals_where_it_can() {
    let home = tempfile::tempdir().unwrap();
    let keyring = Keyring::at(home.path().join("keys"));
    // 0 and line feeds: whatever bytes a key has, they pass the pipes unchanged.
    let mut bytes = Zeroizing::new([0; Kek::LEN]);
    bytes[7..9].copy_from_slice(b"\r\n");
    let another = &kek(2);
    let kek = Kek::from_bytes(bytes);
    let key_id = kek.key_id();

    let seal = keyring.store(&kek, in_time()).unwrap();
    let setup = child::run(Path::new("systemd-creds"), &["setup"], b"", 4096, in_time());
    let has_host_key = setup.is_ok_and(|output| output.status.success());
    assert_eq!(seal != Seal::RootOnlyFile, has_host_key);
    assert_eq!(keyring.seal(key_id).unwrap(), seal);
    assert_eq!(
        keyring.open(key_id, in_time()).unwrap().expose(),
        kek.expose()
    );
    let file = fs::read_to_string(keyring.path(key_id)).unwrap();
    assert_eq!(file.contains(&digits(&kek)), !has_host_key);

    if has_host_key {
        let cut = &file[..file.len() - 9];
        overwrite(&keyring, key_id, cut);
        assert!(matches!(
            failure(&keyring, key_id),
            KeyringError::UnsealFailed { .. }
        ));
        // systemd's own check of the name: another key's file does not open under this one.
        keyring.store(another, in_time()).unwrap();
        fs::copy(keyring.path(another.key_id()), keyring.path(key_id)).unwrap();
        assert!(matches!(
            failure(&keyring, key_id),
            KeyringError::UnsealFailed { .. }
        ));
        assert_eq!(keyring.store(&kek, in_time()).unwrap(), seal);
        assert_eq!(
            keyring.open(key_id, in_time()).unwrap().expose(),
            kek.expose()
        );
    }
}

#[test]
fn a_sealer_that_fails_or_gives_nothing_back_is_not_used() {
    for program in ["false", "true"] {
        let home = tempfile::tempdir().unwrap();
        let keyring = sealed_by(program, &home);
        assert_eq!(
            keyring.store(&kek(1), in_time()).unwrap(),
            Seal::RootOnlyFile,
            "{program}"
        );
        assert!(
            keyring.open(kek(1).key_id(), in_time()).is_ok(),
            "{program}"
        );
    }
}

#[test]
fn a_sealer_that_cannot_be_run_is_an_error_and_nothing_is_stored() {
    let home = tempfile::tempdir().unwrap();
    let keyring = sealed_by("/etc/passwd", &home);
    let error = keyring.store(&kek(1), in_time()).unwrap_err();
    assert!(matches!(error, KeyringError::SealFailed { .. }), "{error}");
    assert_eq!(keyring.list().unwrap(), []);
}

#[test]
fn past_the_deadline_nothing_is_sealed_and_nothing_opens() {
    let home = tempfile::tempdir().unwrap();
    let keyring = sealed_by("cat", &home);
    let passed = Deadline::after(Duration::ZERO);
    assert!(matches!(
        keyring.store(&kek(1), passed),
        Err(KeyringError::TimedOut)
    ));
    let key_id = kek(1).key_id();
    overwrite(
        &keyring,
        key_id,
        "vtpm-guard-kek 1 systemd-creds host\nsealed\n",
    );
    fs::set_permissions(keyring.path(key_id), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(
        keyring.open(key_id, passed),
        Err(KeyringError::TimedOut)
    ));
}

#[test]
fn an_unsealing_that_fails_says_why() {
    let home = tempfile::tempdir().unwrap();
    let keyring = sealed_by("ls", &home);
    let key_id = kek(1).key_id();
    plain_keyring(&home).store(&kek(1), in_time()).unwrap();
    overwrite(
        &keyring,
        key_id,
        "vtpm-guard-kek 1 systemd-creds host\nsealed\n",
    );
    let error = failure(&keyring, key_id);
    assert!(matches!(error, KeyringError::UnsealFailed { .. }));
    assert!(error.to_string().contains("ls"), "{error}");
}

#[test]
fn a_key_that_is_there_and_opens_stays() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring.store(&kek(1), in_time()).unwrap();
    let path = keyring.path(kek(1).key_id());
    let before = fs::metadata(&path).unwrap();
    keyring.store(&kek(1), in_time()).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().modified().unwrap(),
        before.modified().unwrap()
    );
}

#[test]
fn a_key_that_is_there_and_does_not_open_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    let key_id = kek(1).key_id();
    keyring.store(&kek(1), in_time()).unwrap();
    overwrite(&keyring, key_id, "");
    keyring.store(&kek(1), in_time()).unwrap();
    assert!(keyring.open(key_id, in_time()).is_ok());

    fs::remove_file(keyring.path(key_id)).unwrap();
    symlink("/dev/null", keyring.path(key_id)).unwrap();
    keyring.store(&kek(1), in_time()).unwrap();
    assert!(keyring.open(key_id, in_time()).is_ok());
}

#[test]
fn what_a_killed_writer_left_does_no_harm_and_goes_away() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring.store(&kek(1), in_time()).unwrap();
    let left = durable::leave_abandoned(&keyring.dir);
    assert_eq!(keyring.list().unwrap(), [kek(1).key_id()]);
    keyring.store(&kek(2), in_time()).unwrap();
    assert!(!left.exists());
}

#[test]
fn many_writers_at_once_lose_nothing() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    std::thread::scope(|scope| {
        for byte in 0..16 {
            let keyring = &keyring;
            scope.spawn(move || keyring.store(&kek(byte), in_time()).unwrap());
        }
    });
    for byte in 0..16 {
        assert!(
            keyring.open(kek(byte).key_id(), in_time()).is_ok(),
            "{byte}"
        );
    }
    assert_eq!(keyring.list().unwrap().len(), 16);
}

#[test]
fn a_key_that_is_not_there_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    let key_id = kek(1).key_id();
    assert!(matches!(failure(&keyring, key_id), KeyringError::Missing(id) if id == key_id));
    assert_eq!(keyring.list().unwrap(), []);
    keyring.remove(key_id).unwrap();
    keyring.store(&kek(1), in_time()).unwrap();
    keyring.remove(key_id).unwrap();
    keyring.remove(key_id).unwrap();
    assert!(matches!(
        keyring.seal(key_id),
        Err(KeyringError::Missing(_))
    ));
}

#[test]
fn a_file_that_others_may_read_is_not_trusted() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring.store(&kek(1), in_time()).unwrap();
    let key_id = kek(1).key_id();
    fs::set_permissions(keyring.path(key_id), fs::Permissions::from_mode(0o640)).unwrap();
    let error = failure(&keyring, key_id);
    assert!(
        error
            .to_string()
            .ends_with("its mode is 0640, so others have access"),
        "{error}"
    );
}

#[test]
fn a_link_or_a_fifo_is_not_trusted() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring.store(&kek(1), in_time()).unwrap();
    let (key_id, path) = (kek(1).key_id(), keyring.path(kek(1).key_id()));
    let not_a_file = |error| {
        matches!(
            error,
            KeyringError::NotTrusted {
                reason: Distrust::NotAFile,
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
    keyring.store(&kek(1), in_time()).unwrap();
    fs::set_permissions(&keyring.dir, fs::Permissions::from_mode(0o770)).unwrap();
    let error = failure(&keyring, kek(1).key_id());
    assert!(matches!(
        error,
        KeyringError::NotTrusted {
            reason: Distrust::Mode(0o770),
            ..
        }
    ));
    fs::set_permissions(&keyring.dir, fs::Permissions::from_mode(0o700)).unwrap();
    let link = home.path().join("link");
    symlink(&keyring.dir, &link).unwrap();
    let through_link = Keyring::with_sealer(link, keyring.sealer.clone());
    let error = through_link.store(&kek(2), in_time()).unwrap_err();
    assert!(matches!(
        error,
        KeyringError::NotTrusted {
            reason: Distrust::NotADirectory,
            ..
        }
    ));
}

#[test]
fn what_belongs_to_another_user_is_not_trusted() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can give a file away.
    }
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring.store(&kek(1), in_time()).unwrap();
    let key_id = kek(1).key_id();
    let owned_by_65534 = |error| {
        matches!(
            error,
            KeyringError::NotTrusted {
                reason: Distrust::Owner(65_534),
                ..
            }
        )
    };
    std::os::unix::fs::chown(keyring.path(key_id), Some(65_534), None).unwrap();
    assert!(owned_by_65534(failure(&keyring, key_id)));
    std::os::unix::fs::chown(&keyring.dir, Some(65_534), None).unwrap();
    assert!(owned_by_65534(keyring.list().unwrap_err()));
}

#[test]
fn a_file_of_another_key_or_another_format_is_damaged() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring.store(&kek(1), in_time()).unwrap();
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
