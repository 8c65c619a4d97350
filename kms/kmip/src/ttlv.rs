//! TTLV, the encoding of KMIP: a tag (3 bytes), a type (1), a length (4, the highest first), the value,
//! and zeros to a multiple of 8.
//!
//! What is read stays where it was received, so that a key in it is wiped with it: an [`Item`] is a view.
//! Nothing is read deeper than it is asked for, so no input makes it recurse or allocate.

use vtpm_guard::plugin::Zeroizing;

/// The length of tag, type and length.
pub const HEADER_LEN: usize = 8;

const STRUCTURE: u8 = 1;
const INTEGER: u8 = 2;
const ENUMERATION: u8 = 5;
const TEXT: u8 = 7;
const BYTES: u8 = 8;

/// The name of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub u32);

/// What is not TTLV, or not of the type that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends within an item.
    #[error("it is cut short")]
    Cut,
    /// A field has a value of another type or length.
    #[error("field {:06x} has another type", .0.0)]
    Type(Tag),
    /// A field has a value that it must not have.
    #[error("field {:06x} has a wrong value", .0.0)]
    Value(Tag),
    /// A field is not there.
    #[error("field {:06x} is missing", .0.0)]
    Missing(Tag),
}

/// A field and its value.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Which field it is.
    pub tag: Tag,
    kind: u8,
    value: &'a [u8],
}

/// The fields of a structure, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

/// Reads the header of a message: its tag, and how many bytes follow it.
pub fn header(bytes: [u8; HEADER_LEN]) -> (Tag, usize) {
    let [a, b, c, _, length @ ..] = bytes;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    (Tag(u32::from_be_bytes([0, a, b, c])), length)
}

impl<'a> Fields<'a> {
    /// The fields of these bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field; `None` after the last.
    pub fn next(&mut self) -> Result<Option<Item<'a>>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed::Cut)?;
        let (tag, length) = header(*head);
        let padded = length.checked_next_multiple_of(8).ok_or(Malformed::Cut)?;
        let (value, rest) = rest.split_at_checked(padded).ok_or(Malformed::Cut)?;
        self.0 = rest;
        Ok(Some(Item {
            tag,
            kind: head[3],
            value: &value[..length],
        }))
    }

    /// The first field of this tag.
    pub fn find(mut self, tag: Tag) -> Result<Option<Item<'a>>, Malformed> {
        while let Some(item) = self.next()? {
            if item.tag == tag {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// The first field of this tag, which must be there.
    pub fn get(self, tag: Tag) -> Result<Item<'a>, Malformed> {
        self.find(tag)?.ok_or(Malformed::Missing(tag))
    }

    /// All fields of this tag.
    pub fn all(mut self, tag: Tag) -> Result<Vec<Item<'a>>, Malformed> {
        let mut found = Vec::new();
        while let Some(item) = self.next()? {
            if item.tag == tag {
                found.push(item);
            }
        }
        Ok(found)
    }
}

impl<'a> Item<'a> {
    /// The fields of a structure.
    pub fn structure(self) -> Result<Fields<'a>, Malformed> {
        self.of_type(STRUCTURE).map(Fields)
    }

    /// A number.
    pub fn integer(self) -> Result<i32, Malformed> {
        let bytes = self.of_type(INTEGER)?.try_into();
        bytes
            .map(i32::from_be_bytes)
            .map_err(|_| Malformed::Type(self.tag))
    }

    /// One of the numbers that the standard lists for this field.
    pub fn enumeration(self) -> Result<u32, Malformed> {
        let bytes = self.of_type(ENUMERATION)?.try_into();
        bytes
            .map(u32::from_be_bytes)
            .map_err(|_| Malformed::Type(self.tag))
    }

    /// A text.
    pub fn text(self) -> Result<&'a str, Malformed> {
        str::from_utf8(self.of_type(TEXT)?).map_err(|_| Malformed::Type(self.tag))
    }

    /// Bytes.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        self.of_type(BYTES)
    }

    fn of_type(self, kind: u8) -> Result<&'a [u8], Malformed> {
        if self.kind == kind {
            Ok(self.value)
        } else {
            Err(Malformed::Type(self.tag))
        }
    }
}

/// A message that is written, in a buffer that is wiped.
#[derive(Debug)]
pub struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// The longest message. A buffer that grew would leave a copy of a key.
    const CAPACITY: usize = 8 << 10;

    /// Writes a message: one structure.
    pub fn message(tag: Tag, fields: impl FnOnce(&mut Self)) -> Zeroizing<Vec<u8>> {
        let mut writer = Self(Zeroizing::new(Vec::with_capacity(Self::CAPACITY)));
        writer.structure(tag, fields);
        writer.0
    }

    /// Adds a structure.
    pub fn structure(&mut self, tag: Tag, fields: impl FnOnce(&mut Self)) {
        self.item(tag, STRUCTURE, &[]);
        let start = self.0.len();
        fields(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[start - 4..start].copy_from_slice(&length.to_be_bytes());
    }

    /// Adds a number.
    pub fn integer(&mut self, tag: Tag, value: i32) {
        self.item(tag, INTEGER, &value.to_be_bytes());
    }

    /// Adds one of the numbers that the standard lists for this field.
    pub fn enumeration(&mut self, tag: Tag, value: u32) {
        self.item(tag, ENUMERATION, &value.to_be_bytes());
    }

    /// Adds a text.
    pub fn text(&mut self, tag: Tag, value: &str) {
        self.item(tag, TEXT, value.as_bytes());
    }

    /// Adds bytes.
    pub fn bytes(&mut self, tag: Tag, value: &[u8]) {
        self.item(tag, BYTES, value);
    }

    fn item(&mut self, Tag(tag): Tag, kind: u8, value: &[u8]) {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&tag.to_be_bytes()[1..]);
        self.0.push(kind);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
        let padded = self.0.len().next_multiple_of(8);
        self.0.resize(padded, 0);
    }
}

#[cfg(test)]
#[path = "ttlv/tests.rs"]
mod tests;
