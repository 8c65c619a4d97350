//! TPM states that swtpm made, read and proven: those of tests/vectors/tpm-state, and fresh ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use vtpm_guard::domain::{Emulator, StateSource, TpmVersion};
use vtpm_guard::ids::DomainUuid;
use vtpm_guard::key::dek::Dek;
use vtpm_guard::swtpm::{StateFile, read_state};
use zeroize::Zeroizing;

#[derive(Deserialize)]
struct Vectors {
    state: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    tpm: String,
    source: String,
    kind: String,
    #[serde(default)]
    opened_by: Vec<String>,
    #[serde(default)]
    refuted_by: Vec<String>,
    #[serde(default)]
    reason: String,
    #[serde(default, rename = "made")]
    _made: String,
}

fn vectors_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tpm-state")
}

fn read(source: StateSource, version: TpmVersion) -> StateFile {
    let emulator = Emulator {
        version,
        secret_uuid: None,
        persistent_state: false,
        source: Some(source),
    };
    read_state(Path::new("/nowhere"), DomainUuid::random(), &emulator)
}

fn dek(passphrase: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(passphrase.to_vec()))
}

fn dek_of_hex(hex: &str) -> Dek {
    let digits = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
    dek(&bytes)
}

fn check(vector: &Vector) {
    let dir = vectors_dir().join(&vector.name);
    let source = match vector.source.as_str() {
        "dir" => StateSource::Dir(dir),
        "file" => StateSource::File(dir.join("state.linear")),
        other => panic!("{}: source {other}", vector.name),
    };
    let version = match vector.tpm.as_str() {
        "1.2" => TpmVersion::V1_2,
        "2.0" => TpmVersion::V2_0,
        other => panic!("{}: tpm {other}", vector.name),
    };
    match (vector.kind.as_str(), read(source, version)) {
        ("absent", StateFile::Absent) | ("plain", StateFile::Plain) => {}
        ("damaged", StateFile::Damaged(reason)) | ("unreadable", StateFile::Unreadable(reason)) => {
            assert!(!vector.reason.is_empty(), "{}", vector.name);
            assert!(reason.contains(&vector.reason), "{}: {reason}", vector.name);
        }
        ("encrypted", StateFile::Encrypted(state)) => {
            assert!(!vector.opened_by.is_empty(), "{}", vector.name);
            for hex in &vector.opened_by {
                assert!(
                    state.is_opened_by(&dek_of_hex(hex)),
                    "{}: {hex}",
                    vector.name
                );
            }
            for hex in &vector.refuted_by {
                assert!(
                    !state.is_opened_by(&dek_of_hex(hex)),
                    "{}: {hex}",
                    vector.name
                );
            }
        }
        (kind, found) => panic!("{}: {found:?}, should be {kind}", vector.name),
    }
}

#[test]
fn every_vector_is_what_its_description_says() {
    let text = fs::read_to_string(vectors_dir().join("vectors.toml")).unwrap();
    let vectors: Vectors = toml::from_str(&text).unwrap();
    vectors.state.iter().for_each(check);

    let described = vectors.state.len();
    let stored = fs::read_dir(vectors_dir())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .count();
    assert_eq!(described, stored, "a vector without description");
}

/// Makes a new state with swtpm, as libvirt does for an encrypted vTPM.
fn manufacture(tpm_state: &str, version: TpmVersion, passphrase: &Path) {
    let mut setup = Command::new("swtpm_setup");
    if version == TpmVersion::V2_0 {
        setup.arg("--tpm2");
    }
    let output = setup
        .args(["--tpm-state", tpm_state, "--not-overwrite"])
        .args(["--cipher", "aes-256-cbc", "--pwdfile"])
        .arg(passphrase)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "needs swtpm: ./dev test runs it"]
fn a_fresh_state_is_proven_by_its_passphrase_alone() {
    let passphrases: [&[u8]; 5] = [
        b"made up",
        b"line feed\n",
        b"nul\0byte",
        &[b'x'; 512],
        &[0xff; 3000],
    ];
    for version in [TpmVersion::V1_2, TpmVersion::V2_0] {
        for passphrase in passphrases {
            let dir = tempfile::tempdir().unwrap();
            let (states, store) = (dir.path().join("states"), dir.path().join("store"));
            let passphrase_file = dir.path().join("passphrase");
            fs::create_dir(&states).unwrap();
            fs::write(&passphrase_file, passphrase).unwrap();
            let store_uri = format!("file://{}", store.display());
            manufacture(states.to_str().unwrap(), version, &passphrase_file);
            manufacture(&store_uri, version, &passphrase_file);

            for source in [StateSource::Dir(states), StateSource::File(store)] {
                let StateFile::Encrypted(state) = read(source, version) else {
                    panic!("swtpm encrypts what it is given a passphrase for");
                };
                assert!(state.is_opened_by(&dek(passphrase)));
                assert!(!state.is_opened_by(&dek(&passphrase[1..])));
            }
        }
    }
}
