//! Texts: those of others, which may have any bytes, and those where there is room for some of it only.

use std::borrow::Cow;
use std::path::Path;
use std::{fs, io};

/// What stands for the rest.
const REST: &str = "…";

/// Reads a file that is text but for what somebody else wrote into it: one byte in another encoding, in the name of a
/// user or a process, must not hide the rest. Such bytes become U+FFFD.
pub fn read(path: &Path) -> io::Result<String> {
    fs::read(path).map(lossy)
}

/// The same of bytes that were read.
#[must_use]
pub fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Returns a text, or its beginning if it has more than so many bytes. What is cut says so.
#[must_use]
pub fn beginning(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let mut end = most.saturating_sub(REST.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}{REST}", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_ends_at_a_character_and_says_so() {
        assert_eq!(beginning("vm1", 3), "vm1");
        assert_eq!(beginning("a refusal", 6), "a r…");
        for most in 3..12 {
            let cut = beginning("ÄÖÜ äöü", most);
            assert!(cut.len() <= most || cut == "ÄÖÜ äöü", "{cut}");
        }
        assert_eq!(beginning("ÄÖÜ äöü", 8), "ÄÖ…");
        assert_eq!(beginning("long", 0), "…");
    }
}
