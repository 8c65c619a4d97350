//! Any bytes as a domain XML: no panic, and the same answer whatever the size of the reads.
//!
//! `cargo +nightly fuzz run domain_xml -- -max_len=65536`; the documents in
//! `tests/vectors/domain-xml` make a good first corpus.

#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use vtpm_guard::internals::domain;

fuzz_target!(|document: &[u8]| {
    let whole = domain::read(document).map_err(|error| error.to_string());
    let capacity = 1 + document.len() % 7;
    let in_pieces = domain::read(BufReader::with_capacity(capacity, document));
    assert_eq!(whole, in_pieces.map_err(|error| error.to_string()));
    if let Ok(domain) = whole {
        assert!(!domain.name.trim().is_empty() && !domain.name.contains('\n'));
    }
});
