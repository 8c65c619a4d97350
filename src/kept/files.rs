//! The files of a shelf: which there are, how they are named, read and hashed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use sha2::{Digest, Sha256};

use super::KeptError;
use crate::key::hex;
use crate::swtpm::MAX_STATE_LEN;

/// The permission bits that let the group or everybody write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The names in a directory of copies, which must be this user's alone; none where there is none.
pub(super) fn names(path: &Path) -> Result<Vec<OsString>, KeptError> {
    let entries = match File::open(path).and_then(|dir| dir.metadata()) {
        Ok(metadata) => {
            let user = nix::unistd::geteuid().as_raw();
            if metadata.uid() != user || metadata.mode() & WRITABLE_BY_OTHERS != 0 {
                let path = path.to_owned();
                return Err(KeptError::NotTrusted { path });
            }
            fs::read_dir(path).map_err(KeptError::io(path))?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(KeptError::io(path)(error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name()));
    names
        .collect::<io::Result<_>>()
        .map_err(KeptError::io(path))
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
