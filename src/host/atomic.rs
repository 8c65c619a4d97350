//! Files that are there whole or not at all, also after a kill or a power cut; and the one way
//! in which this program makes a file.
//!
//! The directory may be another user's: a collector's, a backup user's, swtpm's. So it is opened
//! once, and everything in it is done by name from there. The new file gets a name that nobody
//! can know beforehand; nothing that is there already is opened, followed or changed. Owner and
//! mode are set on the open file. It takes its final name by a rename, when it is whole.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, linkat, unlinkat};

use zeroize::Zeroizing;

use super::crash;
use super::interrupted::{openat, read_dir};
use super::rename::rename_new;
use crate::host::dirs::of_descriptor;
use crate::key::random;

/// How the name of an unfinished file begins; random digits follow.
const TEMPORARY: &str = ".vtpm-guard-";

/// How many bytes are written to the disk at once.
const STEP: usize = 4 << 20;

/// A file that is unfinished for this long was left by a writer that was killed.
const ABANDONED_AFTER: Duration = Duration::from_secs(60 * 60);

/// A file that is whole and durable, and has no name of its own yet. Dropping it removes it.
pub struct NewFile {
    dir: File,
    temporary: OsString,
    file: File,
    has_its_name: bool,
}

impl NewFile {
    /// Makes a file of mode 0600 in `dir`, which `write` gives its bytes, and its owner and mode
    /// where those are to be others.
    pub fn write(dir: &File, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Self> {
        remove_abandoned(dir);
        let temporary = OsString::from(random_name(TEMPORARY)?);
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = File::from(openat(dir, temporary.as_os_str(), flags, mode)?);
        let mut new = Self {
            dir: dir.try_clone()?,
            temporary,
            file,
            has_its_name: false,
        };
        write(&mut new.file)?;
        new.file.sync_all()?;
        Ok(new)
    }

    /// Whether the disk returns these bytes.
    pub fn reads_back(&self, bytes: &[u8]) -> io::Result<bool> {
        let mut read = Zeroizing::new(vec![0; bytes.len()]);
        self.file.read_exact_at(&mut read, 0)?;
        Ok(self.file.metadata()?.len() == bytes.len() as u64 && *read == bytes)
    }

    /// Gives it this name. A file that has it already stays, and is an error (`AlreadyExists`).
    pub fn create(mut self, name: &OsStr) -> io::Result<()> {
        self.is_unchanged()?;
        crash::point();
        let (dir, temporary) = (&self.dir, self.temporary.as_os_str());
        let mut must_link = false;
        let renamed = rename_new(dir, temporary, name, || {
            // NFS has no such rename, but links; FAT has no links, but such a rename.
            must_link = true;
            linkat(dir, temporary, dir, name, AtFlags::empty())
        });
        self.named(name, renamed).map_err(|failed| failed.error)?;
        if must_link {
            forget(&self.dir, &self.temporary);
        }
        crash::point();
        sync_directory(&self.dir)
    }

    /// Gives it this name, in place of the file that has it.
    pub fn replace(mut self, name: &OsStr) -> io::Result<()> {
        self.take_name(name).map_err(|failed| failed.error)?;
        self.flush_name()
    }

    /// The first half of [`Self::replace`], for who must know which half failed.
    pub fn take_name(&mut self, name: &OsStr) -> Result<(), NameError> {
        self.is_unchanged().map_err(|error| NameError {
            error,
            may_have_it: false,
        })?;
        crash::point();
        let renamed = renameat(&self.dir, self.temporary.as_os_str(), &self.dir, name);
        self.named(name, renamed)?;
        crash::point();
        Ok(())
    }

    /// It has the name that it was to get, or it has not. What the call says does not decide that: a rename
    /// over NFS may be done and answered with an error.
    fn named(&mut self, name: &OsStr, renamed: nix::Result<()>) -> Result<(), NameError> {
        let Err(errno) = crash::answer_of_rename(renamed) else {
            self.has_its_name = true;
            return Ok(());
        };
        let found = self
            .file
            .metadata()
            .and_then(|made| has_name(&self.dir, name, (made.dev(), made.ino())));
        self.has_its_name = matches!(found, Ok(true));
        if self.has_its_name {
            return Ok(());
        }
        Err(NameError {
            error: errno.into(),
            may_have_it: found.is_err(),
        })
    }

    /// The second half: from now on a power cut takes the name from it no more.
    pub fn flush_name(&self) -> io::Result<()> {
        sync_directory(&self.dir)
    }

    /// Whether its temporary name is still that of this very file, and of nothing that the
    /// directory's owner has put in its place.
    fn is_unchanged(&self) -> io::Result<()> {
        let found = fstatat(
            &self.dir,
            self.temporary.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        let made = self.file.metadata()?;
        if (found.st_dev, found.st_ino) == (made.dev(), made.ino()) {
            Ok(())
        } else {
            Err(io::Error::other(
                "another process replaced the file while it was being written",
            ))
        }
    }
}

/// Why a file did not get its name.
#[derive(Debug)]
pub struct NameError {
    /// What failed.
    pub error: io::Error,
    /// Whether it may have it all the same: its directory does not tell.
    pub may_have_it: bool,
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.has_its_name && self.is_unchanged().is_ok() {
            forget(&self.dir, &self.temporary);
        }
    }
}

/// A name that nobody can know beforehand: this, and 16 random digits.
pub fn random_name(prefix: &str) -> io::Result<String> {
    let mut random = [0; 8];
    random::fill(&mut random).map_err(io::Error::other)?;
    Ok(format!("{prefix}{:016x}", u64::from_be_bytes(random)))
}

/// Puts `bytes` under `name` into `dir`, mode 0600, in place of what is there.
pub fn replace(dir: &File, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    NewFile::write(dir, |file| write_all(file, bytes))?.replace(name)
}

/// Writes all, and much of it in steps that are synced one by one: a start that commits its row of the
/// store to the same disk waits for one of them, and not for all.
fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    for step in bytes.chunks(STEP) {
        file.write_all(step)?;
        if bytes.len() > STEP {
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Puts `bytes` under `name` into `dir`, mode 0600. A file that has that name already stays, and
/// is an error (`AlreadyExists`).
pub fn create(dir: &File, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    create_in(dir, name, bytes, |_| Ok(()))
}

/// As [`create`], and `style` gives the file its owner and mode before it appears.
pub fn create_in(
    dir: &File,
    name: &OsStr,
    bytes: &[u8],
    style: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let new = NewFile::write(dir, |file| {
        write_all(file, bytes)?;
        style(file)
    })?;
    new.create(name)
}

/// Gives an open file the owner, group and mode of another one.
pub fn set_attributes(file: &File, like: &Metadata) -> io::Result<()> {
    let (owner, group) = (Uid::from_raw(like.uid()), Gid::from_raw(like.gid()));
    fchown(file, Some(owner), Some(group))?;
    // After the owner: changing that takes the set-user-id bits away.
    file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))
}

/// The directory that a path's last name is in, opened, and that name.
pub fn open_parent(path: &Path) -> io::Result<(File, &OsStr)> {
    // A path such as "." or "..": it is there.
    let name = path.file_name().ok_or(ErrorKind::AlreadyExists)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    // A FIFO in its place is an error, and nothing to wait for.
    let dir = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(parent.unwrap_or(Path::new(".")))?;
    Ok((dir, name))
}

/// Removes a file for good; one that is not there is no error.
pub fn remove(dir: &File, name: &OsStr) -> io::Result<()> {
    crash::point();
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => {
            crash::point();
            sync_directory(dir)
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a file by its path, without waiting for the disk; one that is not there is no error.
pub fn remove_path(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes sure that what was made, renamed or removed in a directory stays so.
pub fn sync_directory(dir: &File) -> io::Result<()> {
    match dir.sync_all() {
        // File systems without this call (some network ones) say so; there is no other.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Whether the file or directory of this device and inode has this name.
pub fn has_name(dir: &File, name: &OsStr, (dev, ino): (u64, u64)) -> io::Result<bool> {
    crash::failing_point()?;
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (dev, ino)),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes the unfinished files of writers that were killed: regular files with a temporary's
/// name that are this user's or the directory's owner's. Where it cannot, they stay.
fn remove_abandoned(dir: &File) {
    let Ok(owner) = dir.metadata().map(|it| it.uid()) else {
        return;
    };
    let listed = read_dir(of_descriptor(dir));
    for entry in listed.into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            continue;
        }
        let is_abandoned = entry.metadata().is_ok_and(|found| {
            let age = found.modified().ok().and_then(|at| at.elapsed().ok());
            found.is_file()
                && [owner, geteuid().as_raw()].contains(&found.uid())
                && age.is_some_and(|age| age > ABANDONED_AFTER)
        });
        if is_abandoned {
            forget(dir, &name);
        }
    }
}

/// Removes a file that nobody will miss, if it can be.
fn forget(dir: &File, name: &OsStr) {
    let _ = unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
}

/// What a writer leaves in a directory that was killed long ago.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) fn leave_abandoned(dir: &Path) -> std::path::PathBuf {
    let path = dir.join(format!("{TEMPORARY}0123456789abcdef"));
    std::fs::write(&path, "half").unwrap();
    let long_ago = std::time::SystemTime::now() - 2 * ABANDONED_AFTER;
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
