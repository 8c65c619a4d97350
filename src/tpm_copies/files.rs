//! The files of a copy_store: which there are, how they are named, read and hashed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use sha2::{Digest, Sha256};

use super::CopyError;
use crate::host::trusted::{Distrust, TrustedDir};
use crate::key::hex;
use crate::swtpm::MAX_STATE_LEN;

/// The names in a directory of copies, which must be this user's alone; none where there is none.
pub(super) fn names(path: &Path) -> Result<Vec<OsString>, CopyError> {
    // What its path leads to is root's to change, and so no other directory by now.
    let entries = match TrustedDir::open_own(path) {
        Ok(Some(_)) => fs::read_dir(path).map_err(CopyError::io(path))?,
        Ok(None) => return Ok(Vec::new()),
        Err(Distrust::Io { path, source }) => return Err(CopyError::Io { path, source }),
        Err(_) => {
            let path = path.to_owned();
            return Err(CopyError::NotTrusted { path });
        }
    };
    let names = entries.map(|entry| Ok(entry?.file_name()));
    names
        .collect::<io::Result<_>>()
        .map_err(CopyError::io(path))
}

/// Reads a file of a copy. No link is followed, and no more is read than a copy can have.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(u64::from(MAX_STATE_LEN))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
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
    // Nothing in these types can fail to be written.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}
