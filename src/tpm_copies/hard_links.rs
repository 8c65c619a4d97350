//! Protects a TPM state that libvirt is about to delete: another host uses it, or it is damaged and
//! no other state of this TPM exists. A second directory is made next to the state's directory, with
//! a hard link to each of its files. When libvirt has deleted the first directory, the second is
//! renamed to it. So the same files exist again, with the locks that others have on them. In the
//! linear format libvirt deletes a file: then a hard link to it is all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::host::dirs::of_descriptor;
use crate::swtpm::{Backend, StateError, StatePath};

/// The depth of libvirt's directories of one TPM, and one more.
const DEPTH: usize = 3;

/// What happened to a state with hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinksRestored {
    /// libvirt had deleted it, and it is restored.
    Restored,
    /// libvirt has not deleted it.
    StillThere,
    /// It has no hard links.
    NoLinks,
}

/// The hard links to one TPM's files.
pub struct HardLinks {
    parent: File,
    /// The directory or, in the linear format, the file that libvirt deletes.
    original: OsString,
    /// The directory with the hard links, or the hard link.
    links: OsString,
    backend: Backend,
}

impl HardLinks {
    /// Returns the hard links of this state, which need not exist. `None` if there is no directory
    /// for them.
    pub fn of(state_path: &StatePath) -> Result<Option<Self>, StateError> {
        let Some((parent, original)) = state_path.open_parent_of_deleted()? else {
            return Ok(None);
        };
        let mut links = OsString::from(".vtpm-guard.");
        links.push(&original);
        Ok(Some(Self {
            parent,
            original,
            links,
            backend: state_path.backend(),
        }))
    }

    /// Makes them. Earlier ones are removed.
    pub fn make(&self) -> io::Result<()> {
        self.remove()?;
        if self.backend == Backend::Linear {
            return link(&self.parent, &self.original, &self.parent, &self.links);
        }
        let original = open_dir(&self.parent, &self.original)?;
        mkdirat(&self.parent, self.links.as_os_str(), Mode::S_IRWXU)?;
        let links = open_dir(&self.parent, &self.links)?;
        link_all(&original, &links, DEPTH).inspect_err(|_| {
            let _ = self.remove();
        })
    }

    /// Replaces what libvirt has deleted.
    pub fn restore(&self) -> io::Result<LinksRestored> {
        let (from, to) = (self.links.as_os_str(), self.original.as_os_str());
        let renamed = match renameat2(
            &self.parent,
            from,
            &self.parent,
            to,
            RenameFlags::RENAME_NOREPLACE,
        ) {
            // NFS. A directory cannot be renamed over one that has files in it; a file could, so it
            // gets a second link, and loses the first.
            Err(Errno::EINVAL | Errno::ENOSYS) => match self.backend {
                Backend::Directory => renameat(&self.parent, from, &self.parent, to),
                Backend::Linear => linkat(&self.parent, from, &self.parent, to, AtFlags::empty())
                    .and_then(|()| unlinkat(&self.parent, from, UnlinkatFlags::NoRemoveDir)),
            },
            renamed => renamed,
        };
        match renamed {
            Ok(()) => {
                self.parent.sync_all()?;
                Ok(LinksRestored::Restored)
            }
            Err(Errno::ENOENT) => Ok(LinksRestored::NoLinks),
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => Ok(LinksRestored::StillThere),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns whether they exist.
    #[must_use]
    pub fn exist(&self) -> bool {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fstatat(&self.parent, self.links.as_os_str(), flags).is_ok()
    }

    /// Removes them.
    pub fn remove(&self) -> io::Result<()> {
        if self.backend == Backend::Directory {
            return remove_all(&self.parent, &self.links, DEPTH);
        }
        match unlinkat(
            &self.parent,
            self.links.as_os_str(),
            UnlinkatFlags::NoRemoveDir,
        ) {
            Err(Errno::ENOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }
}

/// Makes hard links in a directory to everything in another, and copies its owner and mode.
fn link_all(from: &File, to: &File, depth: usize) -> io::Result<()> {
    for name in names(from)? {
        match open_dir(from, &name) {
            Ok(dir) if depth > 0 => {
                mkdirat(to, name.as_os_str(), Mode::S_IRWXU)?;
                link_all(&dir, &open_dir(to, &name)?, depth - 1)?;
            }
            Ok(_) => return Err(ErrorKind::QuotaExceeded.into()),
            Err(_) => link(from, &name, to, &name)?,
        }
    }
    let found = from.metadata()?;
    fchown(to, Some(found.uid()), Some(found.gid()))?;
    to.set_permissions(Permissions::from_mode(found.mode() & 0o7777))
}

/// Makes a hard link. A symbolic link gets one itself, and is not followed.
fn link(from: &File, name: &OsStr, to: &File, new_name: &OsStr) -> io::Result<()> {
    Ok(linkat(from, name, to, new_name, AtFlags::empty())?)
}

fn remove_all(parent: &File, name: &OsStr, depth: usize) -> io::Result<()> {
    let dir = match open_dir(parent, name) {
        Ok(dir) => dir,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for inside in names(&dir)? {
        match unlinkat(&dir, inside.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) if depth > 0 => remove_all(&dir, &inside, depth - 1)?,
            removed => removed?,
        }
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

fn open_dir(parent: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?.into())
}

/// Returns the names in an open directory, whatever its path leads to now.
fn names(dir: &File) -> io::Result<Vec<OsString>> {
    let entries = fs::read_dir(of_descriptor(dir))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}
