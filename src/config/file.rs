//! Reads a file that decides what root does: only if root alone can have written it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::ConfigError;

/// Bytes of a configuration file; with every key and comment it is some KiB.
const MAX_SIZE: u64 = 1 << 20;

/// The permission bits that let group or others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The file's text, or `None` if there is no such file. Owner and mode are those of the
/// opened file, so nobody can swap it between check and use.
pub(super) fn read_trusted(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let opened = OpenOptions::new()
        .read(true)
        // A FIFO or a terminal in its place must not stop the guest's start.
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };

    let path = || path.to_owned();
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(ConfigError::NotAFile { path: path() });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(ConfigError::WrongOwner {
            path: path(),
            owner,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(ConfigError::WritableByOthers { path: path(), mode });
    }

    let mut bytes = Vec::new();
    let read = (&mut file).take(MAX_SIZE + 1).read_to_end(&mut bytes);
    if read.map_err(unreadable)? as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge {
            path: path(),
            limit: MAX_SIZE,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(ConfigError::NotUtf8 { path: path() }),
    }
}
