//! Frames, which this program exchanges with its helpers: a length (u32, big-endian), then as many bytes.

use std::io::{self, ErrorKind, Read};

use zeroize::Zeroizing;

const LENGTH_LEN: usize = size_of::<u32>();

/// Reads the bytes of one frame into a buffer that is wiped; `None` at the end of the stream.
pub fn read_frame(from: &mut impl Read, max_len: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut length = [0; LENGTH_LEN];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = usize::try_from(u32::from_be_bytes(length))
        .ok()
        .filter(|&length| length <= max_len)
        .ok_or_else(too_long)?;
    // In its final size: a buffer that grew would leave copies of a key.
    let mut frame = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}

/// Returns a frame of these parts, in a buffer of its final size.
pub fn to_frame(parts: &[&[u8]], max_len: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let announced = u32::try_from(length)
        .ok()
        .filter(|_| length <= max_len)
        .ok_or_else(too_long)?;
    let mut frame = Zeroizing::new(Vec::with_capacity(LENGTH_LEN + length));
    frame.extend_from_slice(&announced.to_be_bytes());
    for part in parts {
        frame.extend_from_slice(part);
    }
    Ok(frame)
}

/// Returns two frames as one buffer, in its final size.
pub fn join(first: &[u8], second: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut both = Zeroizing::new(Vec::with_capacity(first.len() + second.len()));
    both.extend_from_slice(first);
    both.extend_from_slice(second);
    both
}

fn too_long() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the message is too long")
}
