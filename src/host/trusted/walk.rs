//! Follows a path from `/`, one name after the other, in opened directories.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use super::{
    Distrust, Kind, Links, Parent, Reason, Rule, Trusted, WRITABLE_BY_OTHERS, is_users_or_roots,
    open_directory,
};
use crate::host::atomic;
use crate::host::interrupted::{again, openat};
use crate::host::path_error::PathError;

/// In a directory of this mode only its owner, and a file's, may rename or remove the file.
const STICKY: u32 = 0o1000;

/// As many links as the kernel follows in one path (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Finds what has this path. The way to it obeys the rule; whether it does is not checked yet.
/// `make` makes directories that are missing.
pub(super) fn to(path: &Path, rule: Rule, make: bool) -> Result<Trusted, Distrust> {
    let absolute = std::path::absolute(path).map_err(PathError::at(path))?;
    let mut walk = Walk {
        at: root(rule)?,
        left: VecDeque::new(),
        links: 0,
        make,
    };
    walk.go_first(&absolute);
    while let Some(name) = walk.left.pop_front() {
        walk.step(&name)?;
    }
    Ok(walk.at)
}

/// How far a path has been followed.
struct Walk {
    at: Trusted,
    left: VecDeque<OsString>,
    links: usize,
    make: bool,
}

impl Walk {
    /// Puts the names of a path before those that are left.
    fn go_first(&mut self, path: &Path) {
        let names = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("..")),
            _ => None,
        });
        names.for_each(|name| self.left.push_front(name.to_owned()));
    }

    fn step(&mut self, name: &OsStr) -> Result<(), Distrust> {
        let path = if name == ".." {
            self.at.path.parent().unwrap_or(&self.at.path).to_owned()
        } else {
            self.at.path.join(name)
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || openat(&self.at.fd, name, flags, Mode::empty());
        let fd = match open() {
            Err(Errno::ENOENT) if self.make => self.make_dir(name).and_then(|()| open()),
            opened => opened,
        };
        let fd = fd.map_err(Distrust::io(&path))?;
        let found = fstat(&fd).map_err(Distrust::io(&path))?;
        if is(&found, SFlag::S_IFLNK) {
            return self.follow(name, &path, &found);
        }
        if !self.left.is_empty() {
            check_directory(&path, &found, self.at.rule.parent)?;
        }
        let parent = std::mem::replace(&mut self.at.fd, fd);
        self.at.parent = (name != "..").then_some(parent);
        self.at.path = path;
        Ok(())
    }

    fn follow(&mut self, name: &OsStr, path: &Path, link: &FileStat) -> Result<(), Distrust> {
        let rule = self.at.rule;
        if self.left.is_empty() && rule.links != Links::Followed {
            let reason = match rule.kind {
                Kind::Directory => Reason::NotADirectory,
                Kind::File | Kind::Any => Reason::NotAFile,
            };
            return Err(Distrust::untrusted(path, reason));
        }
        let dir = fstat(&self.at.fd).map_err(Distrust::io(&self.at.path))?;
        // A trusted directory may be a sticky one, in which others make links of their own.
        let others_may_write = rule.parent == Parent::Any
            && (dir.st_mode & WRITABLE_BY_OTHERS != 0 || !is_users_or_roots(dir.st_uid));
        if others_may_write || !is_users_or_roots(link.st_uid) {
            return Err(Distrust::untrusted(path, Reason::Link(link.st_uid)));
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Distrust::io(path)(Errno::ELOOP));
        }
        let target = readlinkat(&self.at.fd, name).map_err(Distrust::io(path))?;
        let target = PathBuf::from(target);
        if target.is_absolute() {
            self.at = root(rule)?;
        }
        self.go_first(&target);
        Ok(())
    }

    /// Makes a directory for good. Another process that makes it at the same time is no error.
    fn make_dir(&self, name: &OsStr) -> nix::Result<()> {
        match mkdirat(&self.at.fd, name, Mode::S_IRWXU) {
            Ok(()) => {
                let synced = atomic::sync_directory(&open_directory(&self.at.fd)?);
                synced.map_err(|error| Errno::try_from(error).unwrap_or(Errno::EIO))
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn root(rule: Rule) -> Result<Trusted, Distrust> {
    let path = PathBuf::from("/");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd: OwnedFd =
        again(|| nix::fcntl::open(&path, flags, Mode::empty())).map_err(Distrust::io(&path))?;
    let parent = None;
    Ok(Trusted {
        fd,
        path,
        parent,
        rule,
    })
}

/// Checks a directory on the way.
fn check_directory(path: &Path, found: &FileStat, parent: Parent) -> Result<(), Distrust> {
    let mode = found.st_mode & 0o7777;
    let reason = if !is(found, SFlag::S_IFDIR) {
        Reason::NotADirectory
    } else if parent == Parent::Any {
        return Ok(());
    } else if !is_users_or_roots(found.st_uid) {
        Reason::Owner(found.st_uid)
    } else if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
        Reason::Writable(mode)
    } else {
        return Ok(());
    };
    Err(Distrust::untrusted(path, reason))
}

fn is(found: &FileStat, kind: SFlag) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}
