//! Any bytes as a domain XML: no panic, and the same answer whatever the size of the reads.

use std::io::BufReader;

use vtpm_guard::internals::domain;

/// Tries these bytes.
pub fn check(document: &[u8]) {
    let whole = domain::read(document).map_err(|error| error.to_string());
    let capacity = 1 + document.len() % 7;
    let in_pieces = domain::read(BufReader::with_capacity(capacity, document));
    let in_pieces = in_pieces.map_err(|error| error.to_string());
    // A DOCTYPE is refused, and so is what begins like one; where it ends the parser may see differently: of two faults either
    // is named.
    let may_be_doctype = document
        .windows(3)
        .any(|it| it.eq_ignore_ascii_case(b"<!d"));
    assert!(
        whole == in_pieces || may_be_doctype && whole.is_err() && in_pieces.is_err(),
        "{whole:?}, in pieces {in_pieces:?}"
    );
    if let Ok(domain) = whole {
        // libvirt takes blanks, and a line break inside; one at an end comes from laying out the document.
        let name = &domain.name;
        assert!(!name.is_empty() && (!name.contains('\n') || name.trim_ascii() == name));
    }
}
