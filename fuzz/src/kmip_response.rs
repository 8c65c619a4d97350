//! Any bytes as the response of a KMIP server, which kms-kmip reads with a key in it: nothing panics, and what
//! is taken for a key or a wrapped key has its length.
#![allow(dead_code, reason = "what writes requests is not called here")]

#[path = "../../kms/kmip/src/blob.rs"]
mod blob;
#[path = "../../kms/kmip/src/message.rs"]
mod message;
#[path = "../../kms/kmip/src/payload.rs"]
mod payload;
#[path = "../../kms/kmip/src/ttlv.rs"]
mod ttlv;

use message::Outcome;
use ttlv::{Fields, Malformed};

/// Tries these bytes.
pub fn check(bytes: &[u8]) {
    if let Ok(blob) = blob::Blob::parse(bytes) {
        assert_eq!(blob.to_bytes(), bytes);
    }
    match message::response(bytes) {
        Ok(Outcome::Done(payload)) => read(payload, bytes.len()),
        Ok(Outcome::Refused(refusal)) => drop(refusal.not_opened()),
        Err(_) => {}
    }
}

fn read(payload: Fields<'_>, length: usize) {
    let short = |count: Result<usize, Malformed>| assert!(count.unwrap_or(0) <= length);
    short(payload::versions(payload).map(|versions| versions.len() * 8));
    short(payload::operations(payload).map(|operations| operations.len() * 8));
    short(payload::identifiers(payload).map(|found| found.concat().len()));
    short(payload::vendor(payload).map(|vendor| vendor.map_or(0, |vendor| vendor.len())));
    short(payload::decrypted(payload).map(|data| data.len()));
    short(payload::encrypted(payload, [0; blob::NONCE_LEN]).map(|sealed| sealed.len()));
    let _ = payload::attributes(payload);
    let _ = payload::key(payload);
}
