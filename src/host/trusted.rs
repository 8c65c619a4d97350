//! Directories that root may rely on: nobody but root, or the user who runs this program, can
//! change what their path leads to.
//!
//! A path is followed from `/`, one name after the other, in opened directories. Each directory
//! that it leads through must be trusted; a symbolic link in one was made by somebody who is.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::geteuid;

use crate::host::atomic;

/// The permission bits that let the group or everybody write.
pub const WRITABLE_BY_OTHERS: u32 = 0o022;

/// In a directory of this mode only its owner, and a file's, may rename or remove the file.
const STICKY: u32 = 0o1000;

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Why a path cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// The system says no; a missing directory, for one.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory on the way, or a link in a directory that others may write, is somebody's
    /// who is neither root nor the user who runs this program.
    #[error("{path} belongs to user {owner}", path = .path.display())]
    Owner {
        /// The directory or link.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// Others may write to a directory on the way.
    #[error("others may write to {path} (mode {mode:04o})", path = .path.display())]
    WritableByOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl Distrust {
    /// Whether the path leads nowhere.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl From<Distrust> for io::Error {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io { source, .. } => source,
            other => Self::other(other),
        }
    }
}

/// An opened directory whose path can be relied on.
#[derive(Debug)]
pub struct TrustedDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl TrustedDir {
    /// Opens the directory at `path`.
    pub fn open(path: &Path) -> Result<Self, Distrust> {
        Walk::along(path, false)
    }

    /// Opens the directory at `path`, and makes it and those above it that are missing, of mode
    /// 0700.
    pub fn open_or_make(path: &Path) -> Result<Self, Distrust> {
        Walk::along(path, true)
    }

    /// As [`TrustedDir::open`], and the directory must be this user's own, closed to the writes
    /// of others. `None`: there is none.
    pub fn open_own(path: &Path) -> Result<Option<Self>, Distrust> {
        match Self::open(path) {
            Ok(dir) => dir.checked_as_own().map(Some),
            Err(distrust) if distrust.is_missing() => Ok(None),
            Err(distrust) => Err(distrust),
        }
    }

    /// As [`TrustedDir::open_or_make`], and the directory must be this user's own, closed to the
    /// writes of others.
    pub fn open_or_make_own(path: &Path) -> Result<Self, Distrust> {
        Self::open_or_make(path)?.checked_as_own()
    }

    /// The opened directory (`O_PATH`).
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Its path without any symbolic link in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same directory, to read it or to make files in it.
    pub fn to_file(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, ".", flags, Mode::empty())?))
    }

    fn checked_as_own(self) -> Result<Self, Distrust> {
        let found = stat(&self.fd, &self.path)?;
        let path = self.path.clone();
        if found.st_uid != geteuid().as_raw() {
            let owner = found.st_uid;
            return Err(Distrust::Owner { path, owner });
        }
        if found.st_mode & WRITABLE_BY_OTHERS != 0 {
            let mode = found.st_mode & 0o7777;
            return Err(Distrust::WritableByOthers { path, mode });
        }
        Ok(self)
    }
}

/// Opens the file at `path`, also through symbolic links that can be relied on. `None`: there is
/// none. Whose the file itself is, and what it is, is for the caller to look at.
pub fn open_file(path: &Path, flags: OFlag) -> Result<Option<File>, Distrust> {
    let mut path = std::path::absolute(path).map_err(|error| io_error(path, error))?;
    for _ in 0..MAX_LINKS {
        let fail = |errno: Errno| io_error(&path, errno.into());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(fail(Errno::EISDIR));
        };
        let dir = match TrustedDir::open(parent) {
            Err(distrust) if distrust.is_missing() => return Ok(None),
            dir => dir?,
        };
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&dir.fd, name, flags, Mode::empty()) {
            Ok(file) => return Ok(Some(File::from(file))),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let link = fstatat(&dir.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(fail)?;
        check_owner(&path, &link)?;
        let target = readlinkat(&dir.fd, name).map_err(fail)?;
        path = dir.path.join(target);
    }
    Err(io_error(&path, Errno::ELOOP.into()))
}

/// How far a path has been followed.
struct Walk {
    at: TrustedDir,
    left: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn along(path: &Path, make: bool) -> Result<TrustedDir, Distrust> {
        let absolute = std::path::absolute(path).map_err(|error| io_error(path, error))?;
        let mut walk = Self {
            at: root()?,
            left: VecDeque::new(),
            links: 0,
        };
        walk.go_first(&absolute);
        while let Some(name) = walk.left.pop_front() {
            walk.step(&name, make)?;
        }
        Ok(walk.at)
    }

    /// Puts the names of a path before those that are left.
    fn go_first(&mut self, path: &Path) {
        let names = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("..")),
            _ => None,
        });
        names.for_each(|name| self.left.push_front(name.to_owned()));
    }

    fn step(&mut self, name: &OsStr, make: bool) -> Result<(), Distrust> {
        let path = if name == ".." {
            self.at.path.parent().unwrap_or(&self.at.path).to_owned()
        } else {
            self.at.path.join(name)
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || openat(&self.at.fd, name, flags, Mode::empty());
        let fd = match open() {
            Err(Errno::ENOENT) if make => make_in(&self.at, name).and_then(|()| Ok(open()?)),
            opened => opened.map_err(io::Error::from),
        };
        let fd = fd.map_err(|error| io_error(&path, error))?;
        let found = stat(&fd, &path)?;
        let is = |kind: SFlag| found.st_mode & SFlag::S_IFMT.bits() == kind.bits();
        check_owner(&path, &found)?;
        if is(SFlag::S_IFLNK) {
            return self.follow(name, &path);
        }
        if !is(SFlag::S_IFDIR) {
            return Err(io_error(&path, Errno::ENOTDIR.into()));
        }
        if found.st_mode & WRITABLE_BY_OTHERS != 0 && found.st_mode & STICKY == 0 {
            let mode = found.st_mode & 0o7777;
            return Err(Distrust::WritableByOthers { path, mode });
        }
        self.at = TrustedDir { fd, path };
        Ok(())
    }

    fn follow(&mut self, link: &OsStr, path: &Path) -> Result<(), Distrust> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(io_error(path, Errno::ELOOP.into()));
        }
        let target = readlinkat(&self.at.fd, link);
        let target = PathBuf::from(target.map_err(|errno| io_error(path, errno.into()))?);
        if target.is_absolute() {
            self.at = root()?;
        }
        self.go_first(&target);
        Ok(())
    }
}

fn root() -> Result<TrustedDir, Distrust> {
    let path = PathBuf::from("/");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(&path, flags, Mode::empty())
        .map_err(|errno| io_error(&path, errno.into()))?;
    Ok(TrustedDir { fd, path })
}

/// Makes a directory for good. Another process that makes it at the same time is no error.
fn make_in(parent: &TrustedDir, name: &OsStr) -> io::Result<()> {
    match mkdirat(&parent.fd, name, Mode::S_IRWXU) {
        Ok(()) => atomic::sync_directory(&parent.to_file()?),
        Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Root, or the user who runs this program.
fn check_owner(path: &Path, found: &FileStat) -> Result<(), Distrust> {
    if [0, geteuid().as_raw()].contains(&found.st_uid) {
        return Ok(());
    }
    Err(Distrust::Owner {
        path: path.to_owned(),
        owner: found.st_uid,
    })
}

fn stat(fd: &OwnedFd, path: &Path) -> Result<FileStat, Distrust> {
    fstat(fd).map_err(|errno| io_error(path, errno.into()))
}

fn io_error(path: &Path, source: io::Error) -> Distrust {
    Distrust::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
