//! Moves a damaged TPM state away, so that a copy can be restored: to
//! `STATE-DIR/damaged-state/DOMAIN-UUID/`, with its owner and mode, in directories of root only.
//! Anything but a file, or a file that is too long for a state, is only renamed.
//!
//! A path that the domain XML names may lead to anybody's file: a typo is enough. There only what is known as
//! the guest's TPM state is moved.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{FileStat, SFlag, fstatat};

use super::copy_store::MAX_COPIES;
use super::error::CopyError;
use super::files::names;
use super::manifest::Manifest;
use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::crash;
use crate::host::dirs::StateDir;
use crate::host::path_error::PathError;
use crate::host::rename::rename_new;
use crate::host::{trusted, users};
use crate::ids::DomainUuid;
use crate::swtpm::{Backend, MAX_STATE_LEN, StatePath};
use crate::verdict::facts::CopyReason;

/// What follows the name of a state that was set aside, before the time.
const SUFFIX: &str = ".damaged-";

/// What has the path of a state.
struct Obstacle {
    dir: File,
    dir_path: PathBuf,
    name: OsString,
    found: FileStat,
}

/// Returns an error if what has the state's path must not be moved away for this copy.
pub fn may_be_set_aside(state_path: &StatePath, copy: &Manifest) -> Result<(), CopyError> {
    obstacle(state_path, copy).map(drop)
}

fn obstacle(state_path: &StatePath, copy: &Manifest) -> Result<Obstacle, CopyError> {
    let failed = |source| CopyError::State {
        path: state_path.path.clone(),
        source,
    };
    let at = |errno| PathError::new(&*state_path.path, errno);
    let (dir, dir_path, name) = state_path.open_obstacle().map_err(failed)?;
    let found = fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(at)?;
    if state_path.is_named_by_xml() && !is_the_guests(state_path, &found, copy) {
        return Err(CopyError::NotTheGuests {
            path: dir_path.join(&name),
            owner: users::label(found.st_uid),
        });
    }
    Ok(Obstacle {
        dir,
        dir_path,
        name,
        found,
    })
}

/// Returns whether what has a path that the domain XML names is known as the guest's TPM state.
fn is_the_guests(state_path: &StatePath, found: &FileStat, copy: &Manifest) -> bool {
    let swtpms = copy.file.uid;
    // libvirt gives the state to swtpm's user at each start; who restores it from a backup is root.
    let may_own = found.st_uid == swtpms || found.st_uid == 0;
    // A copy of another host says where the state would be here, not where one was.
    let was_here = copy.reason != CopyReason::Fleet && copy.path == state_path.path;
    let is_a_states = match state_path.backend() {
        // swtpm writes only files of this name into such a directory.
        Backend::Directory => true,
        // Its name is any, and swtpm's user owns other guests' states, too: directories, files of the
        // other format. A block device would be replaced by a file in /dev.
        Backend::Linear => {
            SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
        }
    };
    // swtpm's user owns the states of other guests, too: a wrong directory may be one of theirs.
    was_here && may_own && is_a_states
}

/// Moves what has the state's path away for this copy, and returns its new path. The state's path is free
/// then, even if the second step fails. Nothing is lost, even if the process is killed.
pub fn set_aside(
    state_dir: &StateDir,
    domain: DomainUuid,
    state_path: &StatePath,
    copy: &Manifest,
    now: Timestamp,
) -> Result<PathBuf, CopyError> {
    let at = |errno| PathError::new(&*state_path.path, errno);
    let Obstacle {
        dir,
        dir_path,
        name,
        found,
    } = obstacle(state_path, copy)?;
    let mut aside = name.clone();
    aside.push(format!("{SUFFIX}{}", now.0));
    let renamed = rename_new(&dir, &name, &aside, || {
        // The name is unused: it ends in the time.
        renameat(&dir, name.as_os_str(), &dir, aside.as_os_str())
    });
    if let Err(errno) = crash::answer_of_rename(renamed) {
        // Over NFS it may be done all the same.
        let is_aside = atomic::has_name(&dir, &aside, (found.st_dev, found.st_ino));
        if !matches!(is_aside, Ok(true)) {
            return Err(at(errno).into());
        }
    }
    let renamed_to = dir_path.join(&aside);
    Ok(move_to_state_dir(state_dir, domain, state_path, &dir, &aside).unwrap_or_else(|error| {
        tracing::info!(%error, path = %renamed_to.display(), "the damaged state is renamed, but not moved");
        renamed_to
    }))
}

/// Removes what was set aside of this guest.
pub fn remove_damaged(state_dir: &StateDir, domain: DomainUuid) -> Result<bool, CopyError> {
    let dir = guest_dir(state_dir, domain);
    Ok(trusted::remove_dir(&dir).map_err(PathError::at(&dir))?)
}

fn guest_dir(state_dir: &StateDir, domain: DomainUuid) -> PathBuf {
    state_dir.damaged_states().join(domain.to_string())
}

/// Copies the file into the guard's own directory, and then removes it.
fn move_to_state_dir(
    state_dir: &StateDir,
    domain: DomainUuid,
    state_path: &StatePath,
    dir: &File,
    aside: &OsString,
) -> io::Result<PathBuf> {
    let file = state_path
        .open_beside(dir, aside)
        .map_err(io::Error::other)?;
    let metadata = file.metadata()?;
    if metadata.len() > u64::from(MAX_STATE_LEN) {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    file.take(u64::from(MAX_STATE_LEN))
        .read_to_end(&mut bytes)?;
    let to = guest_dir(state_dir, domain);
    let open = trusted::make_dir(&to, trusted::STATE_DIR)?;
    atomic::create_in(&open, aside, &bytes, |copy| {
        atomic::set_attributes(copy, &metadata)
    })?;
    atomic::remove(dir, aside)?;
    if let Err(error) = drop_surplus(&open, &to, aside) {
        tracing::warn!(%error, path = %to.display(), "damaged states of earlier starts could not be removed");
    }
    Ok(to.join(aside))
}

/// Removes what was set aside of a guest, all but the first, the latest and this one: whoever may damage
/// a state may do so before each start. The first may be what the guest had; the latest is what this start found.
fn drop_surplus(open: &File, path: &Path, latest: &OsStr) -> Result<(), CopyError> {
    let mut others: Vec<_> = (names(path)?.into_iter())
        .filter(|name| name != latest)
        .filter_map(|name| Some((set_aside_at(&name)?, name)))
        .collect();
    others.sort();
    let surplus = others.len().saturating_sub(MAX_COPIES - 1);
    for (_, name) in others.iter().skip(1).take(surplus) {
        atomic::remove(open, name).map_err(PathError::at(&path.join(name)))?;
    }
    Ok(())
}

fn set_aside_at(name: &OsStr) -> Option<i64> {
    let (_, time) = name.to_str()?.rsplit_once(SUFFIX)?;
    time.parse().ok()
}
