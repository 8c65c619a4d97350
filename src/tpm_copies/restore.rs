//! Restores a saved copy, with the owners and modes that the state had.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};

use super::manifest::{Attributes, Manifest};
use super::saved_copy::SavedCopy;
use super::spare::{self, remove_empty};
use crate::clock::Timestamp;
use crate::domain::Emulator;
use crate::host::atomic;
use crate::host::crash;
use crate::host::interrupted::openat;
use crate::host::path_error::PathError;
use crate::host::rename::rename_new_directory;
use crate::ids::DomainUuid;
use crate::swtpm::{self, Backend, StateError, StateFile, StatePath};

/// What restoring a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyRestored {
    /// The state was written.
    Written,
    /// The same state existed already: nothing was changed.
    AlreadyThere,
}

/// Why a copy was not restored. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// I/O error.
    #[error(transparent)]
    Io(#[from] PathError),
    /// The state's path cannot be used.
    #[error("{path}: {source}", path = .path.display())]
    State {
        /// The state's path.
        path: PathBuf,
        /// Why.
        source: StateError,
    },
    /// The copy is not a TPM state.
    #[error("the copy is not a TPM state that swtpm would accept: {reason}")]
    NotAState {
        /// What is wrong with it.
        reason: String,
    },
    /// Another file has the state's path.
    #[error("{path} already exists, and is not overwritten", path = .path.display())]
    Occupied {
        /// The state's path.
        path: PathBuf,
    },
    /// The domain XML has another TPM now.
    #[error("the copy is of another TPM version or storage format than in the domain XML")]
    OtherTpm,
}

/// Restores a copy: for a start at the path that its domain XML gives, otherwise at the path that it
/// had. Repeating it changes nothing. If the process is killed, there is no state or a whole one.
pub fn restore_copy(
    copy: &SavedCopy,
    start: Option<(&Path, DomainUuid, &Emulator)>,
) -> Result<CopyRestored, RestoreError> {
    let manifest = &copy.manifest;
    if let StateFile::Damaged(damage) = copy.state() {
        let reason = damage.how;
        return Err(RestoreError::NotAState { reason });
    }
    let state_path = match start {
        Some((_, _, vtpm))
            if (vtpm.version, Backend::of(vtpm)) != (manifest.tpm_version, manifest.backend) =>
        {
            return Err(RestoreError::OtherTpm);
        }
        Some((libvirt_state_dir, domain, vtpm)) => StatePath::of(libvirt_state_dir, domain, vtpm),
        None => StatePath::of_copy(&manifest.path, manifest.directories.len(), manifest.backend),
    };
    let dir = open_directories(&state_path, &manifest.directories)?;
    let owner = owner(&dir, manifest).map_err(PathError::at(&state_path.path))?;
    let set_attributes = |file: &File| {
        fchown(file, Some(owner.uid), Some(owner.gid))?;
        file.set_permissions(Permissions::from_mode(owner.mode))
    };
    match atomic::create_in(&dir, state_path.file_name(), &copy.bytes, set_attributes) {
        Ok(()) => Ok(CopyRestored::Written),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            match swtpm::read_bytes(&state_path) {
                Ok(Some(found)) if found.bytes == copy.bytes => Ok(CopyRestored::AlreadyThere),
                _ => Err(RestoreError::Occupied {
                    path: state_path.path,
                }),
            }
        }
        Err(error) => Err(PathError::new(state_path.path, error).into()),
    }
}

/// Returns owner and mode of the restored state: the owner of its directory, which is swtpm's user,
/// whoever owned the copied file.
fn owner(dir: &File, manifest: &Manifest) -> io::Result<Attributes> {
    let Attributes { uid, gid, mode } = manifest.file;
    let (uid, gid) = match manifest.backend {
        Backend::Directory => {
            let found = dir.metadata()?;
            (found.uid(), found.gid())
        }
        // The directory is the administrator's.
        Backend::Linear => (uid, gid),
    };
    Ok(Attributes {
        uid,
        gid,
        mode: mode & 0o666,
    })
}

/// Opens the directory of the state. Directories that libvirt has deleted are made again.
fn open_directories(state_path: &StatePath, wanted: &[Attributes]) -> Result<File, RestoreError> {
    let mut path = state_path.base_path().to_owned();
    let mut wanted = wanted.iter();
    let base = state_path
        .open_base()
        .map_err(|source| RestoreError::State {
            path: state_path.path.clone(),
            source,
        })?;
    let mut dir = match (base, wanted.next()) {
        (Some(base), _) => base,
        (None, Some(attributes)) => make_base(&path, *attributes).map_err(PathError::at(&path))?,
        (None, None) => return Err(PathError::new(path, Errno::ENOENT).into()),
    };
    for (name, attributes) in state_path.directories_below().iter().zip(wanted) {
        path.push(name);
        dir = open_or_make(&dir, name, *attributes).map_err(PathError::at(&path))?;
    }
    Ok(dir)
}

/// Makes libvirt's directory of all states, or the one that the domain XML names.
fn make_base(path: &Path, attributes: Attributes) -> io::Result<File> {
    let (parent, name) = path
        .parent()
        .zip(path.file_name())
        .ok_or(ErrorKind::IsADirectory)?;
    open_or_make(&File::open(parent)?, name, attributes)
}

/// Opens a directory, or makes one that has its owner and mode from the beginning.
fn open_or_make(parent: &File, name: &OsStr, attributes: Attributes) -> io::Result<File> {
    // A link would lead to a directory from which libvirt deletes nothing.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(dir) => return Ok(File::from(dir)),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    // What a killed process has left can stay, if it must. One that is not empty has links in it.
    for left in spare::left(parent, name, Timestamp::now()).unwrap_or_default() {
        let _ = remove_empty(parent, &left);
    }
    let temporary = spare::name(name)?;
    mkdirat(parent, temporary.as_os_str(), Mode::S_IRWXU)?;
    let new_dir = || {
        let made = File::from(openat(parent, temporary.as_os_str(), flags, Mode::empty())?);
        fchown(&made, Some(attributes.uid), Some(attributes.gid))?;
        made.set_permissions(Permissions::from_mode(attributes.mode))?;
        give_name(parent, &temporary, name, &made)?;
        Ok::<_, io::Error>(made)
    };
    let made = new_dir().inspect_err(|_| {
        let _ = remove_empty(parent, &temporary);
    })?;
    atomic::sync_directory(parent)?;
    Ok(made)
}

/// The directory has the name then, whatever the rename has answered: over NFS it may be done and answered with an
/// error.
fn give_name(parent: &File, temporary: &OsStr, name: &OsStr, made: &File) -> io::Result<()> {
    crash::point();
    let renamed = rename_new_directory(parent, temporary, name);
    let Err(errno) = crash::answer_of_rename(renamed) else {
        return Ok(());
    };
    let it = made.metadata()?;
    match atomic::has_name(parent, name, (it.dev(), it.ino())) {
        Ok(true) => Ok(()),
        _ => Err(errno.into()),
    }
}
