//! Opens a TPM state, and the directory that holds it, for reading as root.
//!
//! Both belong to swtpm's user, and a swtpm that its guest has taken over may put anything in
//! their place at any moment: a link to a file of root's, a FIFO, a file under a lease. So the
//! directories are opened one by one from a directory of the administrator's, no link is followed
//! below it, and what is found is looked at before it is opened for reading.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};

use super::StateError;
use super::state_path::{Backend, Base, StatePath};
use crate::host::dirs::of_descriptor;
use crate::host::trusted::{self, Distrust, Reason, Trusted};
use crate::host::users;

/// Opens what can hold a state, for reading. `None`: there is nothing, and libvirt would make a
/// new TPM there.
pub(super) fn open(place: &StatePath) -> Result<Option<File>, StateError> {
    let Some(handle) = find(place)? else {
        return missing(place).map(|()| None);
    };
    let kind = handle.metadata()?.file_type();
    let fits = kind.is_file() || (place.backend == Backend::Linear && kind.is_block_device());
    if !fits {
        return Err(StateError::FileType(type_name(&handle.metadata()?)));
    }
    reopen(&handle).map(Some)
}

/// The directory that holds the state, for what is done in it by name. `None`: there is none.
pub(super) fn open_directory(place: &StatePath) -> Result<Option<File>, StateError> {
    directory(place)?
        .map(|dir| reopen_directory(&dir))
        .transpose()
}

/// The administrator's directory, below which libvirt makes others. `None`: there is none.
pub(super) fn open_base(place: &StatePath) -> Result<Option<File>, StateError> {
    let Some(base) = look_at_base(place)? else {
        return Ok(None);
    };
    check_directory(&base, place.base_path())?;
    reopen_directory(&base).map(Some)
}

/// The directory that holds what has this path; `None` if there is none.
pub(super) fn open_parent(path: &Path) -> Result<Option<File>, StateError> {
    let parent = walk(path.parent().unwrap_or(Path::new("/")))?;
    parent.map(|parent| reopen_directory(&parent)).transpose()
}

/// What is in the way of a state: [`StatePath::open_obstacle`].
pub(super) fn open_obstacle(place: &StatePath) -> Result<(File, PathBuf, OsString), StateError> {
    let gone = || StateError::Io(ErrorKind::NotFound.into());
    let mut dir = look_at_base(place)?.ok_or_else(gone)?;
    let mut path = place.base_path().to_owned();
    check_directory(&dir, &path)?;
    for name in &place.below {
        let next = look(&dir, name)?.ok_or_else(gone)?;
        if !next.metadata()?.is_dir() {
            return Ok((reopen_directory(&dir)?, path, name.clone()));
        }
        path.push(name);
        dir = next;
    }
    Ok((reopen_directory(&dir)?, path, place.file.clone()))
}

/// The directory of this name in another, itself and not behind a link; `None` if there is none.
pub(super) fn open_directory_in(parent: &File, name: &OsStr) -> Result<Option<File>, StateError> {
    let Some(dir) = look(parent, name)? else {
        return Ok(None);
    };
    check_directory(&dir, Path::new(name))?;
    reopen_directory(&dir).map(Some)
}

/// The names in a directory that is open, whatever its path leads to by now.
pub(super) fn names_in(dir: &File) -> Result<Vec<OsString>, StateError> {
    let entries = fs::read_dir(of_descriptor(dir))?;
    let names = entries.map(|entry| Ok(entry?.file_name()));
    Ok(names.collect::<io::Result<_>>()?)
}

fn reopen_directory(handle: &File) -> Result<File, StateError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = openat(handle, ".", flags, Mode::empty()).map_err(io::Error::from)?;
    Ok(dir.into())
}

/// The regular file of this name in a directory of swtpm's user; `None` if there is none.
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
    reopen(&handle).map(Some)
}

/// Opens for reading what was looked at, whatever its path leads to by now. Neither a FIFO nor a
/// lease (`F_SETLEASE`, which swtpm's user may take on its own file) is waited for.
fn reopen(handle: &File) -> Result<File, StateError> {
    match fstatfs(handle).map_err(io::Error::from)?.filesystem_type() {
        PROC_SUPER_MAGIC => return Err(StateError::KernelFile("procfs")),
        SYSFS_MAGIC => return Err(StateError::KernelFile("sysfs")),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(of_descriptor(handle));
    match file {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(StateError::Leased),
        file => Ok(file?),
    }
}

/// The state's file, looked at and not opened.
fn find(place: &StatePath) -> Result<Option<File>, StateError> {
    if let Base::SourceFile(path) = &place.base {
        return walk(path);
    }
    let Some(dir) = directory(place)? else {
        return Ok(None);
    };
    let Some(file) = look(&dir, &place.file)? else {
        return Ok(None);
    };
    let metadata = file.metadata()?;
    if metadata.is_symlink() {
        return Err(link(&place.path, &metadata));
    }
    Ok(Some(file))
}

/// The directory of the state, looked at.
fn directory(place: &StatePath) -> Result<Option<File>, StateError> {
    let Some(mut dir) = look_at_base(place)? else {
        return Ok(None);
    };
    let mut path = place.base_path().to_owned();
    check_directory(&dir, &path)?;
    for name in &place.below {
        path.push(name);
        let Some(next) = look(&dir, name)? else {
            return Ok(None);
        };
        check_directory(&next, &path)?;
        dir = next;
    }
    Ok(Some(dir))
}

/// Owner and mode of the directories around the state that libvirt makes where they are missing,
/// from the outermost: its own of all states, and those below; else the one that the domain XML
/// names.
pub(super) fn directories(place: &StatePath) -> Result<Vec<Metadata>, StateError> {
    if matches!(place.base, Base::SourceFile(_)) {
        return Ok(Vec::new());
    }
    let Some(mut dir) = look_at_base(place)? else {
        return Ok(Vec::new());
    };
    let mut found = vec![dir.metadata()?];
    for name in &place.below {
        let Some(next) = look(&dir, name)? else {
            break;
        };
        found.push(next.metadata()?);
        dir = next;
    }
    Ok(found)
}

fn look_at_base(place: &StatePath) -> Result<Option<File>, StateError> {
    match &place.base {
        Base::Libvirt(base) => look_at(base),
        Base::SourceDir(_) | Base::SourceFile(_) => walk(place.base_path()),
    }
}

fn check_directory(dir: &File, path: &Path) -> Result<(), StateError> {
    let metadata = dir.metadata()?;
    if metadata.is_symlink() {
        Err(link(path, &metadata))
    } else if metadata.is_dir() {
        Ok(())
    } else {
        Err(StateError::NotADirectory(path.to_owned()))
    }
}

/// What has this path, links followed; `None` if there is nothing.
fn look_at(path: &Path) -> Result<Option<File>, StateError> {
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    match handle {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        handle => Ok(Some(handle?)),
    }
}

/// What has this name in a directory, itself if it is a link; `None` if there is nothing.
fn look(dir: &File, name: &OsStr) -> Result<Option<File>, StateError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(handle) => Ok(Some(handle.into())),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

/// What has this path, where only links of root's own are followed, in directories that nobody
/// else may write: those of the administrator. `None` if there is nothing.
fn walk(path: &Path) -> Result<Option<File>, StateError> {
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

fn link(path: &Path, metadata: &Metadata) -> StateError {
    StateError::Link {
        link: path.to_owned(),
        maker: users::label(metadata.uid()),
    }
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

/// Whether libvirt and swtpm would make what is missing, or fail. Failing is what they do where
/// a file system is not mounted, and nobody should take that for a lost TPM.
fn missing(place: &StatePath) -> Result<(), StateError> {
    let mut parents = place.path.ancestors().skip(1);
    match place.backend {
        Backend::Directory => match parents.find(|parent| parent.is_symlink() || parent.exists()) {
            Some(link) if !link.exists() => Err(StateError::DanglingLink(link.to_owned())),
            _ => Ok(()),
        },
        Backend::Linear => match parents.next() {
            Some(parent) if !parent.exists() => Err(StateError::NoDirectory(parent.to_owned())),
            _ => Ok(()),
        },
    }
}
