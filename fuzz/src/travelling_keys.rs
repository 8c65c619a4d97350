//! Any bytes as the `<metadata>` of a guest: no panic, the bounds hold, and what was read is written
//! so that the same is read again. A guest is never unreadable for what its metadata says of keys.

use vtpm_guard::internals::domain::{self, MAX_KEYS};

const UUID: &str = "d0000000-0000-4000-8000-000000000001";

fn document(metadata: &[u8]) -> Vec<u8> {
    let head = format!("<domain><name>vm1</name><uuid>{UUID}</uuid><metadata>");
    [head.as_bytes(), metadata, b"</metadata></domain>"].concat()
}

/// Tries these bytes.
pub fn check(metadata: &[u8]) {
    let Ok(read) = domain::read(&*document(metadata)) else {
        return;
    };
    let Some(keys) = read.travelling else {
        return;
    };
    assert!(keys.keys.len() <= MAX_KEYS);
    let again = domain::read(&*document(keys.to_xml().as_bytes()));
    let again = again
        .expect("what was written")
        .travelling
        .expect("its element");
    assert_eq!(again.domain, keys.domain);
    let blobs = |keys: &domain::TravellingKeys| -> Vec<_> {
        keys.keys
            .iter()
            .map(|key| key.wrapped_dek.clone())
            .collect()
    };
    assert_eq!(blobs(&again), blobs(&keys));
}
