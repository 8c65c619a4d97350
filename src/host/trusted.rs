//! Opens the files that this program trusts, by the rules of one table ([`rules`]).
//!
//! A path is followed from `/`, one name after the other, in opened directories; what is checked
//! is the opened file, so nobody can exchange it between the check and its use.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode as Permissions;

use crate::host::atomic;
use crate::host::interrupted::openat;

mod rules;
mod walk;

pub use rules::*;
use rules::{Kind, is_users_or_roots};

/// A file or directory that obeys its rule, not opened for reading yet (`O_PATH`).
#[derive(Debug)]
pub struct Trusted {
    fd: OwnedFd,
    path: PathBuf,
    /// The directory where it was found under the last name of `path`.
    parent: Option<OwnedFd>,
    rule: Rule,
}

impl Trusted {
    /// Its descriptor (`O_PATH`).
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Takes its descriptor (`O_PATH`).
    #[must_use]
    pub fn into_handle(self) -> File {
        self.fd.into()
    }

    /// Its path without any symbolic link in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it: a file for reading, a directory to read it or to make files in it.
    pub fn open(&self) -> Result<File, Distrust> {
        match (&self.parent, self.path.file_name()) {
            (Some(parent), Some(name)) if self.rule.kind == Kind::File => {
                let file = open_in(parent, &self.path, name, self.rule)?;
                file.ok_or_else(|| Distrust::io(&self.path)(Errno::ENOENT))
            }
            _ => open_directory(&self.fd).map_err(Distrust::io(&self.path)),
        }
    }
}

/// Looks a path up by a rule. `None`: there is nothing.
pub fn find(path: &Path, rule: Rule) -> Result<Option<Trusted>, Distrust> {
    match walk::to(path, rule, false) {
        Ok(found) => rule.check(&found.path, &found.fd).map(|()| Some(found)),
        Err(Distrust::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(distrust) => Err(distrust),
    }
}

/// Opens the directory at `path`, and makes it and those above it that are missing, of mode 0700.
pub fn make_dir(path: &Path, rule: Rule) -> Result<File, Distrust> {
    make(path, rule)?.open()
}

/// As [`make_dir`], not opened for reading yet.
pub fn make(path: &Path, rule: Rule) -> Result<Trusted, Distrust> {
    let found = walk::to(path, rule, true)?;
    rule.check(&found.path, &found.fd)?;
    Ok(found)
}

/// Removes a directory of the state directory with all that is in it, for good. Returns whether
/// there was one. Nothing is removed in a directory that others could have made.
pub fn remove_dir(path: &Path) -> io::Result<bool> {
    if find(path, STATE_DIR)?.is_none() {
        return Ok(false);
    }
    match fs::remove_dir_all(path) {
        Ok(()) => {
            let (above, _) = atomic::open_parent(path)?;
            atomic::sync_directory(&above)?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a file for reading, or a directory. `None`: there is none. What breaks the rule is not
/// opened, and nothing is waited for.
pub fn open(path: &Path, rule: Rule) -> Result<Option<File>, Distrust> {
    find(path, rule)?.map(|found| found.open()).transpose()
}

/// Opens the file of this name in a directory that is trusted already; `path` is what an error
/// names. `None`: there is none.
pub fn open_in(
    dir: impl AsFd,
    path: &Path,
    name: &OsStr,
    rule: Rule,
) -> Result<Option<File>, Distrust> {
    // Non-blocking, or a FIFO of that name would hold up the start for ever.
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file = match openat(dir, name, flags, Permissions::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        // A symbolic link, or a socket.
        Err(Errno::ELOOP | Errno::ENXIO) => {
            return Err(Distrust::untrusted(path, Reason::NotAFile));
        }
        Err(errno) => return Err(Distrust::io(path)(errno)),
    };
    rule.check(path, &file)?;
    Ok(Some(file))
}

fn open_directory(dir: impl AsFd) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(dir, ".", flags, Permissions::empty()).map(File::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
