//! Which files this program trusts: the table of rules, and what breaks one.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::geteuid;

use crate::host::path_error::PathError;

/// What a file must be, so that this program relies on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub(super) kind: Kind,
    pub(super) owner: Owner,
    pub(super) mode: Mode,
    pub(super) links: Links,
    pub(super) parent: Parent,
}

/// What it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Any,
}

/// Whose it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The user who runs this program, root as a rule.
    User,
    /// That user or root.
    UserOrRoot,
    Any,
}

/// What its group and others must not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Read, write or search it.
    Private,
    /// Write it.
    NotWritable,
    Any,
}

/// Whether its path may end in a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// A symbolic link is followed, where [`Parent`] lets it.
    Followed,
    /// A symbolic link is refused.
    Refused,
    /// So is a second name of the file.
    OneName,
}

/// Through what its path may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
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
/// A file with credentials for a key manager. Its path may lead through links, as those of certificates do.
pub const CREDENTIALS: Rule = file(Owner::UserOrRoot, Mode::Private, Links::Followed);
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
    pub(super) fn untrusted(path: &Path, reason: Reason) -> Self {
        let path = path.to_owned();
        Self::Untrusted { path, reason }
    }

    pub(super) fn io(path: &Path) -> impl Fn(Errno) -> Self + use<'_> {
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
pub(super) const WRITABLE_BY_OTHERS: u32 = 0o022;

pub(super) fn is_users_or_roots(owner: u32) -> bool {
    [0, geteuid().as_raw()].contains(&owner)
}
