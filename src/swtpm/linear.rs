//! swtpm's linear format: all states of a TPM in one file or block device.
//!
//! Little-endian, unlike the states in it; swtpm, `src/swtpm/swtpm_nvstore_linear.h`:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | magic: `nilmptws` |
//! | 1 | version: 1 |
//! | 1 | padding |
//! | 2 | length of this header: 192 |
//! | 15 × 12 | for each state: offset in the file (0: there is none), length, length of its section |
//!
//! The first of the fifteen is the permanent state, of the format in [`format`](super::format).

use std::io::{self, Read, Seek, SeekFrom};

use super::error::StateError;
use super::format::MAX_STATE_LEN;

const HEADER_LEN: usize = 192;
const MAGIC: &[u8; 8] = b"nilmptws";
const VERSION: u8 = 1;

/// Reads the permanent state from a linear store. `None`: it has none yet, and swtpm would make a
/// new TPM in it. This includes an empty store and one of zeros.
///
/// swtpm would also format any other file without the magic. That is an error here: it may be a
/// state in the other format, or not a TPM's at all, and would be lost.
pub fn read_permall(mut store: impl Read + Seek) -> Result<Option<Vec<u8>>, StateError> {
    let mut header = [0; HEADER_LEN];
    // A shorter file is read as if zeros followed: swtpm lengthens it.
    io::copy(
        &mut store.by_ref().take(HEADER_LEN as u64),
        &mut header.as_mut_slice(),
    )?;
    if header == [0; HEADER_LEN] {
        return Ok(None);
    }
    if !header.starts_with(MAGIC) {
        return Err(StateError::NotLinear);
    }
    if header[8] > VERSION {
        return Err(StateError::Version(header[8]));
    }
    let offset = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    let len = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
    if offset == 0 {
        return Ok(None);
    }
    if len > MAX_STATE_LEN {
        return Err(StateError::TooLong);
    }
    let mut permall = Vec::new();
    store.seek(SeekFrom::Start(offset.into()))?;
    store.take(len.into()).read_to_end(&mut permall)?;
    let found = permall.len() as u64;
    if found < u64::from(len) {
        return Err(StateError::Length { found });
    }
    Ok(Some(permall))
}
