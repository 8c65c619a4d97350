#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::key::hex;

/// Far below what a real file asks for, so that tests do not wait.
const CHEAP: Cost = Cost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};

fn kek(byte: u8) -> Kek {
    Kek::from_slice(&[byte; Kek::LEN]).unwrap()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::from_bytes(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

fn sealed(provider: &str) -> Result<RecoveryFile, RecoveryError> {
    let now = Timestamp(1_769_860_800_999);
    RecoveryFile::seal_at(
        CHEAP,
        &kek(1),
        provider,
        3,
        now,
        &passphrase("correct horse"),
    )
}

/// What came of a file, in the words of the vectors; the key in digits if it opened.
fn verdict(file: &[u8], passphrase: &Passphrase) -> String {
    let opened = RecoveryFile::parse(file).and_then(|file| file.open(passphrase));
    match opened {
        Ok(kek) => {
            let mut digits = vec![0; 2 * Kek::LEN];
            hex::encode(kek.expose(), &mut digits);
            format!("opens: {}", String::from_utf8(digits).unwrap())
        }
        Err(RecoveryError::NotARecoveryFile) => "not-a-recovery-file".to_owned(),
        Err(RecoveryError::TooNew(_)) => "too-new".to_owned(),
        Err(RecoveryError::Damaged) => "damaged".to_owned(),
        Err(RecoveryError::WrongPassphrase) => "wrong-passphrase".to_owned(),
        Err(RecoveryError::TooCostly) => "too-costly".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn an_exported_key_comes_back_with_its_passphrase_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nkp-a.recovery");
    sealed("nkp-a").unwrap().write_to(&path).unwrap();
    let file = RecoveryFile::read(&path).unwrap();
    assert_eq!(file.header().provider, "nkp-a");
    assert_eq!(file.header().key_id, kek(1).key_id());
    assert_eq!(file.header().key_version, 3);
    assert_eq!(file.header().created, Timestamp(1_769_860_800_000));
    assert_eq!(
        file.open(&passphrase("correct horse")).unwrap().expose(),
        kek(1).expose()
    );
    for wrong in ["correct horse ", "Correct horse", "x"] {
        let result = file.open(&passphrase(wrong));
        assert!(
            matches!(result, Err(RecoveryError::WrongPassphrase)),
            "{wrong}"
        );
    }
}

#[test]
fn a_new_file_costs_a_quarter_of_a_gigabyte_to_open() {
    let passphrase = passphrase("correct horse");
    let file = RecoveryFile::seal(&kek(1), "a", 1, Timestamp::now(), &passphrase).unwrap();
    assert!(file.to_string().contains("\nArgon2id: m=262144 t=3 p=1\n"));
    assert!(file.open(&passphrase).is_ok());
}

#[test]
fn two_exports_of_one_key_have_nothing_secret_in_common() {
    let (one, other) = (sealed("a").unwrap(), sealed("a").unwrap());
    assert_ne!(one.header.salt, other.header.salt);
    assert_ne!(one.header.nonce, other.header.nonce);
    assert_ne!(one.ciphertext, other.ciphertext);
}

#[test]
fn a_file_is_private_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    sealed("a").unwrap().write_to(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let before = fs::read(&path).unwrap();
    let again = sealed("a").unwrap().write_to(&path);
    assert!(matches!(again, Err(RecoveryError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn an_empty_passphrase_is_none() {
    assert!(Passphrase::from_bytes(Zeroizing::new(Vec::new())).is_none());
}

#[test]
fn a_name_that_does_not_fit_on_a_line_is_not_exported() {
    for name in ["", "two\nlines", "tab\t", &"n".repeat(256)] {
        assert!(
            matches!(sealed(name), Err(RecoveryError::UnusableName)),
            "{name}"
        );
    }
    for name in [" spaces ", "Käse: 🔑", &"n".repeat(255)] {
        let text = sealed(name).unwrap().to_string();
        let file = RecoveryFile::parse(text.as_bytes()).unwrap();
        assert_eq!(file.header().provider, name);
        assert!(file.open(&passphrase("correct horse")).is_ok(), "{name}");
    }
}

#[test]
fn every_flipped_bit_is_damage() {
    let text = sealed("nkp-a").unwrap().to_string();
    for bit in 0..text.len() * 8 {
        let mut bytes = text.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = RecoveryFile::parse(&bytes);
        assert!(
            matches!(result, Err(RecoveryError::Damaged)),
            "bit {bit}: {result:?}"
        );
    }
}

#[test]
fn every_cut_is_damage() {
    let text = sealed("nkp-a").unwrap().to_string();
    let first_line = "vtpm-guard recovery file, format ".len();
    for len in first_line..text.len() - 1 {
        let result = RecoveryFile::parse(&text.as_bytes()[..len]);
        assert!(
            matches!(result, Err(RecoveryError::Damaged)),
            "{len}: {result:?}"
        );
    }
}

#[test]
fn a_changed_header_with_a_new_checksum_does_not_open() {
    let mut file = sealed("nkp-a").unwrap();
    file.head = file.head.replace("nkp-a", "nkp-b");
    assert_eq!(
        verdict(file.to_string().as_bytes(), &passphrase("correct horse")),
        "wrong-passphrase"
    );
}

#[test]
fn a_file_that_is_far_too_long_is_none_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let text = sealed("a").unwrap().to_string() + &"\n".repeat(20_000);
    fs::write(&path, text).unwrap();
    assert!(matches!(
        RecoveryFile::read(&path),
        Err(RecoveryError::NotARecoveryFile)
    ));
}

proptest! {
    #[test]
    fn whatever_the_file_holds_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
        prop_assert!(RecoveryFile::parse(&bytes).is_err());
    }

    #[test]
    fn whatever_the_lines_say_is_answered(
        lines in prop::collection::vec("(Key: |Salt: |Argon2id: m=|Checksum: )?[ -~]{0,20}", 0..12),
    ) {
        let before = format!("vtpm-guard recovery file, format 1\n{}\n", lines.join("\n"));
        let mut digits = vec![0; 64];
        hex::encode(&<sha2::Sha256 as sha2::Digest>::digest(&before), &mut digits);
        let file = [before.as_bytes(), b"Checksum: ", &digits].concat();
        prop_assert!(matches!(RecoveryFile::parse(&file), Err(RecoveryError::Damaged)));
    }
}

/// One case of tests/vectors/recovery: these files were written by another implementation of
/// the format, from the description above.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    what: String,
    passphrase: String,
    verdict: String,
    #[serde(default)]
    kek: String,
    file: String,
}

#[test]
fn the_vectors_have_the_verdicts_that_they_state() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/recovery");
    let mut seen = 0;
    for file in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let vector: Vector = toml::from_str(&text).unwrap();
        let expected = match vector.verdict.as_str() {
            "opens" => format!("opens: {}", vector.kek),
            other => other.to_owned(),
        };
        let found = verdict(vector.file.as_bytes(), &passphrase(&vector.passphrase));
        assert_eq!(found, expected, "{}", vector.what);
        seen += 1;
    }
    assert!(seen >= 10, "{seen} vectors");
}
