//! Opens the file of a TPM state, for reading as root. What is found is checked before it is opened,
//! so nothing there can hold up the reader or be changed by it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};

use super::directories::{self, bounded, directory};
use super::error::StateError;
use super::state_path::{Backend, Base, StatePath};
use super::walk::{link, look, walk};
use crate::host::dirs::of_descriptor;

/// Opens a state's file for reading. `None`: there is none, and libvirt would make a new TPM.
pub(super) fn open(state_path: &StatePath) -> Result<Option<File>, StateError> {
    open_as(state_path, false)
}

/// Opens for writing the file that is itself a state, in the linear format. `None`: there is none.
pub(super) fn open_to_write(state_path: &StatePath) -> Result<Option<File>, StateError> {
    open_as(state_path, true)
}

fn open_as(state_path: &StatePath, to_write: bool) -> Result<Option<File>, StateError> {
    let Some(handle) = find(state_path)? else {
        return missing(state_path).map(|()| None);
    };
    let kind = handle.metadata()?.file_type();
    let fits = kind.is_file() || (state_path.backend == Backend::Linear && kind.is_block_device());
    if !fits {
        return Err(StateError::FileType(type_name(&handle.metadata()?)));
    }
    reopen(&handle, to_write).map(Some)
}

/// Opens the regular file with this name in a directory of swtpm's user; `None` if there is none.
pub(super) fn open_in(
    dir: &File,
    dir_path: &Path,
    name: &OsStr,
) -> Result<Option<File>, StateError> {
    let Some(handle) = look(dir, name)? else {
        return Ok(None);
    };
    let metadata = handle.metadata()?;
    if metadata.is_symlink() {
        return Err(link(&dir_path.join(name), &metadata));
    }
    if !metadata.is_file() {
        return Err(StateError::FileType(type_name(&metadata)));
    }
    reopen(&handle, false).map(Some)
}

/// Opens what was looked up, whatever its path leads to now. This waits neither for a
/// FIFO nor for a lease (`F_SETLEASE`, which swtpm's user may take on its own file).
fn reopen(handle: &File, write: bool) -> Result<File, StateError> {
    match fstatfs(handle).map_err(io::Error::from)?.filesystem_type() {
        PROC_SUPER_MAGIC => return Err(StateError::KernelFile("procfs")),
        SYSFS_MAGIC => return Err(StateError::KernelFile("sysfs")),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(of_descriptor(handle));
    match file {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(StateError::Leased),
        file => Ok(file?),
    }
}

/// Looks up the state's file without opening it.
fn find(state_path: &StatePath) -> Result<Option<File>, StateError> {
    if let Base::SourceFile(path) = &state_path.base {
        return walk(path);
    }
    let Some(dir) = directory(state_path)? else {
        return Ok(None);
    };
    let Some(file) = look(&dir, &state_path.file)? else {
        return Ok(None);
    };
    let metadata = file.metadata()?;
    if metadata.is_symlink() {
        return Err(link(&state_path.path, &metadata));
    }
    Ok(Some(file))
}

fn type_name(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "neither a file nor a directory"
    }
}

/// Returns an error if libvirt and swtpm would fail because something is missing, instead of making
/// it. They fail where a file system is not mounted, which must not look like a lost TPM. A directory that could not be
/// looked at is none that is missing.
fn missing(state_path: &StatePath) -> Result<(), StateError> {
    let mut parents = state_path.path.ancestors().skip(1);
    match state_path.backend {
        Backend::Directory => {
            for parent in parents {
                if !is_there(parent.symlink_metadata())? {
                    continue;
                }
                if !is_there(parent.metadata())? {
                    return Err(StateError::DanglingLink(parent.to_owned()));
                }
                break;
            }
            Ok(())
        }
        Backend::Linear => match parents.next() {
            Some(parent) if !is_there(parent.metadata())? => {
                Err(StateError::NoDirectory(parent.to_owned()))
            }
            _ => Ok(()),
        },
    }
}

fn is_there(found: io::Result<Metadata>) -> io::Result<bool> {
    match found {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

impl StatePath {
    /// Opens the administrator's directory, which contains the others; `None` if it is missing.
    /// Returns within seconds.
    pub fn open_base(&self) -> Result<Option<File>, StateError> {
        let state_path = self.clone();
        bounded(self, move || directories::open_base(&state_path))
    }

    /// Opens the parent of what libvirt deletes with the TPM, a directory or, in the linear format,
    /// the state's file, and returns its name. `None` if there is no parent.
    pub fn open_parent_of_deleted(&self) -> Result<Option<(File, OsString)>, StateError> {
        let name = match &self.base {
            Base::Libvirt(_) => self.below.first().cloned(),
            Base::SourceDir(path) | Base::SourceFile(path) => path.file_name().map(OsStr::to_owned),
        };
        let Some(name) = name else {
            return Ok(None);
        };
        let state_path = self.clone();
        let parent = bounded(self, move || match &state_path.base {
            Base::SourceDir(path) | Base::SourceFile(path) => directories::open_parent(path),
            Base::Libvirt(_) => directories::open_base(&state_path),
        })?;
        Ok(parent.map(|parent| (parent, name)))
    }

    /// Returns what occupies a state's path: the file itself, or the first part of the path that is
    /// not a directory. Returns its directory, the directory's path, and its name.
    pub fn open_obstacle(&self) -> Result<(File, PathBuf, OsString), StateError> {
        let state_path = self.clone();
        bounded(self, move || directories::open_obstacle(&state_path))
    }

    /// Opens the regular file with this name in a directory that
    /// [`open_obstacle`](Self::open_obstacle) returned.
    pub fn open_beside(&self, dir: &File, name: &OsStr) -> Result<File, StateError> {
        let file = open_in(dir, self.directory(), name)?;
        file.ok_or_else(|| StateError::Io(ErrorKind::NotFound.into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::domain::{Emulator, StateSource, TpmVersion};
    use crate::ids::DomainUuid;

    #[test]
    fn a_directory_that_cannot_be_looked_at_is_none_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let circle = dir.path().join("circle");
        symlink(&circle, &circle).unwrap();
        for source in [
            StateSource::Dir(circle.clone()),
            StateSource::File(circle.join("store")),
        ] {
            let vtpm = Emulator {
                version: TpmVersion::V2_0,
                secret_uuid: None,
                persistent_state: false,
                source: Some(source),
            };
            let state_path = StatePath::of(dir.path(), DomainUuid::random(), &vtpm);
            let looked = missing(&state_path);
            assert!(matches!(looked, Err(StateError::Io(_))), "{looked:?}");
        }
    }
}
