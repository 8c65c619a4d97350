//! The files of a guest's saved copies: which there are, how they are named, read and hashed.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::CopyError;
use crate::host::interrupted::read_dir;
use crate::host::path_error::PathError;
use crate::host::trusted;
use crate::key::hex;
use crate::swtpm::MAX_STATE_LEN;

/// The file of the record of a guest's last run.
pub(super) const RUN_RECORD: &str = "run.json";

/// Returns the names in a directory of copies, which no other user may write; none if there is no
/// such directory.
pub(super) fn names(path: &Path) -> Result<Vec<OsString>, CopyError> {
    // Only root could have replaced it since it was checked.
    if trusted::find(path, trusted::STATE_DIR)?.is_none() {
        return Ok(Vec::new());
    }
    let entries = read_dir(path).map_err(PathError::at(path))?;
    let names = entries.map(|entry| Ok(entry?.file_name()));
    Ok(names
        .collect::<io::Result<_>>()
        .map_err(PathError::at(path))?)
}

/// Reads a file of a copy, up to the longest state. `None`: there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, CopyError> {
    let Some(file) = trusted::open(path, trusted::SAVED_COPY)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(u64::from(MAX_STATE_LEN))
        .read_to_end(&mut bytes)
        .map_err(PathError::at(path))?;
    Ok(Some(bytes))
}

pub(super) fn hash(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let mut digits = [0; 64];
    hex::encode(&hash, &mut digits);
    digits.map(char::from).iter().collect()
}

pub(super) fn state_name(sha256: &str) -> String {
    format!("{sha256}.state")
}

pub(super) fn manifest_name(sha256: &str) -> String {
    format!("{sha256}.json")
}

pub(super) fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // These types always serialise.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}
