//! Any bytes as an image in which libvirt saved a run: QEMU's user may put anything there. What is read of it is what its header
//! says, up to the first zero byte, and never more than a definition may have, however long the image is.

use std::io::{Read, repeat};

use vtpm_guard::internals::libvirt::files::{image, xml_in};

use super::common::Counted;

/// Written down once more: the magic and nineteen numbers, the second of them the length.
const MAGIC: &[u8] = b"LibvirtQemudSave";
const HEADER_LEN: usize = 16 + 19 * 4;
const LONGEST: usize = 12 << 20;

/// Tries these bytes.
pub fn check(bytes: &[u8]) {
    assert_eq!(
        xml_in(bytes).expect("no error of the system"),
        expected(bytes)
    );
    try_endless(bytes);
    try_xml(bytes);
}

fn expected(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, data) = bytes.split_at_checked(HEADER_LEN)?;
    let length = length(header);
    if !header.starts_with(MAGIC) || length > LONGEST {
        return None;
    }
    let data = &data[..length.min(data.len())];
    data.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

fn length(header: &[u8]) -> usize {
    let length = header[20..24].try_into().expect("four bytes");
    usize::try_from(u32::from_ne_bytes(length)).expect("at least 32 bits")
}

/// The image, and then whatever QEMU's user likes, without an end. One in many is as long as may be read.
fn try_endless(bytes: &[u8]) {
    let is_long = bytes.len() >= HEADER_LEN && length(bytes) > 1 << 16;
    if is_long && !bytes.len().is_multiple_of(64) {
        return;
    }
    let mut image = Counted(bytes.chain(repeat(b' ')), 0);
    let xml = xml_in(&mut image).expect("no error of the system");
    assert!(image.1 <= HEADER_LEN + LONGEST, "{}", image.1);
    assert!(xml.is_none_or(|xml| xml.len() <= LONGEST));
}

/// The bytes as the definition in an image that is whole.
fn try_xml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (xml, _) = text.split_once('\0').unwrap_or((&text, ""));
    let read = xml_in(&image(xml)[..]).expect("no error of the system");
    assert_eq!(read.as_deref(), Some(xml.as_bytes()));
}
