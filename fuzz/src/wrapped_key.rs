//! Any bytes as a wrapped key: nothing panics, and no provider key opens what it has not wrapped, whoever the bytes say has.

use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::id::KeyId;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::wrap::{UnwrapError, WrappedDek};

/// Where the id of the provider key is in the bytes (`key::wrap`).
const KEY_ID: std::ops::Range<usize> = 6..6 + KeyId::LEN;

/// Tries these bytes.
pub fn check(blob: &[u8]) {
    let kek = kek();
    let wrapped = WrappedDek::from_stored(blob.to_vec());
    assert!(!matches!(wrapped.unwrap(&kek, guest()), Ok(Some(_))));
    assert!(!matches!(unwrapped_by_force(blob), Ok(Some(_))));
}

/// What comes of bytes that say that this provider key has wrapped them. Otherwise its id ends the attempt.
pub fn unwrapped_by_force(blob: &[u8]) -> Result<Option<()>, UnwrapError> {
    let kek = kek();
    let mut blob = blob.to_vec();
    if let Some(key_id) = blob.get_mut(KEY_ID) {
        key_id.copy_from_slice(kek.key_id().as_bytes());
    }
    let opened = WrappedDek::from_stored(blob).unwrap(&kek, guest())?;
    Ok(opened.map(drop))
}

fn kek() -> Kek {
    Kek::from_slice(&[0xa7; Kek::LEN]).expect("a key of its length")
}

fn guest() -> DomainUuid {
    DomainUuid::parse("d0000000-0000-4000-8000-000000000001").expect("a UUID")
}
