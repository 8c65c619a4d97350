//! Moves a damaged TPM state away, so that a copy can be restored: to
//! `STATE-DIR/damaged-state/DOMAIN-UUID/`, with its owner and mode, in directories of root only.
//! Anything but a file, or a file that is too long for a state, is only renamed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstatat;

use super::error::CopyError;
use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::crash;
use crate::host::dirs::StateDir;
use crate::host::path_error::PathError;
use crate::host::rename::rename_new;
use crate::host::trusted;
use crate::ids::DomainUuid;
use crate::swtpm::{MAX_STATE_LEN, StatePath};

/// Moves what has the state's path away, and returns its new path. The state's path is free then,
/// even if the second step fails. Nothing is lost, even if the process is killed.
pub fn set_aside(
    state_dir: &StateDir,
    domain: DomainUuid,
    state_path: &StatePath,
    now: Timestamp,
) -> Result<PathBuf, CopyError> {
    let failed = |source| CopyError::State {
        path: state_path.path.clone(),
        source,
    };
    let at = |errno| PathError::new(&*state_path.path, errno);
    let (dir, dir_path, name) = state_path.open_obstacle().map_err(failed)?;
    let found = fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(at)?;
    let mut aside = name.clone();
    aside.push(format!(".damaged-{}", now.0));
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
    Ok(to.join(aside))
}
