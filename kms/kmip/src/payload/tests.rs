#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::super::ttlv::Writer;
use super::*;

/// Writes a payload, and gives it to a reader.
fn read<T>(
    write: impl FnOnce(&mut Writer),
    read: impl FnOnce(Fields<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let bytes = Writer::message(tag::RESPONSE_PAYLOAD, write);
    let payload = Fields::of(&bytes).get(tag::RESPONSE_PAYLOAD)?;
    read(payload.structure()?)
}

fn key_block(payload: &mut Writer, algorithm: u32, format: u32, key: &[u8]) {
    payload.structure(tag::SYMMETRIC_KEY, |symmetric| {
        symmetric.structure(tag::KEY_BLOCK, |block| {
            block.enumeration(tag::KEY_FORMAT_TYPE, format);
            block.structure(tag::KEY_VALUE, |value| value.bytes(tag::KEY_MATERIAL, key));
            block.enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, algorithm);
        });
    });
}

#[test]
fn an_aes_256_key_is_read() {
    let found = read(|payload| key_block(payload, number::AES, 1, &[7; 32]), key);
    assert_eq!(**found.unwrap().unwrap(), [7; 32]);
}

#[test]
fn another_key_is_none() {
    for (algorithm, format, length, why) in [
        (
            number::AES,
            1,
            16,
            "it is an AES key of 128 bits; 256 are needed",
        ),
        (number::AES, 2, 32, "it is no AES key in raw format"),
        (4, 1, 32, "it is no AES key in raw format"),
    ] {
        let key_bytes = vec![7; length];
        let found = read(
            |payload| key_block(payload, algorithm, format, &key_bytes),
            key,
        );
        assert_eq!(found.unwrap().unwrap_err(), why);
    }
    let found = read(|payload| payload.text(tag::UNIQUE_IDENTIFIER, "1"), key);
    assert_eq!(found.unwrap().unwrap_err(), "it is no symmetric key");
}

#[test]
fn a_nonce_of_the_server_or_a_short_tag_is_refused() {
    let sealed = |nonce: [u8; NONCE_LEN], tag_len: usize| {
        let write = move |payload: &mut Writer| {
            payload.bytes(tag::DATA, b"data");
            payload.bytes(tag::IV_COUNTER_NONCE, &nonce);
            payload.bytes(tag::AEAD_TAG, &vec![9; tag_len]);
        };
        read(write, |payload| encrypted(payload, [1; NONCE_LEN]))
    };
    assert_eq!(
        sealed([1; NONCE_LEN], TAG_LEN).unwrap(),
        [&b"data"[..], &[9; TAG_LEN]].concat()
    );
    let nonce = Malformed::Value(tag::IV_COUNTER_NONCE);
    assert_eq!(sealed([2; NONCE_LEN], TAG_LEN), Err(nonce));
    let short = Malformed::Value(tag::AEAD_TAG);
    assert_eq!(sealed([1; NONCE_LEN], TAG_LEN - 1), Err(short));
}

#[test]
fn attributes_that_are_not_known_do_not_matter() {
    let found = read(
        |payload| {
            for (name, value) in [("x-vendor", 1), (name::LENGTH, 256)] {
                payload.structure(tag::ATTRIBUTE, |attribute| {
                    attribute.text(tag::ATTRIBUTE_NAME, name);
                    attribute.integer(tag::ATTRIBUTE_VALUE, value);
                });
            }
        },
        attributes,
    );
    let length = Some(256);
    assert_eq!(
        found.unwrap(),
        Attributes {
            length,
            ..Attributes::default()
        }
    );
}
