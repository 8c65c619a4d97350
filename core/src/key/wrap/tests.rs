#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::key::hex;

fn kek(byte: u8) -> Kek {
    Kek::from_slice(&[byte; Kek::LEN]).unwrap()
}

fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(bytes.to_vec()))
}

const GENERATION: Generation = Generation(3);

fn domain(last: u8) -> DomainUuid {
    DomainUuid::parse(&format!("8f2c1d5e-0000-4000-8000-0000000000{last:02x}")).unwrap()
}

/// What came of an unwrapping, comparable.
fn outcome(result: Result<Option<Dek>, UnwrapError>) -> Result<Option<Vec<u8>>, UnwrapError> {
    result.map(|dek| dek.map(|dek| dek.expose().to_vec()))
}

#[test]
fn a_key_opens_for_its_domain_and_no_other() {
    let wrapped = WrappedDek::wrap(&kek(1), &dek(b"a key"), domain(1), GENERATION).unwrap();
    assert_eq!(wrapped.generation(), Ok(GENERATION));
    assert_eq!(wrapped.key_id(), Ok(kek(1).key_id()));
    assert_eq!(
        outcome(wrapped.unwrap(&kek(1), domain(1))),
        Ok(Some(b"a key".to_vec()))
    );
    assert_eq!(
        outcome(wrapped.unwrap(&kek(1), domain(2))),
        Err(UnwrapError::NotAuthentic)
    );
}

#[test]
fn another_kek_says_not_mine() {
    let wrapped = WrappedDek::wrap(&kek(1), &dek(b"a key"), domain(1), GENERATION).unwrap();
    assert_eq!(outcome(wrapped.unwrap(&kek(2), domain(1))), Ok(None));
}

#[test]
fn the_same_key_is_never_wrapped_the_same_way_twice() {
    let wrap = || WrappedDek::wrap(&kek(1), &dek(b"a key"), domain(1), GENERATION).unwrap();
    assert_ne!(wrap(), wrap());
}

#[test]
fn only_lengths_that_libvirt_takes_are_wrapped() {
    let wrap =
        |len| WrappedDek::wrap(&kek(1), &dek(&vec![7; len]), domain(1), GENERATION).map(|_| ());
    assert_eq!(wrap(0), Err(WrapError::Length(0)));
    assert_eq!(wrap(1), Ok(()));
    assert_eq!(wrap(Dek::MAX_LEN), Ok(()));
    assert_eq!(
        wrap(Dek::MAX_LEN + 1),
        Err(WrapError::Length(Dek::MAX_LEN + 1))
    );
}

#[test]
fn a_format_of_a_later_release_is_not_taken_for_damage() {
    let wrapped = WrappedDek::wrap(&kek(1), &dek(b"a key"), domain(1), GENERATION).unwrap();
    for (at, value) in [(4, 3), (4, u8::MAX), (5, 2), (5, u8::MAX)] {
        let mut bytes = wrapped.0.clone();
        bytes[at] = value;
        let later = WrappedDek(bytes);
        assert_eq!(later.key_id(), Err(UnwrapError::TooNew));
        let outcome = outcome(later.unwrap(&kek(1), domain(1)));
        assert_eq!(outcome, Err(UnwrapError::TooNew));
        // Whatever follows, of a format that is not known.
        let cut = WrappedDek(later.0[..6].to_vec());
        assert_eq!(cut.generation(), Err(UnwrapError::TooNew));
    }
    for (at, value) in [(3, b'X'), (4, 0), (5, 0)] {
        let mut bytes = wrapped.0.clone();
        bytes[at] = value;
        assert_eq!(WrappedDek(bytes).key_id(), Err(UnwrapError::UnknownFormat));
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let wrapped = WrappedDek::wrap(&kek(1), &dek(b"a key"), domain(1), GENERATION).unwrap();
    for bit in 0..wrapped.0.len() * 8 {
        let mut bytes = wrapped.0.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            // A version or an algorithm that is higher may be that of a later release.
            at @ 4..6 if bytes[at] > wrapped.0[at] => Err(UnwrapError::TooNew),
            0..6 => Err(UnwrapError::UnknownFormat),
            6..22 => Ok(None),
            _ => Err(UnwrapError::NotAuthentic),
        };
        assert_eq!(
            outcome(WrappedDek(bytes).unwrap(&kek(1), domain(1))),
            expected,
            "{bit}"
        );
    }
}

#[test]
fn no_cut_blob_opens() {
    let wrapped = WrappedDek::wrap(&kek(1), &dek(b"a key"), domain(1), GENERATION).unwrap();
    for len in 0..wrapped.0.len() {
        let cut = WrappedDek(wrapped.0[..len].to_vec());
        assert!(cut.unwrap(&kek(1), domain(1)).is_err(), "{len}");
    }
}

proptest! {
    #[test]
    fn whatever_is_wrapped_comes_back(
        key: [u8; 32], value in prop::collection::vec(any::<u8>(), 1..300), other: [u8; 16],
    ) {
        let kek = Kek::from_slice(&key).unwrap();
        let home = domain(1);
        let wrapped = WrappedDek::wrap(&kek, &dek(&value), home, GENERATION).unwrap();
        prop_assert_eq!(outcome(wrapped.unwrap(&kek, home)), Ok(Some(value)));
        let other = DomainUuid::parse(&uuid::Uuid::from_bytes(other).to_string()).unwrap();
        prop_assume!(other != home);
        prop_assert_eq!(outcome(wrapped.unwrap(&kek, other)), Err(UnwrapError::NotAuthentic));
    }

    #[test]
    fn whatever_the_store_holds_is_answered(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), format: bool, ours: bool, old: bool,
    ) {
        if format && bytes.len() >= 22 {
            let version = if old { Version::V1 } else { Version::V2 };
            bytes[..6].copy_from_slice(&version.format());
            if ours {
                bytes[6..22].copy_from_slice(kek(1).key_id().as_bytes());
            }
        }
        let stored = WrappedDek::from_stored(bytes);
        prop_assert!(!matches!(stored.unwrap(&kek(1), domain(1)), Ok(Some(_))));
    }
}

/// One case of tests/vectors/wrapped-keys: these blobs were written by another
/// implementation of the format, from the description above.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    what: String,
    kek: String,
    domain: String,
    blob: String,
    verdict: String,
    #[serde(default)]
    dek: String,
    #[serde(default)]
    salt: String,
    /// Of version 2 only.
    generation: Option<u32>,
}

fn bytes(digits: &str) -> Vec<u8> {
    let mut bytes = vec![0; digits.len() / 2];
    hex::decode(digits.as_bytes(), &mut bytes).unwrap();
    bytes
}

#[test]
fn the_vectors_have_the_verdicts_that_they_state() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/wrapped-keys");
    let (mut seen, mut seen_again) = (0, 0);
    for file in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let vector: Vector = toml::from_str(&text).unwrap();
        let what = &vector.what;
        let kek = Kek::from_slice(&bytes(&vector.kek)).unwrap();
        let domain = DomainUuid::parse(&vector.domain).unwrap();
        let blob = WrappedDek::from_stored(bytes(&vector.blob));
        let expected = match vector.verdict.as_str() {
            "opens" => Ok(Some(bytes(&vector.dek))),
            "not-mine" => Ok(None),
            "not-authentic" => Err(UnwrapError::NotAuthentic),
            "unknown-format" => Err(match blob.as_bytes() {
                // A version or an algorithm of a later release.
                [b'V', b'G', b'W', b'D', (3..), ..] | [b'V', b'G', b'W', b'D', _, (2..), ..] => {
                    UnwrapError::TooNew
                }
                _ => UnwrapError::UnknownFormat,
            }),
            other => panic!("{what}: no verdict is called {other}"),
        };
        assert_eq!(outcome(blob.unwrap(&kek, domain)), expected, "{what}");
        if vector.verdict == "opens" {
            let generation = Generation(vector.generation.unwrap_or(0));
            assert_eq!(blob.generation(), Ok(generation), "{what}");
        }
        // What is wrapped today is of version 2.
        if let Some(generation) = vector.generation.map(Generation) {
            let salt = bytes(&vector.salt).try_into().unwrap();
            let dek = dek(&bytes(&vector.dek));
            let again = wrap_with_salt(&kek, &dek, domain, generation, &salt).unwrap();
            assert_eq!(again, blob, "{what}");
            seen_again += 1;
        }
        seen += 1;
    }
    assert!(
        seen >= 20 && seen_again >= 3,
        "{seen} and {seen_again} vectors"
    );
}
