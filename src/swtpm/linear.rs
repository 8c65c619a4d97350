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
use std::ops::Range;

use super::error::StateError;
use super::format::MAX_STATE_LEN;

/// The length of the header, and so the lowest offset of a section.
pub(super) const HEADER_LEN: usize = 192;
const MAGIC: &[u8; 8] = b"nilmptws";
const VERSION: u8 = 1;
const ENTRIES: usize = 15;
pub(super) const ENTRY_LEN: usize = 12;
/// The entry of the permanent state, the first one.
pub(super) const PERMALL_ENTRY: usize = 12;

/// The header of a linear store.
pub(super) struct Header([u8; HEADER_LEN]);

/// Where a state is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section {
    /// Its first byte.
    pub(super) offset: u32,
    /// The length of the state.
    pub(super) data_len: u32,
    /// The length of the section, which the state may grow into.
    pub(super) len: u32,
}

impl Section {
    /// Returns the first byte behind it.
    pub(super) fn end(self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }

    /// Returns its entry in the header.
    pub(super) fn entry(self) -> [u8; ENTRY_LEN] {
        let mut entry = [0; ENTRY_LEN];
        let values = [self.offset, self.data_len, self.len];
        for (bytes, value) in entry.chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        entry
    }
}

impl Header {
    /// Reads a store's header. `None`: it has none yet, and swtpm would make one.
    pub(super) fn read(store: &mut (impl Read + Seek)) -> Result<Option<Self>, StateError> {
        let mut header = [0; HEADER_LEN];
        // A shorter file is read as if zeros followed: swtpm lengthens it.
        store.seek(SeekFrom::Start(0))?;
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
        Ok(Some(Self(header)))
    }

    /// Returns the section of the permanent state. `None`: there is none.
    pub(super) fn permall(&self) -> Option<Section> {
        self.section(0)
    }

    /// Returns whether the store also holds a volatile or a saved state.
    pub(super) fn has_other_states(&self) -> bool {
        (1..ENTRIES).any(|nth| self.section(nth).is_some())
    }

    /// Returns the parts of a file of this length where neither header nor states are. swtpm leaves
    /// nothing there: it keeps its sections without gaps.
    pub(super) fn unused(&self, len: u64) -> Vec<Range<u64>> {
        unused((0..ENTRIES).filter_map(|nth| self.section(nth)), len)
    }

    fn section(&self, nth: usize) -> Option<Section> {
        let entry = &self.0[PERMALL_ENTRY + nth * ENTRY_LEN..][..ENTRY_LEN];
        let value = |at| Some(u32::from_le_bytes(*entry[at..].first_chunk()?));
        let section = Section {
            offset: value(0)?,
            data_len: value(4)?,
            len: value(8)?,
        };
        (section.offset != 0).then_some(section)
    }
}

/// The parts of a file of this length where neither header nor these sections are.
pub(super) fn unused(sections: impl IntoIterator<Item = Section>, len: u64) -> Vec<Range<u64>> {
    let mut sections: Vec<_> = sections.into_iter().collect();
    sections.sort_by_key(|section| section.offset);
    let (mut parts, mut from) = (Vec::new(), HEADER_LEN as u64);
    for section in sections {
        parts.push(from..len.min(section.offset.into()));
        from = from.max(section.end());
    }
    parts.push(from..len);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Reads the permanent state from a linear store. `None`: it has none yet, and swtpm would make a
/// new TPM in it. This includes an empty store and one of zeros.
///
/// swtpm would also format any other file without the magic. That is an error here: it may be a
/// state in the other format, or not a TPM's at all, and would be lost.
pub fn read_permall(mut store: impl Read + Seek) -> Result<Option<Vec<u8>>, StateError> {
    let permall = Header::read(&mut store)?.and_then(|header| header.permall());
    permall
        .map(|section| read_section(&mut store, section))
        .transpose()
}

/// Reads the state in a section.
pub(super) fn read_section(
    store: &mut (impl Read + Seek),
    section: Section,
) -> Result<Vec<u8>, StateError> {
    if section.data_len > MAX_STATE_LEN {
        return Err(StateError::TooLong);
    }
    let mut state = Vec::new();
    store.seek(SeekFrom::Start(section.offset.into()))?;
    store
        .by_ref()
        .take(section.data_len.into())
        .read_to_end(&mut state)?;
    let found = state.len() as u64;
    if found < u64::from(section.data_len) {
        return Err(StateError::Length { found });
    }
    Ok(state)
}
