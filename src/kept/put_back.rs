//! Puts a kept copy back in its state's place, with owners and modes as they were.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::manifest::Attributes;
use super::shelf::KeptState;
use crate::domain::Emulator;
use crate::durable;
use crate::ids::DomainUuid;
use crate::swtpm::{self, Backend, state_path};

/// What putting a copy back did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutBack {
    /// The state is there again.
    Done,
    /// These very bytes were there already: nothing was changed.
    AlreadyThere,
}

/// Why a copy was not put back. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum PutBackError {
    /// The system says no.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else stands in the state's place.
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
pub fn put_back(
    copy: &KeptState,
    start: Option<(&Path, DomainUuid, &Emulator)>,
) -> Result<PutBack, PutBackError> {
    let manifest = &copy.manifest;
    let path = match start {
        Some((_, _, vtpm))
            if (vtpm.version, Backend::of(vtpm)) != (manifest.tpm_version, manifest.backend) =>
        {
            return Err(PutBackError::OtherTpm);
        }
        Some((libvirt_state_dir, domain, vtpm)) => state_path(libvirt_state_dir, domain, vtpm),
        None => manifest.path.clone(),
    };
    let failed = |source| PutBackError::Io {
        path: path.clone(),
        source,
    };
    let name = path
        .file_name()
        .ok_or_else(|| failed(ErrorKind::IsADirectory.into()))?;
    let dir = open_directories(&path, &manifest.directories)?;
    let Attributes { uid, gid, mode } = manifest.file;
    let dress = |file: &File| {
        fchown(file, Some(uid), Some(gid))?;
        file.set_permissions(Permissions::from_mode(mode))
    };
    match durable::create_in(&dir, name, &copy.bytes, dress) {
        Ok(()) => Ok(PutBack::Done),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            match swtpm::read_bytes(&path, manifest.backend) {
                Ok(Some((_, bytes))) if bytes == copy.bytes => Ok(PutBack::AlreadyThere),
                _ => Err(PutBackError::Occupied { path }),
            }
        }
        Err(error) => Err(failed(error)),
    }
}

/// Opens the directory of the state, and makes those that libvirt has deleted.
fn open_directories(path: &Path, wanted: &[Attributes]) -> Result<File, PutBackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PutBackError::Io { path, source }
    };
    let mut paths: Vec<&Path> = path.ancestors().skip(1).take(wanted.len() + 1).collect();
    paths.reverse();
    let Some((base, own)) = paths.split_first() else {
        return Err(failed(path)(ErrorKind::NotADirectory.into()));
    };
    let mut dir = File::open(base).map_err(failed(base))?;
    for (path, attributes) in own.iter().zip(wanted) {
        let name = path.file_name().unwrap_or_default();
        dir = open_or_make(&dir, name, *attributes).map_err(failed(path))?;
    }
    Ok(dir)
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
