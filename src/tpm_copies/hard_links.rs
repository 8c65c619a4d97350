//! Protects a TPM state that libvirt is about to delete: another host uses it, or it is damaged and
//! no other state of this TPM exists. A second directory is made next to the state's directory, with
//! a hard link to each of its files. When libvirt has deleted the first directory, the second is
//! renamed to it. So the same files exist again, with the locks that others have on them. In the
//! linear format libvirt deletes a file: then a hard link to it is all.
//!
//! On a file system without hard links the directory itself is moved away, and an empty one takes
//! its place until libvirt has deleted that.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, renameat, renameat2};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::crash;
use crate::host::dirs::of_descriptor;
use crate::host::interrupted::{openat, read_dir};
use crate::swtpm::{Backend, StateError, StatePath};

/// The depth of libvirt's directories of one TPM, and one more.
const DEPTH: usize = 3;

/// The age at which nobody waits for them any more, in milliseconds; clocks of hosts differ.
const STALE_MS: i64 = 120_000;

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
    /// The directory itself, where it was moved.
    moved: OsString,
    backend: Backend,
}

impl HardLinks {
    /// Returns the hard links of this state, which need not exist. `None` if there is no directory
    /// for them.
    pub fn of(state_path: &StatePath) -> Result<Option<Self>, StateError> {
        let Some((parent, original)) = state_path.open_parent_of_deleted()? else {
            return Ok(None);
        };
        let named = |prefix: &str| {
            let mut name = OsString::from(prefix);
            name.push(&original);
            name
        };
        Ok(Some(Self {
            parent,
            links: named(".vtpm-guard."),
            moved: named(".vtpm-guard.moved."),
            original,
            backend: state_path.backend(),
        }))
    }

    /// Makes them, or moves the directory where none can be made. Earlier ones are removed.
    pub fn make(&self) -> io::Result<()> {
        self.give_up()?;
        match (self.link_all(), self.backend) {
            (Ok(()), _) => Ok(()),
            (Err(_), Backend::Directory) => self.move_away(),
            (Err(error), Backend::Linear) => Err(error),
        }
    }

    /// Makes them anew beside a state that is back, and returns which they are; nothing is moved.
    pub fn make_again(&self) -> io::Result<(u64, u64)> {
        self.remove()?;
        self.link_all()?;
        let links = fstatat(
            &self.parent,
            self.links.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        Ok((links.st_dev, links.st_ino))
    }

    /// Removes these, unless another one has made others since.
    pub fn remove_own(&self, own: (u64, u64)) -> io::Result<()> {
        if atomic::has_name(&self.parent, &self.links, own)? {
            self.remove()?;
        }
        Ok(())
    }

    fn link_all(&self) -> io::Result<()> {
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

    /// Moves the directory away, and puts an empty one in its place that nobody else can use.
    pub(super) fn move_away(&self) -> io::Result<()> {
        let (moved, original) = (self.moved.as_os_str(), self.original.as_os_str());
        // What is moved must be there, or an empty one would be given back as the state.
        open_dir(&self.parent, &self.original)?;
        mkdirat(&self.parent, moved, Mode::S_IRWXU)?;
        let exchanged = renameat2(
            &self.parent,
            moved,
            &self.parent,
            original,
            RenameFlags::RENAME_EXCHANGE,
        );
        match exchanged {
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                // It replaces the empty one. Killed here, there is nothing that libvirt deletes.
                renameat(&self.parent, original, &self.parent, moved)?;
                mkdirat(&self.parent, original, Mode::S_IRWXU)?;
            }
            exchanged => exchanged.inspect_err(|_| {
                let _ = remove_empty(&self.parent, moved);
            })?,
        }
        self.parent.sync_all()
    }

    /// Replaces what libvirt has deleted.
    pub fn restore(&self) -> io::Result<LinksRestored> {
        if self.is_moved()? {
            self.restore_as(&self.moved)
        } else {
            self.restore_as(&self.links)
        }
    }

    /// Gives up waiting for libvirt: the links are removed, or the directory is moved back in the
    /// place of the empty one.
    pub fn give_up(&self) -> io::Result<()> {
        if self.is_moved()? {
            match remove_empty(&self.parent, &self.original) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            self.restore_as(&self.moved)?;
        }
        self.remove()
    }

    /// Returns whether the directory is away. An empty one is what a kill has left before that.
    pub fn is_moved(&self) -> io::Result<bool> {
        match remove_empty(&self.parent, &self.moved) {
            Ok(()) | Err(Errno::ENOENT) => Ok(false),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn restore_as(&self, name: &OsStr) -> io::Result<LinksRestored> {
        let (from, to) = (name, self.original.as_os_str());
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
        match crash::answer_of_rename(renamed) {
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
        is_there(&self.parent, &self.links) || is_there(&self.parent, &self.moved)
    }

    /// Removes links that stand beside the original although nobody waits for its deletion any more:
    /// what made them was killed. They would once replace a newer state. In the linear format they
    /// are the state itself. Returns whether there were any.
    pub fn remove_stale(&self, now: Timestamp) -> io::Result<bool> {
        let links = fstatat(
            &self.parent,
            self.links.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        let Ok(links) = links else { return Ok(false) };
        let made = Timestamp(links.st_ctime.saturating_mul(1000));
        let is_old = now.0.saturating_sub(made.0) > STALE_MS;
        let is_stale = is_old && self.backend == Backend::Directory;
        if is_stale && self.original_is_there() && !self.is_moved()? {
            self.remove()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Returns whether libvirt has not deleted the original.
    #[must_use]
    pub fn original_is_there(&self) -> bool {
        is_there(&self.parent, &self.original)
    }

    /// Removes the links.
    fn remove(&self) -> io::Result<()> {
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

fn is_there(dir: &File, name: &OsStr) -> bool {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

fn remove_empty(dir: &File, name: &OsStr) -> nix::Result<()> {
    unlinkat(dir, name, UnlinkatFlags::RemoveDir)
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
    let entries = read_dir(of_descriptor(dir))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}
