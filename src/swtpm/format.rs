//! The format of one TPM state ("blob"), as swtpm's directory backend keeps it in a file.
//!
//! Big-endian; swtpm, `src/swtpm/swtpm_nvstore.c` (`blobheader`) and `src/swtpm/tlv.h`:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | version: 2, or 1 before swtpm 0.1 |
//! | 1 | the lowest version that a reader must know |
//! | 2 | length of this header: 10 |
//! | 2 | flags |
//! | 4 | length of the whole |
//! | … | version 2: records of tag (2), length (4) and that many bytes; version 1: the data |
//!
//! swtpm relies on the records that it finds and on the key that it was given; the only flag that
//! it reads is the one for the key's length. This reader does the same.

use super::error::StateError;
use super::proof::{EncryptedState, FileKeyLen};

/// The longest state that is read, in bytes. The NVRAM of libtpms has 173 KiB (`NV_MEMORY_SIZE`
/// in its `TpmProfile.h`); some forty times that leaves room.
pub const MAX_STATE_LEN: u32 = 8 * 1024 * 1024;

const HEADER_LEN: usize = 10;
const RECORD_HEADER_LEN: usize = 6;

/// The newest known version, and the one that is written.
const VERSION: u8 = 2;

/// The lowest version that a reader must know, as swtpm 0.1 and later write it
///  (`BLOB_HEADER_VERSION`, `min_version` in `SWTPM_NVRAM_PrependHeader`).
const MIN_VERSION: u8 = 1;

const FLAG_ENCRYPTED: u16 = 0x01;
const FLAG_256_BIT_KEY: u16 = 0x08;

/// Versions from here on are taken for random bytes, not for future formats.
const ABSURD_VERSION: u8 = 16;

const TAG_PLAIN_DATA: u16 = 1;
const TAG_ENCRYPTED_DATA: u16 = 2;
const TAG_HMAC: u16 = 3;
const TAG_MIGRATION_DATA: u16 = 4;
const TAG_ENCRYPTED_MIGRATION_DATA: u16 = 5;
const TAG_IV: u16 = 6;

/// What a state holds.
#[derive(Debug)]
pub enum Contents {
    /// The TPM's plaintext data.
    Plain,
    /// The TPM's data, encrypted.
    Encrypted(EncryptedState),
}

/// The records of a state.
pub(super) enum Records<'a> {
    /// The TPM's plaintext data.
    Plain(&'a [u8]),
    /// The TPM's data, encrypted.
    Encrypted {
        /// The length of the AES key.
        key_len: FileKeyLen,
        /// The ciphertext.
        data: &'a [u8],
        /// The IV; old versions of swtpm wrote none.
        iv: Option<&'a [u8]>,
        /// The MAC.
        mac: &'a [u8],
    },
}

/// Parses a state. Errors: swtpm, as libvirt runs it, would not start from it, or this program does
/// not know whether it would.
pub fn parse(blob: &[u8]) -> Result<Contents, StateError> {
    match split(blob)? {
        Records::Plain(data) if is_libtpms_data(data) => Ok(Contents::Plain),
        Records::Plain(_) => Err(StateError::NoData),
        Records::Encrypted {
            key_len: FileKeyLen::Bits128,
            ..
        } => Err(StateError::ShortKey),
        Records::Encrypted {
            key_len,
            data,
            iv,
            mac,
        } => EncryptedState::new(key_len, data, iv, mac)
            .map(Contents::Encrypted)
            .ok_or(StateError::EncryptedData),
    }
}

/// Returns whether libtpms would accept this as the permanent state of a TPM, by its first bytes: a
/// version and a magic number (TPM 2.0, `PERSISTENT_ALL_MAGIC` in its `NVMarshal.c`), or the
/// tags of the state and of its first structure (TPM 1.2, `TPM_PermanentAll_Load`).
fn is_libtpms_data(data: &[u8]) -> bool {
    let tpm2_magic = data.get(2..6);
    tpm2_magic == Some(&[0xab, 0x36, 0x47, 0x23]) || data.starts_with(&[0x00, 0x01, 0x00, 0x22])
}

/// Finds the records of one state.
pub(super) fn split(blob: &[u8]) -> Result<Records<'_>, StateError> {
    if blob.is_empty() {
        return Err(StateError::Empty);
    }
    let found = blob.len() as u64;
    let Some((header, body)) = blob.split_first_chunk::<HEADER_LEN>() else {
        return Err(StateError::Length { found });
    };
    let [version, min_version, s0, s1, f0, f1, ..] = *header;
    if len_in_header(header) != found {
        return Err(if is_libtpms_data(blob) {
            StateError::Headerless
        } else {
            StateError::Length { found }
        });
    }
    let newest = version.max(min_version);
    if (VERSION + 1..ABSURD_VERSION).contains(&newest) {
        return Err(StateError::Version(newest));
    }
    if usize::from(u16::from_be_bytes([s0, s1])) != HEADER_LEN {
        return Err(StateError::Header);
    }
    let flags = u16::from_be_bytes([f0, f1]);
    match version {
        _ if newest > VERSION => Err(StateError::Header),
        1 if flags & FLAG_ENCRYPTED != 0 => Err(StateError::EncryptedVersion1),
        1 => Ok(Records::Plain(body)),
        VERSION => split_records(body, flags),
        _ => Err(StateError::Header),
    }
}

/// Returns whether a file with this beginning and length has the length that its header gives.
pub(super) fn is_as_long_as_it_says(beginning: &[u8], len: u64) -> bool {
    let header = beginning.first_chunk();
    header.is_some_and(|header| len_in_header(header) == len)
}

/// Returns the length of the whole that a header gives.
fn len_in_header(header: &[u8; HEADER_LEN]) -> u64 {
    let [.., l0, l1, l2, l3] = *header;
    u32::from_be_bytes([l0, l1, l2, l3]).into()
}

fn split_records(records: &[u8], flags: u16) -> Result<Records<'_>, StateError> {
    let find = |tag| find_record(records, tag);
    if let (Some(data), Some(mac)) = (find(TAG_ENCRYPTED_DATA), find(TAG_HMAC)) {
        let key_len = if flags & FLAG_256_BIT_KEY == 0 {
            FileKeyLen::Bits128
        } else {
            FileKeyLen::Bits256
        };
        Ok(Records::Encrypted {
            key_len,
            data,
            iv: find(TAG_IV),
            mac,
        })
    } else if let Some(data) = find(TAG_PLAIN_DATA) {
        Ok(Records::Plain(data))
    } else if find(TAG_MIGRATION_DATA).is_some() || find(TAG_ENCRYPTED_MIGRATION_DATA).is_some() {
        Err(StateError::MigrationBlob)
    } else {
        Err(StateError::NoData)
    }
}

/// Returns a state that is encrypted with a 256-bit key, its records in swtpm's order
/// (`SWTPM_NVRAM_EncryptData`). `None` if it would be longer than its header can tell.
pub(super) fn join_encrypted(data: &[u8], mac: &[u8], iv: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    for (tag, value) in [(TAG_ENCRYPTED_DATA, data), (TAG_HMAC, mac), (TAG_IV, iv)] {
        body.extend(tag.to_be_bytes());
        body.extend(u32::try_from(value.len()).ok()?.to_be_bytes());
        body.extend_from_slice(value);
    }
    let header_len = u16::try_from(HEADER_LEN).ok()?;
    let len = u32::try_from(HEADER_LEN + body.len()).ok()?;
    let mut blob = vec![VERSION, MIN_VERSION];
    blob.extend(header_len.to_be_bytes());
    blob.extend((FLAG_ENCRYPTED | FLAG_256_BIT_KEY).to_be_bytes());
    blob.extend(len.to_be_bytes());
    blob.append(&mut body);
    Some(blob)
}

/// What the MAC of an encrypted state covers, and where its first bytes are, as many as SHA-256 has. `None` if it has no
/// such MAC.
#[cfg(feature = "internals")]
pub(super) fn authenticated(blob: &[u8]) -> Option<(Vec<u8>, std::ops::Range<usize>)> {
    let Ok(Records::Encrypted { data, iv, mac, .. }) = split(blob) else {
        return None;
    };
    let mac: &[u8; super::proof::MAC_LEN] = mac.first_chunk()?;
    let start = mac.as_ptr().addr() - blob.as_ptr().addr();
    let authenticated = [data, iv.unwrap_or_default()].concat();
    Some((authenticated, start..start + mac.len()))
}

/// Returns the first record with this tag. As in swtpm, a record that does not fit ends the search.
fn find_record(mut records: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((header, rest)) = records.split_first_chunk::<RECORD_HEADER_LEN>() {
        let [t0, t1, l0, l1, l2, l3] = *header;
        let len = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).ok()?;
        let (value, next) = rest.split_at_checked(len)?;
        if u16::from_be_bytes([t0, t1]) == wanted {
            return Some(value);
        }
        records = next;
    }
    None
}
