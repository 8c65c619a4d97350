//! Protects a TPM state that libvirt is about to delete: another host uses it, or it is damaged and
//! no other state of this TPM exists. A second directory is made next to the state's directory, with
//! a hard link to each of its files. When libvirt has deleted the first directory, the second is
//! renamed to it. So the same files exist again, with the locks that others have on them. In the
//! linear format libvirt deletes a file: then a hard link to it is all.
//!
//! The second directory is made and removed under a third name, so it is whole or not there. Where
//! libvirt may delete the state once more, another one like it is renamed in its stead, and it stays:
//! a state that another host uses is never without links.
//!
//! On a file system without hard links the directory itself is moved away, and an empty one takes
//! its place until libvirt has deleted that.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::spare::{self, is_old, names, remove_empty, stat};
use crate::clock::Timestamp;
use crate::host::atomic;
use crate::host::crash;
use crate::host::interrupted::openat;
use crate::host::rename;
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

    /// Returns where the linked state of this path is. Who has it locked has it locked here, too, also while libvirt deletes
    /// the original.
    #[must_use]
    pub fn linked(&self, state_path: &StatePath) -> StatePath {
        state_path.under_another_name(&self.links)
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

    /// Returns which ones they are, by device and inode. `None` if there are none, or if the directory
    /// itself was moved.
    #[must_use]
    pub fn identity(&self) -> Option<(u64, u64)> {
        let found = stat(&self.parent, &self.links).ok()?;
        Some((found.st_dev, found.st_ino))
    }

    /// Removes these, unless another one has made others since. In the linear format all are the same
    /// file.
    pub fn remove_own(&self, own: (u64, u64)) -> io::Result<()> {
        if atomic::has_name(&self.parent, &self.links, own)? {
            self.remove(Timestamp::now())?;
        }
        Ok(())
    }

    fn link_all(&self) -> io::Result<()> {
        if self.backend == Backend::Linear {
            return link(&self.parent, &self.original, &self.parent, &self.links);
        }
        let spare = self.link_as_spare(&self.original)?;
        crash::point();
        let named = self.rename(&spare, &self.links);
        named.map_err(|errno| {
            let _ = self.remove_links(&spare);
            errno.into()
        })
    }

    /// Makes links to a directory's files, or to a file, under a name that nobody else makes: not the
    /// process of a start that comes next, not another host.
    fn link_as_spare(&self, name: &OsStr) -> io::Result<OsString> {
        let spare = spare::name(&self.original)?;
        if self.backend == Backend::Linear {
            link(&self.parent, name, &self.parent, &spare)?;
            return Ok(spare);
        }
        let from = open_dir(&self.parent, name)?;
        mkdirat(&self.parent, spare.as_os_str(), Mode::S_IRWXU)?;
        crash::point();
        let linked = open_dir(&self.parent, &spare).and_then(|to| link_all(&from, &to, DEPTH));
        // Of one that is being removed, not all may have been there.
        let it = from.metadata()?;
        let linked = linked.and_then(|()| {
            let is_it = atomic::has_name(&self.parent, name, (it.dev(), it.ino()))?;
            is_it.then_some(()).ok_or(ErrorKind::NotFound.into())
        });
        linked.inspect_err(|_| {
            let _ = self.remove_links(&spare);
        })?;
        Ok(spare)
    }

    /// Moves the directory away, and puts an empty one in its place that nobody else can use.
    pub(super) fn move_away(&self) -> io::Result<()> {
        let (moved, original) = (self.moved.as_os_str(), self.original.as_os_str());
        // What is moved must be there, or an empty one would be given back as the state.
        open_dir(&self.parent, &self.original)?;
        mkdirat(&self.parent, moved, Mode::S_IRWXU)?;
        let exchanged = rename::exchange(&self.parent, moved, original, || {
            // It replaces the empty one. Killed here, there is nothing that libvirt deletes.
            renameat(&self.parent, original, &self.parent, moved)?;
            mkdirat(&self.parent, original, Mode::S_IRWXU)
        });
        exchanged.inspect_err(|_| {
            // Only an empty one: what was moved stays there.
            let _ = remove_empty(&self.parent, moved);
        })?;
        atomic::sync_directory(&self.parent)
    }

    /// Replaces what libvirt has deleted.
    pub fn restore(&self) -> io::Result<LinksRestored> {
        if self.is_moved()? {
            self.restore_as(&self.moved)
        } else {
            self.restore_as(&self.links)
        }
    }

    /// Replaces what libvirt has deleted, and keeps the links: it may delete it again. Without links
    /// that can be kept this is [`Self::restore`].
    pub fn restore_and_keep(&self) -> io::Result<LinksRestored> {
        crash::point();
        if self.original_is_there() && self.exist() {
            return Ok(LinksRestored::StillThere);
        }
        if self.is_moved()? {
            return self.restore();
        }
        let Ok(spare) = self.link_as_spare(&self.links) else {
            return self.restore();
        };
        crash::point();
        let restored = self.restore_as(&spare);
        if !matches!(restored, Ok(LinksRestored::Restored)) {
            self.remove_links(&spare)?;
        }
        restored
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
        self.remove(Timestamp::now())
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
        match crash::answer_of_rename(self.rename(name, &self.original)) {
            Ok(()) => {
                atomic::sync_directory(&self.parent)?;
                Ok(LinksRestored::Restored)
            }
            Err(Errno::ENOENT) => Ok(LinksRestored::NoLinks),
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => Ok(LinksRestored::StillThere),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Renames what has no other name of this kind; nothing that is there is replaced.
    fn rename(&self, from: &OsStr, to: &OsStr) -> nix::Result<()> {
        match self.backend {
            // A directory cannot be renamed over one that has files in it.
            Backend::Directory => rename::rename_new_directory(&self.parent, from, to),
            // A file could: it gets a second link, and loses the first.
            Backend::Linear => rename::rename_new(&self.parent, from, to, || {
                linkat(&self.parent, from, &self.parent, to, AtFlags::empty())?;
                unlinkat(&self.parent, from, UnlinkatFlags::NoRemoveDir)
            }),
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
        let Ok(links) = stat(&self.parent, &self.links) else {
            return Ok(false);
        };
        let is_stale = is_old(&links, now) && self.backend == Backend::Directory;
        if is_stale && self.original_is_there() && !self.is_moved()? {
            self.remove(now)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Returns whether libvirt has not deleted the original.
    #[must_use]
    pub fn original_is_there(&self) -> bool {
        is_there(&self.parent, &self.original)
    }

    /// Removes the links, and what a kill has left of earlier ones.
    fn remove(&self, now: Timestamp) -> io::Result<()> {
        if self.backend == Backend::Linear {
            self.remove_links(&self.links)?;
        } else {
            let spare = spare::name(&self.original)?;
            match renameat(
                &self.parent,
                self.links.as_os_str(),
                &self.parent,
                spare.as_os_str(),
            ) {
                Err(Errno::ENOENT) => {}
                renamed => {
                    renamed?;
                    crash::point();
                    self.remove_links(&spare)?;
                }
            }
        }
        for name in spare::left(&self.parent, &self.original, now)? {
            self.remove_links(&name)?;
        }
        Ok(())
    }

    fn remove_links(&self, name: &OsStr) -> io::Result<()> {
        if self.backend == Backend::Directory {
            return remove_all(&self.parent, name, DEPTH);
        }
        match unlinkat(&self.parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }
}

fn is_there(dir: &File, name: &OsStr) -> bool {
    stat(dir, name).is_ok()
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
