//! The directories around a TPM state, opened as root from the administrator's down to swtpm's.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::error::StateError;
use super::state_path::{Base, StatePath};
use super::walk::{check_directory, look, look_at, walk};
use crate::host;
use crate::host::dirs::of_descriptor;
use crate::host::interrupted::{openat, read_dir};

/// Does `work`, which reads at this path, within seconds, whatever its file system does.
pub(super) fn bounded<T: Send + 'static>(
    state_path: &StatePath,
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    let common = state_path.common_directory();
    host::bounded::bounded(&common, work)?
}

/// Does this once more where it may have failed for a moment alone (memory, descriptors, threads). A file
/// system that has not answered in time is not waited for again, and asked only if it answers by now.
pub(super) fn once_more<T>(look: impl Fn() -> Result<T, StateError>) -> Result<T, StateError> {
    match look() {
        Err(StateError::Io(_) | StateError::Unanswered(_)) => look(),
        looked => looked,
    }
}

/// Opens the directory of the state's file. `None`: there is none.
pub(super) fn open_directory(state_path: &StatePath) -> Result<Option<File>, StateError> {
    directory(state_path)?
        .map(|dir| reopen_directory(&dir))
        .transpose()
}

/// Opens the administrator's directory, below which libvirt makes others. `None`: there is none.
pub(super) fn open_base(state_path: &StatePath) -> Result<Option<File>, StateError> {
    let Some(base) = look_at_base(state_path)? else {
        return Ok(None);
    };
    check_directory(&base, state_path.base_path())?;
    reopen_directory(&base).map(Some)
}

/// Opens the parent directory of this path; `None` if there is none.
pub(super) fn open_parent(path: &Path) -> Result<Option<File>, StateError> {
    let parent = walk(path.parent().unwrap_or(Path::new("/")))?;
    parent.map(|parent| reopen_directory(&parent)).transpose()
}

/// See [`StatePath::open_obstacle`].
pub(super) fn open_obstacle(
    state_path: &StatePath,
) -> Result<(File, PathBuf, OsString), StateError> {
    let gone = || StateError::Io(ErrorKind::NotFound.into());
    let mut dir = look_at_base(state_path)?.ok_or_else(gone)?;
    let mut path = state_path.base_path().to_owned();
    check_directory(&dir, &path)?;
    for name in &state_path.below {
        let next = look(&dir, name)?.ok_or_else(gone)?;
        if !next.metadata()?.is_dir() {
            return Ok((reopen_directory(&dir)?, path, name.clone()));
        }
        path.push(name);
        dir = next;
    }
    Ok((reopen_directory(&dir)?, path, state_path.file.clone()))
}

/// Opens the directory with this name in another, not through a link; `None` if there is none.
pub(super) fn open_directory_in(parent: &File, name: &OsStr) -> Result<Option<File>, StateError> {
    let Some(dir) = look(parent, name)? else {
        return Ok(None);
    };
    check_directory(&dir, Path::new(name))?;
    reopen_directory(&dir).map(Some)
}

/// Returns the names in an open directory, whatever its path leads to now.
pub(super) fn names_in(dir: &File) -> Result<Vec<OsString>, StateError> {
    let entries = read_dir(of_descriptor(dir))?;
    let names = entries.map(|entry| Ok(entry?.file_name()));
    Ok(names.collect::<io::Result<_>>()?)
}

fn reopen_directory(handle: &File) -> Result<File, StateError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = openat(handle, ".", flags, Mode::empty()).map_err(io::Error::from)?;
    Ok(dir.into())
}

/// Looks up the directory of the state's file.
pub(super) fn directory(state_path: &StatePath) -> Result<Option<File>, StateError> {
    let Some(mut dir) = look_at_base(state_path)? else {
        return Ok(None);
    };
    let mut path = state_path.base_path().to_owned();
    check_directory(&dir, &path)?;
    for name in &state_path.below {
        path.push(name);
        let Some(next) = look(&dir, name)? else {
            return Ok(None);
        };
        check_directory(&next, &path)?;
        dir = next;
    }
    Ok(Some(dir))
}

/// Returns owner and mode of the directories around the state that libvirt makes if they are missing,
/// from the outermost: its directory of all states, and those below it; otherwise the directory that
/// the domain XML names.
pub(super) fn directories(state_path: &StatePath) -> Result<Vec<Metadata>, StateError> {
    if matches!(state_path.base, Base::SourceFile(_)) {
        return Ok(Vec::new());
    }
    let Some(mut dir) = look_at_base(state_path)? else {
        return Ok(Vec::new());
    };
    let mut found = vec![dir.metadata()?];
    for name in &state_path.below {
        let Some(next) = look(&dir, name)? else {
            break;
        };
        found.push(next.metadata()?);
        dir = next;
    }
    Ok(found)
}

fn look_at_base(state_path: &StatePath) -> Result<Option<File>, StateError> {
    match &state_path.base {
        Base::Libvirt(base) => look_at(base),
        Base::SourceDir(_) | Base::SourceFile(_) => walk(state_path.base_path()),
    }
}
