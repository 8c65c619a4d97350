//! A damaged TPM state, moved out of the way of a copy: `STATE-DIR/damaged-state/DOMAIN-UUID/`
//! gets the file, with its owner and mode, in directories that are root's alone. What is no file,
//! or too long for one, stays beside its place, under another name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat, renameat2};

use super::CopyError;
use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::dirs::StateDir;
use crate::host::path_error::PathError;
use crate::host::trusted;
use crate::ids::DomainUuid;
use crate::swtpm::{MAX_STATE_LEN, StatePath};

/// Moves what is in the state's place away, and says where it is now. Its place is free then,
/// also where this fails half-way; nothing is lost by that, nor by a kill.
pub fn set_aside(
    state_dir: &StateDir,
    domain: DomainUuid,
    place: &StatePath,
    now: Timestamp,
) -> Result<PathBuf, CopyError> {
    let failed = |source| CopyError::State {
        path: place.path.clone(),
        source,
    };
    let (dir, dir_path, name) = place.open_obstacle().map_err(failed)?;
    let mut aside = name.clone();
    aside.push(format!(".damaged-{}", now.0));
    let renamed = match renameat2(
        &dir,
        name.as_os_str(),
        &dir,
        aside.as_os_str(),
        RenameFlags::RENAME_NOREPLACE,
    ) {
        // NFS. The name is new: it ends in the time.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            renameat(&dir, name.as_os_str(), &dir, aside.as_os_str())
        }
        renamed => renamed,
    };
    renamed.map_err(|errno| PathError::new(&*place.path, errno))?;
    let beside = dir_path.join(&aside);
    Ok(keep(state_dir, domain, place, &dir, &aside).unwrap_or_else(|error| {
        tracing::info!(%error, path = %beside.display(), "the damaged state stays beside its place");
        beside
    }))
}

/// Copies the file into the guard's own directory, and removes it then.
fn keep(
    state_dir: &StateDir,
    domain: DomainUuid,
    place: &StatePath,
    dir: &File,
    aside: &OsString,
) -> io::Result<PathBuf> {
    let file = place.open_beside(dir, aside).map_err(io::Error::other)?;
    let metadata = file.metadata()?;
    if metadata.len() > u64::from(MAX_STATE_LEN) {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    file.take(u64::from(MAX_STATE_LEN))
        .read_to_end(&mut bytes)?;
    let to = state_dir.damaged_states().join(domain.to_string());
    let open = trusted::make_dir(&to, trusted::STATE_DIR)?;
    atomic::create_in(&open, aside, &bytes, |copy| {
        atomic::set_attributes(copy, &metadata)
    })?;
    atomic::remove(dir, aside)?;
    Ok(to.join(aside))
}
