//! The images in which libvirt saves runs, as far as they say which guest they are of.
//!
//! Format (libvirt, `src/qemu/qemu_saveimage.h`): a header of numbers in the byte order of the host that saved the run, then
//! the domain XML with which the run goes on, ended by a zero byte, and notes of libvirt's own; then QEMU's stream.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::host::others;

/// `QEMU_SAVE_MAGIC`. libvirt removes an image that has another one, as one does that was not written to its end, and
/// starts the guest without it.
const MAGIC: &[u8; 16] = b"LibvirtQemudSave";

/// `struct _virQEMUSaveHeader`: the magic and nineteen numbers, of which the second is how many bytes follow before
/// QEMU's stream.
const HEADER_LEN: usize = MAGIC.len() + 19 * size_of::<u32>();

/// Where that number is.
const DATA_LEN: std::ops::Range<usize> = MAGIC.len() + 4..MAGIC.len() + 8;

/// The longest domain XML and notes that are read, in bytes: libvirt tells no definition of more than 10 MB.
const MAX_DATA: usize = 12 << 20;

/// Returns the domain XML with which libvirt continues the run in this image. `None` if there is no image, or none that
/// libvirt continues from.
pub fn saved_xml(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match others::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        image => xml_in(image?),
    }
}

/// The same, of what is in an image.
pub fn xml_in(mut image: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER_LEN];
    match image.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut data_len = [0; 4];
    data_len.copy_from_slice(&header[DATA_LEN]);
    let data_len = u32::from_ne_bytes(data_len) as usize;
    if !header.starts_with(MAGIC) || data_len > MAX_DATA {
        return Ok(None);
    }
    let mut xml = Vec::new();
    image.take(data_len as u64).read_to_end(&mut xml)?;
    let end = xml.iter().position(|byte| *byte == 0);
    xml.truncate(end.unwrap_or(xml.len()));
    Ok(Some(xml))
}

/// An image with this domain XML, as libvirt writes it.
#[cfg(any(test, feature = "internals"))]
#[must_use]
pub fn image(xml: &str) -> Vec<u8> {
    let notes = "<cookie>\n</cookie>\n\0";
    let data_len = u32::try_from(xml.len() + 1 + notes.len()).unwrap_or_default();
    let mut image = vec![0; HEADER_LEN];
    image[..MAGIC.len()].copy_from_slice(MAGIC);
    image[MAGIC.len()..DATA_LEN.start].copy_from_slice(&2_u32.to_ne_bytes());
    image[DATA_LEN].copy_from_slice(&data_len.to_ne_bytes());
    [
        &image,
        xml.as_bytes(),
        b"\0",
        notes.as_bytes(),
        b"QEMU's stream",
    ]
    .concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_xml_ends_before_libvirts_notes_and_qemus_stream() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm1.save");
        assert_eq!(saved_xml(&path).unwrap(), None);
        fs::write(&path, image("<domain/>")).unwrap();
        assert_eq!(saved_xml(&path).unwrap().unwrap(), b"<domain/>");
        let link = dir.path().join("link.save");
        symlink(&path, &link).unwrap();
        assert!(saved_xml(&link).is_err(), "QEMU's user could have made it");
    }

    #[test]
    fn what_libvirt_does_not_continue_from_has_no_xml() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm1.save");
        let whole = image("<domain/>");
        let partial = [b"LibvirtQemudPart", &whole[MAGIC.len()..]].concat();
        let mut endless = whole.clone();
        endless[DATA_LEN].copy_from_slice(&u32::MAX.to_ne_bytes());
        for image in [b"a run", &whole[..HEADER_LEN - 1], &partial, &endless] {
            fs::write(&path, image).unwrap();
            assert_eq!(saved_xml(&path).unwrap(), None);
        }
    }
}
