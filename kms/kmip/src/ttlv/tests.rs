#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const FIELD: Tag = Tag(0x42_0005);

/// The example of the standard (KMIP specification 1.2, 9.1.2): a structure of an enumeration and an integer.
#[test]
fn the_example_of_the_standard_is_written_and_read() {
    let written = Writer::message(Tag(0x42_0020), |writer| {
        writer.enumeration(Tag(0x42_0004), 254);
        writer.integer(Tag(0x42_0005), 255);
    });
    let expected = [
        0x42, 0x00, 0x20, 0x01, 0x00, 0x00, 0x00, 0x20, // structure, 32 bytes
        0x42, 0x00, 0x04, 0x05, 0x00, 0x00, 0x00, 0x04, // enumeration
        0x00, 0x00, 0x00, 0xfe, 0x00, 0x00, 0x00, 0x00, //
        0x42, 0x00, 0x05, 0x02, 0x00, 0x00, 0x00, 0x04, // integer
        0x00, 0x00, 0x00, 0xff, 0x00, 0x00, 0x00, 0x00,
    ];
    assert_eq!(written[..], expected);
    let fields = Fields::of(&written)
        .get(Tag(0x42_0020))
        .unwrap()
        .structure()
        .unwrap();
    assert_eq!(fields.get(Tag(0x42_0004)).unwrap().enumeration(), Ok(254));
    assert_eq!(fields.get(Tag(0x42_0005)).unwrap().integer(), Ok(255));
    let other = Malformed::Type(Tag(0x42_0005));
    assert_eq!(fields.get(Tag(0x42_0005)).unwrap().text(), Err(other));
    for end in 1..expected.len() {
        assert_eq!(
            Fields::of(&expected[..end]).get(Tag(0x42_0020)).err(),
            Some(Malformed::Cut)
        );
    }
}

/// A field of this type and this value, padded or not.
fn field(kind: u8, length: u32, value: &[u8]) -> Vec<u8> {
    let tag = &FIELD.0.to_be_bytes()[1..];
    [tag, &[kind], &length.to_be_bytes(), value].concat()
}

fn first(bytes: &[u8]) -> Result<Option<Item<'_>>, Malformed> {
    Fields::of(bytes).next()
}

#[test]
fn all_that_is_written_is_read_again() {
    let written = Writer::message(Tag(1), |writer| {
        writer.text(FIELD, "");
        writer.text(FIELD, "12345678");
        writer.bytes(FIELD, &[7; 9]);
        writer.integer(FIELD, i32::MIN);
        writer.structure(FIELD, |_| {});
    });
    assert_eq!(written.len() % 8, 0);
    let message = Fields::of(&written).get(Tag(1)).unwrap();
    let items = message.structure().unwrap().all(FIELD).unwrap();
    let [empty, text, bytes, integer, structure] = items[..] else {
        panic!("{items:?}");
    };
    assert_eq!((empty.text(), text.text()), (Ok(""), Ok("12345678")));
    assert_eq!(bytes.bytes(), Ok(&[7; 9][..]));
    assert_eq!(integer.integer(), Ok(i32::MIN));
    assert_eq!(
        structure.structure().unwrap().next().unwrap().map(|_| ()),
        None
    );
}

#[test]
fn a_length_that_is_not_there_is_cut_whatever_it_is() {
    for length in [1, 7, 9, 16, 0x7fff_ffff, 0xffff_fff8, 0xffff_ffff] {
        let bytes = field(BYTES, length, &[0; 8]);
        match first(&bytes) {
            Ok(Some(item)) => assert_eq!(item.bytes().unwrap().len(), length as usize),
            found => assert_eq!(found.err(), Some(Malformed::Cut), "{length}"),
        }
    }
    // The value is whole, and its padding is not.
    assert_eq!(first(&field(BYTES, 4, &[0; 7])).err(), Some(Malformed::Cut));
    assert_eq!(first(&[0; 7]).err(), Some(Malformed::Cut));
    assert!(first(&[]).unwrap().is_none());
}

#[test]
fn a_value_of_another_length_or_encoding_is_of_another_type() {
    let other = Malformed::Type(FIELD);
    let bytes = field(INTEGER, 8, &[0; 8]);
    assert_eq!(first(&bytes).unwrap().unwrap().integer(), Err(other));
    let bytes = field(ENUMERATION, 3, &[0; 8]);
    assert_eq!(first(&bytes).unwrap().unwrap().enumeration(), Err(other));
    let bytes = field(TEXT, 1, &[0xff; 8]);
    assert_eq!(first(&bytes).unwrap().unwrap().text(), Err(other));
}

/// What stands behind a field that was looked for does not matter, and what stands before it does.
#[test]
fn fields_are_found_in_their_order() {
    let one = field(INTEGER, 4, &[0, 0, 0, 1, 0, 0, 0, 0]);
    let cut = field(INTEGER, 4, &[0; 3]);
    let both = [&one[..], &cut].concat();
    assert_eq!(Fields::of(&both).get(FIELD).unwrap().integer(), Ok(1));
    assert_eq!(Fields::of(&both).all(FIELD).err(), Some(Malformed::Cut));
    let missing = Malformed::Missing(Tag(7));
    assert_eq!(Fields::of(&one).get(Tag(7)).err(), Some(missing));
    assert_eq!(Fields::of(&both).get(Tag(7)).err(), Some(Malformed::Cut));
}
