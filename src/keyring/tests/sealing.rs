//! How keys are sealed and unsealed, with the host's systemd-creds and with a fake one.

use std::fs;
use std::time::Instant;

use super::*;
use crate::host::process;
use crate::host::process::tests::write_program;
use crate::keyring::host_key::HostKey;
use crate::keyring::shared;

/// A fake systemd-creds: `has_tpm2`, `encrypt` and `decrypt` are lines of a shell script; sealed
/// text is a line with the seal, then the key.
fn fake(home: &tempfile::TempDir, has_tpm2: &str, encrypt: &str, decrypt: &str) -> Keyring {
    let program = home.path().join("systemd-creds");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nhas-tpm2) {has_tpm2} ;;\nencrypt) {encrypt}\n echo \"$2\"; cat ;;\n\
         decrypt) {decrypt}\n tail -n +2 ;;\nesac\n"
    );
    write_program(&program, &script);
    Keyring::with_sealer(home.path().join("keys"), Sealer::at(program))
}

#[test]
fn the_host_seals_where_it_can() {
    let home = tempfile::tempdir().unwrap();
    let keyring = Keyring::at(home.path().join("keys"));
    // 0 and line feeds: any bytes pass the pipes unchanged.
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
        assert_eq!((stored.seal, stored.weaker_because), (seal, None));
        assert_eq!(
            keyring.open(key_id, in_time()).unwrap().expose(),
            kek.expose()
        );
    }
}

/// systemd deletes the host's key then, and with it every key that it has sealed.
#[test]
fn with_the_key_of_another_machine_systemd_is_not_asked() {
    let home = tempfile::tempdir().unwrap();
    let mut keyring = fake(&home, "exit 1", "", "");
    let files = HostKey {
        key: home.path().join("credential.secret"),
        machine_id: home.path().join("machine-id"),
    };
    keyring.sealer = keyring.sealer.clone().on_host(files.clone());
    fs::write(&files.machine_id, "00112233445566778899aabbccddee00\n").unwrap();
    let kek = kek(1);
    keyring.store(&kek, WeakerSeal::Refused, in_time()).unwrap();
    fs::write(&files.key, [7; 4112]).unwrap();
    write_program(
        &home.path().join("systemd-creds"),
        "#!/bin/sh\n[ $1 = has-tpm2 ] && exit 1\nrm \"${0%/*}/credential.secret\"\n",
    );
    let is_refused =
        |error: &KeyringError| error.to_string().contains("is of another /etc/machine-id");
    assert!(is_refused(&failure(&keyring, kek.key_id())));
    let refused = keyring.store(&kek, WeakerSeal::Refused, in_time());
    assert!(is_refused(&refused.unwrap_err()));
    assert!(files.key.exists());
}

/// Of the host that runs this test.
#[test]
fn the_hosts_own_key_is_its_own() {
    let setup = process::run(Path::new("systemd-creds"), &["setup"], b"", 4096, in_time());
    if !setup.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this host has no systemd credentials");
        return;
    }
    let host_key = HostKey::default();
    assert!(fs::metadata(&host_key.key).is_ok_and(|key| key.len() > 16));
    assert!(!host_key.is_of_another_machine());
    let home = tempfile::tempdir().unwrap();
    let machine_id = home.path().join("machine-id");
    fs::write(&machine_id, "00112233445566778899aabbccddee00\n").unwrap();
    let moved = HostKey {
        machine_id,
        ..host_key
    };
    assert!(moved.is_of_another_machine());
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
        // It reports success, but returns another key.
        ("echo x;", Seal::RootOnlyFile, "not this key"),
    ] {
        let keyring = fake(&home, "exit 0", encrypt, "");
        let key = Kek::generate().unwrap();
        let error = keyring
            .store(&key, WeakerSeal::Refused, in_time())
            .unwrap_err();
        assert!(matches!(error, KeyringError::SealFailed { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(key_ids(&keyring), [], "{encrypt}");

        let stored = keyring.store(&key, WeakerSeal::Allowed, in_time()).unwrap();
        assert_eq!(stored.seal, seal, "{encrypt}");
        assert_eq!(
            stored.weaker_because.is_some(),
            seal != Seal::HostAndTpm2,
            "{encrypt}"
        );
        assert!(keyring.open(key.key_id(), in_time()).is_ok(), "{encrypt}");
        keyring.remove(key.key_id()).unwrap();
    }
}

#[test]
fn only_a_host_without_a_stronger_seal_uses_a_weaker_one() {
    let home = tempfile::tempdir().unwrap();
    for (has_tpm2, seal) in [
        ("exit 0", Some(Seal::HostAndTpm2)),
        ("exit 5", Some(Seal::Host)),
        (
            "printf 'partial\n+driver\n-libraries\n'; exit 16",
            Some(Seal::Host),
        ),
        // Started by a BIOS.
        (
            "printf 'partial\n-firmware\n+driver\n'; exit 1",
            Some(Seal::HostAndTpm2),
        ),
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
fn a_key_is_resealed_only_if_that_is_stronger_and_works() {
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
    // One fails, one returns another key: the old file stays.
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
    // Without its TPM the seal does not become weaker.
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
fn a_slow_seal_is_opened_once_for_all_processes_at_the_same_time() {
    let home = tempfile::tempdir().unwrap();
    let opened = home.path().join("opened");
    let slow = format!("echo >>{}; sleep 0.4;", opened.display());
    let keyring = fake(&home, "exit 0", "", &slow).sharing();
    let key = Kek::generate().unwrap();
    if shared::put(&key).is_err() {
        eprintln!("skipped: no kernel keyring here");
        return;
    }
    shared::stop(key.key_id());
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
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(fs::read_to_string(&opened).unwrap().lines().count(), 1);
    // A keyring that does not share, as in administrators' commands, opens it itself.
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
fn an_unsealing_that_hangs_ends_at_the_deadline_for_each_process() {
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
                assert!(started.elapsed() < Duration::from_secs(20));
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
    assert_eq!(key_ids(&keyring), []);
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
fn an_unsealing_that_fails_reports_why() {
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
