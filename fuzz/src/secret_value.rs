//! Any bytes as the `UUID.base64` in which libvirt keeps a secret's value: a value that says the whole of the text, or none.
//! However long the file is, no more is read of it than a value may have.

use std::io::{Read, repeat};

use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::libvirt::files::value_in;

use super::common::{Counted, DIGITS, base64};

/// The longest value in base64.
const LONGEST: usize = Dek::MAX_LEN.div_ceil(3) * 4;

/// Tries these bytes.
pub fn check(text: &[u8]) {
    match value_in(text).expect("no error of the system") {
        Some(dek) => {
            let value = dek.expose();
            assert!((1..=Dek::MAX_LEN).contains(&value.len()));
            let again = base64(value);
            assert_eq!(text.trim_ascii_end(), again.as_bytes());
            let other = [again.as_bytes(), b"\n"].concat();
            let read = value_in(&other[..]).expect("no error of the system");
            assert!(read.is_some_and(|read| read.same_as(&dek)));
        }
        None => assert!(!is_base64(text.trim_ascii_end()) || text.len() > LONGEST),
    }
    try_binary(text);
    try_endless(text);
}

/// The bytes as a value.
fn try_binary(value: &[u8]) {
    let read = value_in(base64(value).as_bytes()).expect("no error of the system");
    let may_be = (1..=Dek::MAX_LEN).contains(&value.len());
    assert_eq!(
        read.map(|dek| dek.expose().to_vec()),
        may_be.then(|| value.to_vec())
    );
}

/// What follows is blank, or as good as anything; it is never passed over.
fn try_endless(text: &[u8]) {
    for filler in [b'\n', b'A'] {
        let mut file = Counted(text.chain(repeat(filler)), 0);
        let read = value_in(&mut file).expect("no error of the system");
        assert!(read.is_none() && file.1 <= LONGEST + 2, "{}", file.1);
    }
}

/// Whether it is base64 as libvirt writes it: whole groups, padding at the end alone, and no bits that count for nothing.
fn is_base64(text: &[u8]) -> bool {
    let digits = text
        .strip_suffix(b"==")
        .or(text.strip_suffix(b"="))
        .unwrap_or(text);
    let Some(values) = digits
        .iter()
        .map(|digit| DIGITS.iter().position(|it| it == digit))
        .collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    let bits_too_many = match text.len() - digits.len() {
        0 => 0,
        1 => 3,
        _ => 15,
    };
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && digits.len() % 4 == (4 - (text.len() - digits.len())) % 4
        && values.last().is_none_or(|last| last & bits_too_many == 0)
}
