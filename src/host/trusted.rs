//! Which files this program trusts: the table of rules, and the one place that applies them.
//!
//! A path is followed from `/`, one name after the other, in opened directories; what is checked
//! is the opened file, so nobody can exchange it between the check and its use.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode as Permissions, SFlag, fstat};
use nix::unistd::geteuid;

use crate::host::atomic;
use crate::host::path_error::PathError;

mod walk;

/// What a file must be, so that this program relies on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    kind: Kind,
    owner: Owner,
    mode: Mode,
    links: Links,
    parent: Parent,
}

/// What it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Any,
}

/// Whose it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The user who runs this program, root as a rule.
    User,
    /// That user or root.
    UserOrRoot,
    Any,
}

/// What its group and others must not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Read, write or search it.
    Private,
    /// Write it.
    NotWritable,
    Any,
}

/// Whether its path may end in a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// A symbolic link is followed, where [`Parent`] lets it.
    Followed,
    /// A symbolic link is refused.
    Refused,
    /// So is a second name of the file.
    OneName,
}

/// Through what its path may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    /// Directories that only root and the user who runs this program can write; in a sticky one,
    /// as /tmp is, others cannot rename or remove what is not theirs. Links in them are the
    /// user's or root's.
    Trusted,
    /// Any directories; links only where the user or root alone could have made them.
    Any,
}

const fn file(owner: Owner, mode: Mode, links: Links) -> Rule {
    let (kind, parent) = (Kind::File, Parent::Trusted);
    Rule {
        kind,
        owner,
        mode,
        links,
        parent,
    }
}

const fn directory(mode: Mode, links: Links) -> Rule {
    let kind = Kind::Directory;
    Rule {
        kind,
        ..file(Owner::User, mode, links)
    }
}

/// The configuration, which decides what root does.
pub const CONFIG: Rule = file(Owner::UserOrRoot, Mode::NotWritable, Links::Followed);
/// The hook, which libvirt runs as root.
pub const HOOK: Rule = CONFIG;
/// The helper that is linked with libvirt, which the hook runs.
pub const HELPER: Rule = file(Owner::UserOrRoot, Mode::NotWritable, Links::Refused);
/// The value of a libvirt secret in the daemon's directory.
pub const LIBVIRT_SECRET: Rule = file(Owner::UserOrRoot, Mode::Private, Links::Refused);
/// A directory of libvirt's, in which links to staged keys are made.
pub const LIBVIRT_DIR: Rule = Rule {
    owner: Owner::UserOrRoot,
    ..directory(Mode::NotWritable, Links::Followed)
};
/// The state directory and those in it: captures, saved copies, set-aside TPM states.
pub const STATE_DIR: Rule = directory(Mode::NotWritable, Links::Followed);
/// Anything in the state directory. Checked by `doctor`; each file has a rule of its own where it
/// is read.
pub const IN_STATE_DIR: Rule = Rule {
    kind: Kind::Any,
    ..file(Owner::User, Mode::Private, Links::Refused)
};
/// The store's database.
pub const STORE: Rule = file(Owner::User, Mode::NotWritable, Links::Refused);
/// The directory of the sealed provider keys.
pub const KEYRING_DIR: Rule = directory(Mode::NotWritable, Links::Refused);
/// A sealed provider key.
pub const SEALED_KEY: Rule = file(Owner::User, Mode::Private, Links::Refused);
/// A file of a saved copy of TPM state, or its manifest.
pub const SAVED_COPY: Rule = STORE;
/// The directory of notes and staged keys on tmpfs, and those in it.
pub const RUN_DIR: Rule = directory(Mode::Private, Links::Followed);
/// The log file; its directory may be the system's, which a group of loggers may write.
pub const LOG: Rule = Rule {
    parent: Parent::Any,
    ..file(Owner::User, Mode::Any, Links::OneName)
};
/// A TPM state, or its directory, where the domain XML names its path. Both are swtpm's user's,
/// who must not be able to lead root elsewhere by a link.
pub const TPM_STATE: Rule = Rule {
    kind: Kind::Any,
    parent: Parent::Any,
    ..file(Owner::Any, Mode::Any, Links::Followed)
};

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// The system's error.
    #[error(transparent)]
    Io(#[from] PathError),
    /// It, or what its path leads through, breaks its rule.
    #[error("{path} is not trusted: {reason}", path = .path.display())]
    Untrusted {
        /// What breaks it: the file, a directory on the way, or a link.
        path: PathBuf,
        /// How.
        reason: Reason,
    },
}

/// How a file breaks its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It belongs to this user.
    #[error("it belongs to user {0}")]
    Owner(u32),
    /// With this mode, others may write to it.
    #[error("others may write to it (mode {0:04o})")]
    Writable(u32),
    /// With this mode, others may read or write it.
    #[error("others have access to it (mode {0:04o})")]
    Accessible(u32),
    /// It is a directory, a symbolic link, a device or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is a file, or a symbolic link that is not followed.
    #[error("it is not a directory")]
    NotADirectory,
    /// It is a link that this user could have made.
    #[error("it is a link, made by user {0}")]
    Link(u32),
    /// The same file has another name.
    #[error("it has a second name (hard link)")]
    SecondName,
}

impl Distrust {
    fn untrusted(path: &Path, reason: Reason) -> Self {
        let path = path.to_owned();
        Self::Untrusted { path, reason }
    }

    fn io(path: &Path) -> impl Fn(Errno) -> Self + use<'_> {
        move |errno| PathError::new(path, errno).into()
    }
}

impl From<Distrust> for io::Error {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => error.source,
            untrusted @ Distrust::Untrusted { .. } => Self::other(untrusted),
        }
    }
}

impl Rule {
    /// Checks an open file. `path` is what an error names.
    pub fn check(self, path: &Path, file: impl AsFd) -> Result<(), Distrust> {
        self.check_stat(path, &fstat(file).map_err(Distrust::io(path))?)
    }

    /// The same for a file that cannot be opened, by what `fstatat` says without following a
    /// link.
    pub fn check_stat(self, path: &Path, found: &FileStat) -> Result<(), Distrust> {
        self.reason(found)
            .map_or(Ok(()), |reason| Err(Distrust::untrusted(path, reason)))
    }

    fn reason(self, found: &FileStat) -> Option<Reason> {
        let mode = found.st_mode & 0o7777;
        let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
        match self.kind {
            Kind::File if kind != SFlag::S_IFREG => return Some(Reason::NotAFile),
            Kind::Directory if kind != SFlag::S_IFDIR => return Some(Reason::NotADirectory),
            _ => {}
        }
        let is_owner = match self.owner {
            Owner::User => found.st_uid == geteuid().as_raw(),
            Owner::UserOrRoot => is_users_or_roots(found.st_uid),
            Owner::Any => true,
        };
        if !is_owner {
            return Some(Reason::Owner(found.st_uid));
        }
        match self.mode {
            // A symbolic link has no mode of its own.
            _ if kind == SFlag::S_IFLNK => None,
            Mode::Private | Mode::NotWritable if mode & WRITABLE_BY_OTHERS != 0 => {
                Some(Reason::Writable(mode))
            }
            Mode::Private if mode & 0o077 != 0 => Some(Reason::Accessible(mode)),
            _ if self.links == Links::OneName && found.st_nlink > 1 => Some(Reason::SecondName),
            _ => None,
        }
    }
}

/// The permission bits that let the group or everybody write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

fn is_users_or_roots(owner: u32) -> bool {
    [0, geteuid().as_raw()].contains(&owner)
}

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
