//! XDR (RFC 4506), as far as calls about secrets need it.

use zeroize::Zeroizing;

/// Every field fills a multiple of this many bytes.
const UNIT: usize = 4;

/// A field of a message to send.
pub(super) enum Field<'a> {
    Number(u32),
    Uuid(&'a [u8; 16]),
    /// A string, or opaque bytes, behind their length.
    Bytes(&'a [u8]),
    /// The same where they may be missing, and are not.
    Present(&'a [u8]),
}

impl Field<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Number(_) => UNIT,
            Self::Uuid(uuid) => uuid.len(),
            Self::Bytes(bytes) => UNIT + padded(bytes.len()),
            Self::Present(bytes) => UNIT + Self::Bytes(bytes).len(),
        }
    }

    /// Appends the field. `None`: there is more of it than its length can say.
    pub(super) fn write(&self, to: &mut Zeroizing<Vec<u8>>) -> Option<()> {
        match self {
            Self::Number(number) => to.extend_from_slice(&number.to_be_bytes()),
            Self::Uuid(uuid) => to.extend_from_slice(*uuid),
            Self::Bytes(bytes) => {
                let length = u32::try_from(bytes.len()).ok()?;
                to.extend_from_slice(&length.to_be_bytes());
                to.extend_from_slice(bytes);
                to.extend_from_slice(&[0; UNIT][..padded(bytes.len()) - bytes.len()]);
            }
            Self::Present(bytes) => {
                Self::Number(1).write(to)?;
                Self::Bytes(bytes).write(to)?;
            }
        }
        Some(())
    }
}

/// Reads the fields of a message, one after the other. `None`: that is not there.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        self.take::<UNIT>().map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(super) fn uuid(&mut self) -> Option<[u8; 16]> {
        self.take().copied()
    }

    /// A string, or opaque bytes, behind their length.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        if length > self.0.len() {
            return None;
        }
        let (field, rest) = self.0.split_at_checked(padded(length))?;
        let (bytes, padding) = field.split_at(length);
        self.0 = rest;
        padding.iter().all(|&byte| byte == 0).then_some(bytes)
    }

    /// A string as C has it: text without a NUL.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.bytes()?).ok()?;
        (!text.contains('\0')).then_some(text)
    }

    /// A string that may be missing; then this one.
    pub(super) fn text_or(&mut self, otherwise: &'a str) -> Option<&'a str> {
        match self.number()? {
            0 => Some(otherwise),
            1 => self.text(),
            _ => None,
        }
    }

    /// How many bytes there still are.
    pub(super) fn remaining(self) -> usize {
        self.0.len()
    }

    /// Nothing more.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(bytes)
    }
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(UNIT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["", "a", "abc", "abcd", "abcde"] {
            let fields = [
                Field::Number(0x0102_0304),
                Field::Uuid(&[7; 16]),
                Field::Bytes(text.as_bytes()),
                Field::Present(text.as_bytes()),
            ];
            let mut bytes = Zeroizing::new(Vec::new());
            for field in &fields {
                field.write(&mut bytes).unwrap();
            }
            assert_eq!(bytes.len(), fields.iter().map(Field::len).sum::<usize>());
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.number(), Some(0x0102_0304));
            assert_eq!(reader.uuid(), Some([7; 16]));
            assert_eq!(reader.text(), Some(text));
            assert_eq!(reader.text_or("none"), Some(text));
            assert_eq!(reader.end(), Some(()));
        }
    }

    #[test]
    fn a_field_that_is_not_whole_is_none() {
        for bytes in [
            &b"\0\0\0"[..],
            b"\0\0\0\x01",
            b"\0\0\0\x01a",
            b"\0\0\0\x01a\0\0\x01",
            b"\xff\xff\xff\xffabcd",
            b"\x7f\xff\xff\xff",
        ] {
            assert_eq!(Reader::new(bytes).bytes(), None, "{bytes:?}");
            assert_eq!(Reader::new(bytes).uuid(), None);
        }
        assert_eq!(Reader::new(b"\0\0\0\x02\xff\xff\0\0").text(), None);
        assert_eq!(Reader::new(b"\0\0\0\x02a\0\0\0").text(), None);
        assert_eq!(Reader::new(b"\0\0\0\x02").text_or("none"), None);
        assert_eq!(Reader::new(b"\0\0\0\0").text_or("none"), Some("none"));
        assert_eq!(Reader::new(b"x").end(), None);
    }
}
