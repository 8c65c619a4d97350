//! Any bytes as a wrapped key: nothing panics, and no provider key opens what it has not wrapped.

use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::wrap::WrappedDek;

/// Tries these bytes.
pub fn check(blob: &[u8]) {
    let wrapped = WrappedDek::from_stored(blob.to_vec());
    let kek = Kek::generate().expect("random bytes");
    let guest = DomainUuid::parse("d0000000-0000-4000-8000-000000000001").expect("a UUID");
    assert!(!matches!(wrapped.unwrap(&kek, guest), Ok(Some(_))));
}
