//! Any bytes as the domain XML of a guest with a piece that is too long: libvirt takes some MiB, and the guard leaves out the
//! middle (`domain::shorten`). It looks at documents of more than 32 KiB only, which no fuzzer makes by itself: here one byte
//! stands for a long text, and a long comment stands before all. What is left out changes nothing of what is read.

use std::borrow::Cow;
use std::io::BufReader;

use vtpm_guard::internals::domain::{self, Domain, DomainXmlError};

/// What stands for the long text: no XML has it.
const LONG: u8 = 1;

/// More than is passed on of any piece.
const LENGTH: usize = 70_000;

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let short = read(&with(data, 1), 1 << 16);
    try_long_text(data, &short);
    // What is declared must stand first.
    if data.starts_with(b"<") && data.get(1).is_some_and(u8::is_ascii_alphabetic) {
        try_behind_a_comment(&with(data, 1), &short);
    }
}

fn try_long_text(data: &[u8], short: &Result<Domain, DomainXmlError>) {
    if !data.contains(&LONG) {
        return;
    }
    let long = with(data, LENGTH);
    let whole = read(&long, 1 << 16);
    let in_pieces = read(&long, 1 + data.len() % 4096);
    assert_eq!(whole.is_ok(), in_pieces.is_ok(), "in pieces");
    let (Ok(short), Ok(whole), Ok(in_pieces)) = (short, whole, in_pieces) else {
        return;
    };
    assert_eq!(whole, in_pieces);
    assert_eq!(whole.uuid, short.uuid);
    assert_eq!(whole.has_emulated_tpm(), short.has_emulated_tpm());
    let secret = |domain: &Domain| domain.encrypted_vtpm().map(|(_, secret)| secret);
    assert_eq!(secret(&whole), secret(short));
}

/// All that follows is looked at, and nothing of it is too long.
fn try_behind_a_comment(document: &[u8], alone: &Result<Domain, DomainXmlError>) {
    let comment = format!("<!--{}-->", "c".repeat(LENGTH));
    let behind = read(&[comment.as_bytes(), document].concat(), 1 << 16);
    match (alone, behind) {
        (Ok(alone), Ok(behind)) => assert_eq!(*alone, behind),
        (Err(_), Err(_)) => {}
        (alone, behind) => panic!("{alone:?}, behind a comment {behind:?}"),
    }
}

/// The document with the long text, of this length.
fn with(data: &[u8], length: usize) -> Cow<'_, [u8]> {
    let Some(at) = data.iter().position(|byte| *byte == LONG) else {
        return data.into();
    };
    let text = b"x".repeat(length);
    [&data[..at], &text, &data[at + 1..]].concat().into()
}

fn read(document: &[u8], capacity: usize) -> Result<Domain, DomainXmlError> {
    domain::read(BufReader::with_capacity(capacity, document))
}

/// Whether this document is read, and has a long text.
pub fn is_long(data: &[u8]) -> bool {
    data.contains(&LONG) && read(&with(data, LENGTH), 1 << 16).is_ok()
}
