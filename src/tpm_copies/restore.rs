//! Puts a kept copy back in its state's place, with owners and modes as they were.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::copy_store::SavedCopy;
use super::manifest::{Attributes, Manifest};
use crate::domain::Emulator;
use crate::host::atomic;
use crate::host::path_error::PathError;
use crate::ids::DomainUuid;
use crate::swtpm::{self, Backend, StateError, StateFile, StatePath};

/// What putting a copy back did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyRestored {
    /// The state is there again.
    Written,
    /// These very bytes were there already: nothing was changed.
    AlreadyThere,
}

/// Why a copy was not put back. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// I/O error.
    #[error(transparent)]
    Io(#[from] PathError),
    /// The way to the state's place cannot be used.
    #[error("{path}: {source}", path = .path.display())]
    State {
        /// The state's place.
        path: PathBuf,
        /// Why.
        source: StateError,
    },
    /// The copy is no TPM state.
    #[error("the copy is no TPM state that swtpm would take: {how}")]
    NotAState {
        /// What is wrong with it.
        how: String,
    },
    /// Something else is in the state's place.
    #[error("{path}: something is there already, and it is not overwritten", path = .path.display())]
    Occupied {
        /// The state's place.
        path: PathBuf,
    },
    /// The domain XML has another TPM by now.
    #[error(
        "the copy is of a TPM of another version, or kept in another format, than the domain XML says"
    )]
    OtherTpm,
}

/// Puts a copy back: for a start in the place that its domain XML names, without one where it
/// was. Doing it again changes nothing; a kill leaves the place without a state, or with all of it.
pub fn restore_copy(
    copy: &SavedCopy,
    start: Option<(&Path, DomainUuid, &Emulator)>,
) -> Result<CopyRestored, RestoreError> {
    let manifest = &copy.manifest;
    if let StateFile::Damaged(how) = copy.state() {
        return Err(RestoreError::NotAState { how });
    }
    let place = match start {
        Some((_, _, vtpm))
            if (vtpm.version, Backend::of(vtpm)) != (manifest.tpm_version, manifest.backend) =>
        {
            return Err(RestoreError::OtherTpm);
        }
        Some((libvirt_state_dir, domain, vtpm)) => StatePath::of(libvirt_state_dir, domain, vtpm),
        None => StatePath::of_copy(&manifest.path, manifest.directories.len(), manifest.backend),
    };
    let dir = open_directories(&place, &manifest.directories)?;
    let owner = owner(&dir, manifest).map_err(PathError::at(&place.path))?;
    let dress = |file: &File| {
        fchown(file, Some(owner.uid), Some(owner.gid))?;
        file.set_permissions(Permissions::from_mode(owner.mode))
    };
    match atomic::create_in(&dir, place.file_name(), &copy.bytes, dress) {
        Ok(()) => Ok(CopyRestored::Written),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match swtpm::read_bytes(&place) {
            Ok(Some(found)) if found.bytes == copy.bytes => Ok(CopyRestored::AlreadyThere),
            _ => Err(RestoreError::Occupied { path: place.path }),
        },
        Err(error) => Err(PathError::new(place.path, error).into()),
    }
}

/// Whose the state becomes: the user's who owns its directory, which is swtpm's. A copy of a file
/// of somebody else's does not come back as his.
fn owner(dir: &File, manifest: &Manifest) -> io::Result<Attributes> {
    let Attributes { uid, gid, mode } = manifest.file;
    let (uid, gid) = match manifest.backend {
        Backend::Directory => {
            let found = dir.metadata()?;
            (found.uid(), found.gid())
        }
        // It is in a directory of the administrator's.
        Backend::Linear => (uid, gid),
    };
    Ok(Attributes {
        uid,
        gid,
        mode: mode & 0o666,
    })
}

/// Opens the directory of the state, and makes those that libvirt has deleted.
fn open_directories(place: &StatePath, wanted: &[Attributes]) -> Result<File, RestoreError> {
    let mut path = place.base_path().to_owned();
    let mut wanted = wanted.iter();
    let base = place.open_base().map_err(|source| RestoreError::State {
        path: place.path.clone(),
        source,
    })?;
    let mut dir = match (base, wanted.next()) {
        (Some(base), _) => base,
        (None, Some(attributes)) => make_base(&path, *attributes).map_err(PathError::at(&path))?,
        (None, None) => return Err(PathError::new(path, ErrorKind::NotFound).into()),
    };
    for (name, attributes) in place.directories_below().iter().zip(wanted) {
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

/// A directory that is there stays as it is. One that is made appears with its owner and mode.
fn open_or_make(parent: &File, name: &OsStr, attributes: Attributes) -> io::Result<File> {
    // A link would lead to where libvirt deletes nothing.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(dir) => return Ok(File::from(dir)),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut temporary = OsString::from(".vtpm-guard.");
    temporary.push(name);
    // What a killed predecessor left is empty.
    let _ = unlinkat(parent, temporary.as_os_str(), UnlinkatFlags::RemoveDir);
    mkdirat(parent, temporary.as_os_str(), Mode::S_IRWXU)?;
    let dir = File::from(openat(parent, temporary.as_os_str(), flags, Mode::empty())?);
    fchown(&dir, Some(attributes.uid), Some(attributes.gid))?;
    dir.set_permissions(Permissions::from_mode(attributes.mode))?;
    let no_replace = RenameFlags::RENAME_NOREPLACE;
    renameat2(parent, temporary.as_os_str(), parent, name, no_replace)?;
    parent.sync_all()?;
    Ok(dir)
}
