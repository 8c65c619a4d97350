//! Looks up paths as root, in directories that others may write.
//!
//! A directory of states belongs to swtpm's user, and a swtpm that its guest has taken over may
//! put anything there at any moment: a link to a file of root's, a FIFO, a file under a lease. So
//! each part of the path is looked up by its name in the directory before it (`O_PATH`), which
//! opens nothing for reading, and no link of that user's is followed.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

use super::error::StateError;
use crate::host::interrupted::openat;
use crate::host::trusted::{self, Distrust, Reason, Trusted};
use crate::host::users;

/// Looks up a path, following links; `None` if there is nothing.
pub(super) fn look_at(path: &Path) -> Result<Option<File>, StateError> {
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    match handle {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        handle => Ok(Some(handle?)),
    }
}

/// Looks up a name in a directory, without following a link; `None` if there is nothing.
pub(super) fn look(dir: &File, name: &OsStr) -> Result<Option<File>, StateError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(handle) => Ok(Some(handle.into())),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

/// Looks up a path of the administrator's: only root's links are followed, in directories that
/// nobody else may write. `None` if there is nothing.
pub(super) fn walk(path: &Path) -> Result<Option<File>, StateError> {
    match trusted::find(path, trusted::TPM_STATE) {
        Ok(found) => Ok(found.map(Trusted::into_handle)),
        Err(Distrust::Io(error)) => Err(error.source.into()),
        Err(Distrust::Untrusted { path, reason }) => Err(match reason {
            Reason::Link(maker) => StateError::Link {
                link: path,
                maker: users::label(maker),
            },
            _ => StateError::NotADirectory(path),
        }),
    }
}

pub(super) fn check_directory(dir: &File, path: &Path) -> Result<(), StateError> {
    let metadata = dir.metadata()?;
    if metadata.is_symlink() {
        Err(link(path, &metadata))
    } else if metadata.is_dir() {
        Ok(())
    } else {
        Err(StateError::NotADirectory(path.to_owned()))
    }
}

pub(super) fn link(path: &Path, metadata: &Metadata) -> StateError {
    StateError::Link {
        link: path.to_owned(),
        maker: users::label(metadata.uid()),
    }
}
