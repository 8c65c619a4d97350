//! A TPM state that libvirt is about to delete and that must be there afterwards: another host uses
//! it, or it is damaged and all that there is of a TPM. Beside the state's directory a second one
//! is made, with a second name (a hard link) for each of its files; when libvirt has deleted the
//! first, the second takes its place in one step. So the very files come back, whatever is in
//! them, with the locks that others hold on them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::host::dirs::of_descriptor;
use crate::swtpm::{StateError, StatePath};

/// As deep as libvirt's directories of one TPM are, and one more.
const DEPTH: usize = 3;

/// What became of a state that was sheltered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinksRestored {
    /// libvirt had deleted it, and it is back.
    Restored,
    /// It is in its place still.
    StillThere,
    /// Nothing is sheltered.
    NoLinks,
}

/// The second names of one TPM's files.
pub struct HardLinks {
    parent: File,
    /// The directory that libvirt deletes.
    original: OsString,
    /// The one with the second names.
    beside: OsString,
}

impl HardLinks {
    /// The shelter of the state at this place, filled or not. `None` where there is no directory
    /// that it could be in, and for a state in a file of its own, of which libvirt deletes no
    /// directory.
    pub fn of(place: &StatePath) -> Result<Option<Self>, StateError> {
        let Some((parent, original)) = place.open_parent_of_deleted()? else {
            return Ok(None);
        };
        let mut beside = OsString::from(".vtpm-guard.");
        beside.push(&original);
        Ok(Some(Self {
            parent,
            original,
            beside,
        }))
    }

    /// Gives the files their second names. What an earlier one left goes.
    pub fn make(&self) -> io::Result<()> {
        self.remove()?;
        let original = open_dir(&self.parent, &self.original)?;
        mkdirat(&self.parent, self.beside.as_os_str(), Mode::S_IRWXU)?;
        let shelter = open_dir(&self.parent, &self.beside)?;
        link_all(&original, &shelter, DEPTH).inspect_err(|_| {
            let _ = self.remove();
        })
    }

    /// Puts them in the place of what libvirt has deleted.
    pub fn restore(&self) -> io::Result<LinksRestored> {
        let (from, to) = (self.beside.as_os_str(), self.original.as_os_str());
        let renamed = match renameat2(
            &self.parent,
            from,
            &self.parent,
            to,
            RenameFlags::RENAME_NOREPLACE,
        ) {
            // NFS. No directory is renamed over one that has files in it.
            Err(Errno::EINVAL | Errno::ENOSYS) => renameat(&self.parent, from, &self.parent, to),
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

    /// Whether it is filled.
    #[must_use]
    pub fn exist(&self) -> bool {
        open_dir(&self.parent, &self.beside).is_ok()
    }

    /// Takes the second names away.
    pub fn remove(&self) -> io::Result<()> {
        remove_all(&self.parent, &self.beside, DEPTH)
    }
}

/// Gives everything in a directory a second name in another, and that its owner and mode.
fn link_all(from: &File, to: &File, depth: usize) -> io::Result<()> {
    for name in names(from)? {
        match open_dir(from, &name) {
            Ok(dir) if depth > 0 => {
                mkdirat(to, name.as_os_str(), Mode::S_IRWXU)?;
                link_all(&dir, &open_dir(to, &name)?, depth - 1)?;
            }
            Ok(_) => return Err(ErrorKind::QuotaExceeded.into()),
            // A link gets a second name itself, and is not followed.
            Err(_) => linkat(
                from,
                name.as_os_str(),
                to,
                name.as_os_str(),
                AtFlags::empty(),
            )?,
        }
    }
    let found = from.metadata()?;
    fchown(to, Some(found.uid()), Some(found.gid()))?;
    to.set_permissions(Permissions::from_mode(found.mode() & 0o7777))
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

/// The names in a directory that is open, whatever its path leads to by now.
fn names(dir: &File) -> io::Result<Vec<OsString>> {
    let entries = fs::read_dir(of_descriptor(dir))?;
    entries.map(|entry| Ok(entry?.file_name())).collect()
}
