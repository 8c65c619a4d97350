//! Reads a file that decides what root does: only if root alone can have written it.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::OFlag;

use super::ConfigError;
use crate::host::trusted::{self, Distrust, WRITABLE_BY_OTHERS};

/// Bytes of a configuration file; with every key and comment it is some KiB.
const MAX_SIZE: u64 = 1 << 20;

/// The file's text, or `None` if there is no such file. Owner and mode are those of the
/// opened file, so nobody can swap it between check and use; nobody but root can change what
/// its path leads to.
pub(super) fn read_trusted(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // A FIFO or a terminal in its place must not stop the guest's start.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut file = match trusted::open_file(path, flags) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(Distrust::Io { source, .. }) => return Err(unreadable(source)),
        Err(distrust) => return Err(ConfigError::Path(distrust)),
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
