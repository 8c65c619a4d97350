#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::message::{Operation, Outcome, request, response};
use crate::ttlv::{Tag, Writer};

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

/// The example of the standard (KMIP specification 1.2, 9.1.2): a structure of an enumeration and an integer.
#[test]
fn the_example_of_the_standard_is_written_and_read() {
    let written = Writer::message(Tag(0x42_0020), |writer| {
        writer.enumeration(Tag(0x42_0004), 254);
        writer.integer(Tag(0x42_0005), 255);
    });
    let expected = [
        0x42, 0x00, 0x20, 0x01, 0x00, 0x00, 0x00, 0x20, // structure, 32 bytes
        0x42, 0x00, 0x04, 0x05, 0x00, 0x00, 0x00, 0x04, // enumeration
        0x00, 0x00, 0x00, 0xfe, 0x00, 0x00, 0x00, 0x00, //
        0x42, 0x00, 0x05, 0x02, 0x00, 0x00, 0x00, 0x04, // integer
        0x00, 0x00, 0x00, 0xff, 0x00, 0x00, 0x00, 0x00,
    ];
    assert_eq!(written[..], expected);
    let fields = Fields::of(&written)
        .get(Tag(0x42_0020))
        .unwrap()
        .structure()
        .unwrap();
    assert_eq!(fields.get(Tag(0x42_0004)).unwrap().enumeration(), Ok(254));
    assert_eq!(fields.get(Tag(0x42_0005)).unwrap().integer(), Ok(255));
    let other = Malformed::Type(Tag(0x42_0005));
    assert_eq!(fields.get(Tag(0x42_0005)).unwrap().text(), Err(other));
    for end in 1..expected.len() {
        assert_eq!(
            Fields::of(&expected[..end]).get(Tag(0x42_0020)).err(),
            Some(Malformed::Cut)
        );
    }
}

#[test]
fn a_request_has_the_header_and_one_item() {
    let bytes = request(Version(1, 2), Operation::Get, |payload| {
        payload.text(tag::UNIQUE_IDENTIFIER, "7");
    });
    let message = Fields::of(&bytes)
        .get(tag::REQUEST_MESSAGE)
        .unwrap()
        .structure()
        .unwrap();
    let header = message
        .get(tag::REQUEST_HEADER)
        .unwrap()
        .structure()
        .unwrap();
    let version = header
        .get(tag::PROTOCOL_VERSION)
        .unwrap()
        .structure()
        .unwrap();
    assert_eq!(Version::read(version), Ok(Version(1, 2)));
    assert_eq!(header.get(tag::BATCH_COUNT).unwrap().integer(), Ok(1));
    let item = message.get(tag::BATCH_ITEM).unwrap().structure().unwrap();
    assert_eq!(item.get(tag::OPERATION).unwrap().enumeration(), Ok(0x0a));
}

#[test]
fn a_refusal_without_words_is_one() {
    let bytes = Writer::message(tag::RESPONSE_MESSAGE, |message| {
        message.structure(tag::BATCH_ITEM, |item| {
            item.enumeration(tag::RESULT_STATUS, 1);
        });
    });
    match response(&bytes[8..]).unwrap() {
        Outcome::Refused(refusal) => assert_eq!(refusal.message, "it gave no reason"),
        Outcome::Done(_) => panic!("it was refused"),
    }
}
