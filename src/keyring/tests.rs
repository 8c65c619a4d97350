#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::host::atomic;
use crate::host::process;
use crate::key::hex;

fn in_time() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn kek(byte: u8) -> Kek {
    Kek::from_slice(&[byte; Kek::LEN]).unwrap()
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
fn the_host_seals_where_it_can() {
    let home = tempfile::tempdir().unwrap();
    let keyring = Keyring::at(home.path().join("keys"));
    // 0 and line feeds: whatever bytes a key has, they pass the pipes unchanged.
    let mut bytes = Zeroizing::new([0; Kek::LEN]);
    bytes[7..9].copy_from_slice(b"\r\n");
    let another = &kek(2);
    let kek = Kek::from_slice(&*bytes).unwrap();
    let key_id = kek.key_id();

    let weaker = WeakerSeal::Allowed;
    let seal = keyring.store(&kek, weaker, in_time()).unwrap().seal;
    let setup = process::run(Path::new("systemd-creds"), &["setup"], b"", 4096, in_time());
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
        keyring
            .store(another, WeakerSeal::Refused, in_time())
            .unwrap();
        fs::copy(keyring.path(another.key_id()), keyring.path(key_id)).unwrap();
        assert!(matches!(
            failure(&keyring, key_id),
            KeyringError::UnsealFailed { .. }
        ));
        let stored = keyring.store(&kek, weaker, in_time()).unwrap();
        assert_eq!((stored.seal, stored.trouble), (seal, None));
        assert_eq!(
            keyring.open(key_id, in_time()).unwrap().expose(),
            kek.expose()
        );
    }
}

/// A stand-in for systemd-creds: `has_tpm2`, `encrypt` and `decrypt` are lines of a shell script;
/// sealed text is the key behind a line that says how it was sealed.
fn fake(home: &tempfile::TempDir, has_tpm2: &str, encrypt: &str, decrypt: &str) -> Keyring {
    let program = home.path().join("systemd-creds");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nhas-tpm2) {has_tpm2} ;;\nencrypt) {encrypt}\n echo \"$2\"; cat ;;\n\
         decrypt) {decrypt}\n tail -n +2 ;;\nesac\n"
    );
    // Not written by this process: a child of another test could hold it open for writing.
    let copy = format!("cat >{0} && chmod 755 {0}", program.display());
    let args = ["-c", &copy];
    process::run(Path::new("sh"), &args, script.as_bytes(), 100, in_time()).unwrap();
    Keyring::with_sealer(home.path().join("keys"), Sealer::at(program))
}

#[test]
fn a_sealer_that_fails_is_an_error_unless_a_weaker_seal_was_allowed() {
    let home = tempfile::tempdir().unwrap();
    let once = format!(
        "[ -e {0} ] || {{ touch {0}; echo no space left >&2; exit 1; }}",
        home.path().join("failed").display()
    );
    let fail_with_tpm2 = "case $2 in *tpm2) echo lockout >&2; exit 1; esac";
    for (encrypt, seal, why) in [
        (once.as_str(), Seal::HostAndTpm2, "no space left"),
        (fail_with_tpm2, Seal::Host, "lockout"),
        ("exit 1;", Seal::RootOnlyFile, "exit status: 1"),
        // It says that it has done it, and gives another key back.
        ("echo x;", Seal::RootOnlyFile, "not this key"),
    ] {
        let keyring = fake(&home, "exit 0", encrypt, "");
        let key = Kek::generate().unwrap();
        let error = keyring
            .store(&key, WeakerSeal::Refused, in_time())
            .unwrap_err();
        assert!(matches!(error, KeyringError::SealFailed { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(keyring.list().unwrap(), [], "{encrypt}");

        let stored = keyring.store(&key, WeakerSeal::Allowed, in_time()).unwrap();
        assert_eq!(stored.seal, seal, "{encrypt}");
        assert_eq!(
            stored.trouble.is_some(),
            seal != Seal::HostAndTpm2,
            "{encrypt}"
        );
        assert!(keyring.open(key.key_id(), in_time()).is_ok(), "{encrypt}");
        keyring.remove(key.key_id()).unwrap();
    }
}

#[test]
fn only_a_host_without_the_means_gets_a_weaker_seal_by_itself() {
    let home = tempfile::tempdir().unwrap();
    for (has_tpm2, seal) in [
        ("exit 0", Some(Seal::HostAndTpm2)),
        ("exit 5", Some(Seal::Host)),
        ("kill $$", None),
    ] {
        let keyring = fake(&home, has_tpm2, "", "");
        let key = Kek::generate().unwrap();
        let stored = keyring.store(&key, WeakerSeal::Refused, in_time());
        assert_eq!(stored.ok().map(|stored| stored.seal), seal, "{has_tpm2}");
        assert_eq!(keyring.strongest_seal(in_time()).ok(), seal);
    }
    let strongest = plain_keyring(&home).strongest_seal(in_time()).unwrap();
    assert_eq!(strongest, Seal::RootOnlyFile);
}

#[test]
fn a_key_is_sealed_again_only_where_that_is_stronger_and_works() {
    let home = tempfile::tempdir().unwrap();
    let key = Kek::generate().unwrap();
    let key_id = key.key_id();
    plain_keyring(&home)
        .store(&key, WeakerSeal::Refused, in_time())
        .unwrap();
    let file = |keyring: &Keyring| fs::read(keyring.path(key_id)).unwrap();
    let resealed = |before, after| Resealed { before, after };

    let plain = plain_keyring(&home);
    let before = file(&plain);
    assert_eq!(
        plain.reseal(key_id, in_time()).unwrap(),
        resealed(Seal::RootOnlyFile, Seal::RootOnlyFile)
    );
    // One that fails, and one that gives another key back: the old file stays.
    for encrypt in ["exit 1;", "echo x;"] {
        let broken = fake(&home, "exit 0", encrypt, "");
        assert!(broken.reseal(key_id, in_time()).is_err(), "{encrypt}");
        assert_eq!(file(&broken), before);
    }
    let host = fake(&home, "exit 1", "", "");
    assert_eq!(
        host.reseal(key_id, in_time()).unwrap(),
        resealed(Seal::RootOnlyFile, Seal::Host)
    );
    let with_tpm2 = fake(&home, "exit 0", "", "");
    assert_eq!(
        with_tpm2.reseal(key_id, in_time()).unwrap(),
        resealed(Seal::Host, Seal::HostAndTpm2)
    );
    let before = file(&with_tpm2);
    // Without its TPM it is not sealed less well.
    assert_eq!(
        fake(&home, "exit 1", "", "")
            .reseal(key_id, in_time())
            .unwrap(),
        resealed(Seal::HostAndTpm2, Seal::HostAndTpm2)
    );
    assert_eq!(file(&with_tpm2), before);
    assert_eq!(
        with_tpm2.open(key_id, in_time()).unwrap().expose(),
        key.expose()
    );
}

#[test]
fn a_slow_seal_is_opened_once_for_all_that_ask_at_the_same_time() {
    let home = tempfile::tempdir().unwrap();
    let opened = home.path().join("opened");
    let slow = format!("echo >>{}; sleep 0.4;", opened.display());
    let keyring = fake(&home, "exit 0", "", &slow).sharing();
    let key = Kek::generate().unwrap();
    if shared::put(&key).is_err() {
        eprintln!("skipped: no kernel keyring here");
        return;
    }
    shared::forget(key.key_id());
    keyring.store(&key, WeakerSeal::Refused, in_time()).unwrap();
    fs::remove_file(&opened).unwrap();

    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let (keyring, key) = (&keyring, &key);
            scope.spawn(move || {
                let again = keyring.open(key.key_id(), in_time()).unwrap();
                assert_eq!(again.expose(), key.expose());
            });
        }
    });
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(fs::read_to_string(&opened).unwrap().lines().count(), 1);
    // A keyring that does not share, as those of the administrator's commands, opens it itself.
    let alone = Keyring {
        shares: false,
        ..keyring.clone()
    };
    alone.open(key.key_id(), in_time()).unwrap();
    assert_eq!(fs::read_to_string(&opened).unwrap().lines().count(), 2);
    keyring.remove(key.key_id()).unwrap();
    assert!(shared::get(key.key_id()).is_none());
}

#[test]
fn a_seal_that_hangs_ends_by_the_deadline_for_each_that_waits() {
    let home = tempfile::tempdir().unwrap();
    let key = Kek::generate().unwrap();
    fake(&home, "exit 0", "", "")
        .store(&key, WeakerSeal::Refused, in_time())
        .unwrap();
    let keyring = fake(&home, "exit 0", "", "sleep 60;").sharing();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (keyring, key_id) = (&keyring, key.key_id());
            scope.spawn(move || {
                let started = Instant::now();
                let soon = Deadline::after(Duration::from_millis(300));
                let error = keyring.open(key_id, soon).err().unwrap();
                assert!(matches!(error, KeyringError::TimedOut), "{error}");
                assert!(started.elapsed() < Duration::from_secs(2));
            });
        }
    });
}

#[test]
fn a_sealer_that_cannot_be_run_is_an_error_and_nothing_is_stored() {
    let home = tempfile::tempdir().unwrap();
    let keyring = sealed_by("/etc/passwd", &home);
    let error = keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap_err();
    assert!(matches!(error, KeyringError::SealFailed { .. }), "{error}");
    assert_eq!(keyring.list().unwrap(), []);
}

#[test]
fn past_the_deadline_nothing_is_sealed_and_nothing_opens() {
    let home = tempfile::tempdir().unwrap();
    let keyring = sealed_by("cat", &home);
    let passed = Deadline::after(Duration::ZERO);
    assert!(matches!(
        keyring.store(&kek(1), WeakerSeal::Refused, passed),
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
    plain_keyring(&home)
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
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
fn a_key_that_is_there_and_does_not_open_is_replaced() {
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
fn what_a_killed_writer_left_does_no_harm_and_goes_away() {
    let home = tempfile::tempdir().unwrap();
    let keyring = plain_keyring(&home);
    keyring
        .store(&kek(1), WeakerSeal::Refused, in_time())
        .unwrap();
    let left = atomic::leave_abandoned(&keyring.dir);
    assert_eq!(keyring.list().unwrap(), [kek(1).key_id()]);
    keyring
        .store(&kek(2), WeakerSeal::Refused, in_time())
        .unwrap();
    assert!(!left.exists());
}

#[test]
fn many_writers_at_once_lose_nothing() {
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
fn what_belongs_to_another_user_is_not_trusted() {
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
    assert!(owned_by_65534(keyring.list().unwrap_err()));
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
