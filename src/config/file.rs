//! Reads a file that decides what root does: only if root alone can have written it.

use std::io::Read;
use std::path::Path;

use super::ConfigError;
use crate::host::path_error::PathError;
use crate::host::trusted::{self, Distrust};

/// Bytes of a configuration file; with every key and comment it is some KiB.
const MAX_SIZE: u64 = 1 << 20;

/// The file's text, or `None` if there is no such file.
pub(super) fn read_trusted(path: &Path) -> Result<Option<String>, ConfigError> {
    match read(path) {
        // Once more where it may have failed for a moment alone (memory, descriptors): the defaults that
        // a start goes by instead may name other directories.
        Err(ConfigError::Unreadable(_)) => read(path),
        read => read,
    }
}

fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let file = match trusted::open(path, trusted::CONFIG) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(Distrust::Io(error)) => return Err(ConfigError::Unreadable(error)),
        Err(distrust) => return Err(ConfigError::NotTrusted(distrust)),
    };
    let mut bytes = Vec::new();
    let read = file.take(MAX_SIZE + 1).read_to_end(&mut bytes);
    if read.map_err(PathError::at(path))? as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            limit: MAX_SIZE,
        });
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| ConfigError::NotUtf8 {
            path: path.to_owned(),
        })
}
