//! Any bytes as what a KMIP server sends, which kms-kmip reads with a key in it: no more is read than a response may have,
//! what is read of it is in it, and written down again it is read as the same.
#![allow(dead_code, reason = "what writes requests is not called here")]

use std::io::{Read, repeat};

#[path = "../../kms/kmip/src/blob.rs"]
pub mod blob;
#[path = "../../kms/kmip/src/message.rs"]
mod message;
#[path = "../../kms/kmip/src/payload.rs"]
mod payload;
#[path = "../../kms/kmip/src/ttlv.rs"]
mod ttlv;

use super::common::{Counted, is_in};
use message::{MAX_RESPONSE, NotReceived, Outcome, tag};
use ttlv::{Fields, HEADER_LEN, Item, Writer};

/// As deep as anything is that is asked for, and as large as what [`Writer`] writes.
const DEEPEST: usize = 8;
const LONGEST: usize = 4 << 10;

/// Tries these bytes: as a response without its header, and as a stream.
pub fn check(bytes: &[u8]) {
    if let Ok(blob) = blob::Blob::parse(bytes) {
        assert_eq!(blob.to_bytes(), bytes);
    }
    try_stream(bytes);
    if let Some((length, rest)) = bytes.split_first_chunk::<3>() {
        let head = [&tag::RESPONSE_MESSAGE.0.to_be_bytes()[1..], &[1, 0], length];
        try_stream(&[&head.concat(), rest].concat());
    }
    if bytes.len() <= LONGEST {
        try_fields(Fields::of(bytes), bytes, DEEPEST);
    }
    match message::response(bytes) {
        Ok(Outcome::Done(payload)) => read(payload, bytes),
        Ok(Outcome::Refused(refusal)) => {
            let said = refusal.message.as_bytes();
            assert!(said == b"it gave no reason" || is_in(said, bytes));
            assert_eq!(refusal.not_opened().message, refusal.message);
        }
        Err(_) => {}
    }
}

/// These bytes, and then whatever the server likes for as long as it is listened to.
fn try_stream(bytes: &[u8]) {
    let is_too_long = bytes.get(5..7).is_some_and(|high| *high > [1, 0][..]);
    let mut stream = Counted(bytes.chain(repeat(b'B')), 0);
    match message::receive(&mut stream) {
        Ok(received) => {
            assert!(received.len() <= MAX_RESPONSE && !is_too_long);
            assert_eq!(stream.1, HEADER_LEN + received.len());
            let sent = bytes.get(HEADER_LEN..).unwrap_or_default();
            let both = sent.len().min(received.len());
            assert_eq!(received[..both], sent[..both]);
        }
        Err(NotReceived::NotKmip) => assert_eq!(stream.1, HEADER_LEN),
        Err(NotReceived::Lost(error)) => panic!("{error}"),
    }
}

/// Every field that is found is in the bytes, and is found again where it is written once more.
fn try_fields(mut fields: Fields<'_>, bytes: &[u8], deeper: usize) {
    while let Ok(Some(item)) = fields.next() {
        let written = Writer::message(tag::RESPONSE_PAYLOAD, |writer| write(writer, item));
        let again = Fields::of(&written).get(tag::RESPONSE_PAYLOAD);
        let mut again = again.and_then(Item::structure).expect("a structure");
        if let Some(again) = again.next().expect("what was written") {
            assert_eq!(again.tag, item.tag);
            assert_eq!(again.integer(), item.integer());
            assert_eq!(again.enumeration(), item.enumeration());
            assert_eq!(again.text(), item.text());
            assert_eq!(again.bytes(), item.bytes());
        }
        assert!(item.bytes().is_ok_and(|value| is_in(value, bytes)) || item.bytes().is_err());
        if let Ok(inner) = item.structure()
            && deeper > 0
        {
            try_fields(inner, bytes, deeper - 1);
        }
    }
}

fn write(writer: &mut Writer, item: Item<'_>) {
    if let Ok(value) = item.bytes() {
        writer.bytes(item.tag, value);
    } else if let Ok(text) = item.text() {
        writer.text(item.tag, text);
    } else if let Ok(number) = item.integer() {
        writer.integer(item.tag, number);
    } else if let Ok(number) = item.enumeration() {
        writer.enumeration(item.tag, number);
    }
}

/// What is read of a payload.
fn read(payload: Fields<'_>, bytes: &[u8]) {
    let fit = |count: usize| assert!(count * HEADER_LEN <= bytes.len());
    if let Ok(versions) = payload::versions(payload) {
        fit(versions.len());
    }
    if let Ok(operations) = payload::operations(payload) {
        fit(operations.len());
    }
    if let Ok(found) = payload::identifiers(payload) {
        fit(found.len());
        assert!(found.iter().all(|found| is_in(found.as_bytes(), bytes)));
    }
    if let Ok(Some(vendor)) = payload::vendor(payload) {
        assert!(is_in(vendor.as_bytes(), bytes));
    }
    if let Ok(data) = payload::decrypted(payload) {
        assert!(is_in(&data, bytes));
    }
    if let Ok(sealed) = payload::encrypted(payload, [0; blob::NONCE_LEN]) {
        let (data, tag) = sealed.split_at(sealed.len() - blob::TAG_LEN);
        assert!(is_in(data, bytes) && is_in(tag, bytes));
    }
    if let Ok(Ok(key)) = payload::key(payload) {
        assert!(is_in(&key[..], bytes));
    }
    let _ = payload::attributes(payload);
}
