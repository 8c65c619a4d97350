//! swtpm's lock on a TPM state: the file `.lock` next to it, with an fcntl lock over the whole file
//! (`src/swtpm/swtpm_nvstore_dir.c`: `SWTPM_NVRAM_Lock_Dir`). With the linear format it is the state's
//! file itself (`SWTPM_NVRAM_LinearFile_Lock`, since 0.10; before, nothing locks such a state).

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::stat::Mode;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, fstatfs};
use nix::unistd::{Gid, Uid, fchown};

use super::directories::{self, bounded, once_more};
use super::error::{LockError, StateError};
use super::open;
use super::state_path::{Backend, StatePath};
use crate::host::bounded::Unanswered;
use crate::host::crash;
use crate::host::dirs::PROC;
use crate::host::interrupted::{again, openat, read_dir};
use crate::host::text;

pub(super) const LOCK: &str = ".lock";

/// The mode that swtpm gives its lock, unless umask takes bits away.
const LOCK_MODE: Mode = Mode::from_bits_truncate(0o640);

/// Who has the lock on a TPM state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockHolder {
    /// A process of this host and namespace.
    Process {
        /// Its number.
        pid: i32,
        /// Its name; empty if it has just ended.
        name: String,
    },
    /// A process of another host, or in another namespace.
    Elsewhere,
    /// An open file: vtpm-guard locks so while it replaces a state.
    OpenFile,
}

/// Why swtpm could not lock a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockProblem {
    /// It is locked already.
    Held(LockHolder),
    /// Something that is not a lock has its path, and swtpm would fail or hang.
    Unusable {
        /// The lock.
        path: PathBuf,
        /// What it is.
        what: String,
    },
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } if name.is_empty() => write!(f, "process {pid}"),
            Self::Process { pid, name } => write!(f, "{name} (process {pid})"),
            Self::Elsewhere => f.write_str("a process of another host, or in another namespace"),
            Self::OpenFile => {
                f.write_str("another vtpm-guard that replaces it, or a similar program")
            }
        }
    }
}

/// Returns why swtpm could not lock this state now. The lock is only tested and never taken, not
/// even for a moment: a swtpm that starts in that moment would fail. A lock that cannot be tested
/// is not a problem.
#[must_use]
pub fn lock_problem(state_path: &StatePath) -> Option<LockProblem> {
    test_lock(state_path).unwrap_or_default()
}

/// Whether another host, or another namespace, has the lock of this state, or may have it: a lock that
/// cannot be tested at the moment may be theirs. That of a file system which does not answer is not.
#[must_use]
pub fn is_used_elsewhere(state_path: &StatePath) -> bool {
    match test_lock(state_path) {
        Ok(problem) => problem == Some(LockProblem::Held(LockHolder::Elsewhere)),
        Err(StateError::Io(_) | StateError::Unanswered(Unanswered::NoThread(_))) => true,
        Err(_) => false,
    }
}

fn test_lock(state_path: &StatePath) -> Result<Option<LockProblem>, StateError> {
    if crash::is_locked_elsewhere() && state_path.directory().is_dir() {
        return Ok(Some(LockProblem::Held(LockHolder::Elsewhere)));
    }
    let tested = once_more(|| {
        crash::failing_point()?;
        let asked = state_path.clone();
        bounded(state_path, move || look(&asked))
    });
    tested.inspect_err(|error| {
        let path = state_path.path.display();
        tracing::warn!(%error, %path, "the lock on the TPM state could not be tested");
    })
}

fn look(state_path: &StatePath) -> Result<Option<LockProblem>, StateError> {
    let lock = match state_path.backend {
        Backend::Linear => open::open(state_path),
        Backend::Directory => match directories::open_directory(state_path)? {
            Some(dir) => open::open_in(&dir, state_path.directory(), OsStr::new(LOCK)),
            None => return Ok(None),
        },
    };
    let lock = match lock {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(None),
        // With the linear format it is the state itself, which is judged elsewhere.
        Err(error) if error.is_damage() && state_path.backend == Backend::Directory => {
            let path = state_path.directory().join(LOCK);
            let what = error.to_string();
            return Ok(Some(LockProblem::Unusable { path, what }));
        }
        Err(error) => return Err(error),
    };
    let mut found = whole_file(libc::F_WRLCK);
    again(|| fcntl(&lock, FcntlArg::F_GETLK(&mut found))).map_err(io::Error::from)?;
    if i32::from(found.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let file_system = fstatfs(&lock).map_err(io::Error::from)?.filesystem_type();
    let name = match state_path.backend {
        Backend::Linear => state_path.path.file_name().unwrap_or_default(),
        Backend::Directory => OsStr::new(LOCK),
    };
    let has_it_open = |pid| has_open(pid, name, &lock);
    let holder = holder(found.l_pid, file_system, has_it_open);
    Ok(Some(LockProblem::Held(holder)))
}

/// What the kernel's process number means (fcntl(2), `F_GETLK`): -1 is a lock of an open file, 0 a
/// process outside this namespace, another negative number a process of another host.
///
/// With FUSE a positive one may be another host's, too: `GlusterFS` hands on the number that the process has there
/// (`posix_lock_to_flock` in its `xlators/features/locks/src/common.c`), and whoever has it here would be named.
fn holder(pid: i32, file_system: FsType, has_it_open: impl Fn(i32) -> bool) -> LockHolder {
    match pid {
        -1 => LockHolder::OpenFile,
        1.. if file_system == FUSE_SUPER_MAGIC && !has_it_open(pid) => LockHolder::Elsewhere,
        1.. => {
            let name = text::read(Path::new(&format!("{PROC}/{pid}/comm"))).unwrap_or_default();
            let name = name.trim_end().to_owned();
            LockHolder::Process { pid, name }
        }
        _ => LockHolder::Elsewhere,
    }
}

/// Whether a process of this host has this file open, which has this name.
fn has_open(pid: i32, name: &OsStr, file: &File) -> bool {
    let Ok(file) = file.metadata() else {
        return false;
    };
    let Ok(open) = read_dir(Path::new(&format!("{PROC}/{pid}/fd"))) else {
        return false;
    };
    let mut links = open.flatten().map(|entry| entry.path());
    links.any(|link| {
        // Only of these is the file system asked: others of that process may not answer.
        let is_called_so = fs::read_link(&link).is_ok_and(|path| path.file_name() == Some(name));
        is_called_so
            && fs::metadata(&link)
                .is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
    })
}

/// swtpm's lock on a state, held until this value is dropped.
pub(super) struct StateLock(File);

impl StateLock {
    /// The locked file.
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for StateLock {
    /// Closing the file is not enough: a child process that another thread is starting at this
    /// moment has it open, too.
    fn drop(&mut self) {
        // It is released at the latest when the last process closes the file.
        let _ = fcntl(&self.0, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)));
    }
}

/// Takes swtpm's lock in a state's directory. If the lock's file has to be made, it gets the
/// state's owner: swtpm must be able to open it.
pub(super) fn take(dir: &File, dir_path: &Path, state: &Metadata) -> Result<StateLock, LockError> {
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let lock = match open::open_in(dir, dir_path, OsStr::new(LOCK))? {
        // A regular file. If a FIFO took its name since then, opening it would not wait.
        Some(_) => openat(dir, LOCK, flags, Mode::empty()),
        None => {
            openat(dir, LOCK, flags | OFlag::O_CREAT | OFlag::O_EXCL, LOCK_MODE).inspect(|lock| {
                let (owner, group) = (Uid::from_raw(state.uid()), Gid::from_raw(state.gid()));
                if let Err(error) = fchown(lock, Some(owner), Some(group)) {
                    let path = dir_path.join(LOCK);
                    let path = path.display();
                    tracing::warn!(%error, %path, "the owner of swtpm's lock could not be set to swtpm's user");
                }
            })
        }
    };
    let lock = match lock {
        Ok(lock) => File::from(lock),
        // A lease, or another process has just made it.
        Err(Errno::EAGAIN | Errno::EEXIST) => return Err(LockError::InUse),
        Err(errno) => return Err(io::Error::from(errno).into()),
    };
    take_file(lock)
}

/// Takes swtpm's lock on this file, which is open for writing.
pub(super) fn take_file(file: File) -> Result<StateLock, LockError> {
    let lock = whole_file(libc::F_WRLCK);
    match again(|| fcntl(&file, FcntlArg::F_OFD_SETLK(&lock))) {
        Ok(_) => Ok(StateLock(file)),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(LockError::InUse),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    #[allow(clippy::cast_possible_truncation, reason = "these constants are small")]
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use nix::sys::statfs::NFS_SUPER_MAGIC;

    use super::*;
    use crate::host::crash::armed;

    #[test]
    fn a_lock_that_cannot_be_tested_may_be_another_hosts() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("vm1/tpm2");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join(LOCK), "").unwrap();
        let path = state.join("tpm2-00.permall");
        let state_path = StatePath::of_copy(&path, 2, Backend::Directory);
        assert!(!is_used_elsewhere(&state_path));
        armed::lock_elsewhere(1);
        assert!(is_used_elsewhere(&state_path));
        // For a moment alone.
        armed::fail_next(1);
        assert!(!is_used_elsewhere(&state_path));
        armed::refuse_threads(1);
        assert!(!is_used_elsewhere(&state_path));
        armed::fail_next(2);
        assert!(is_used_elsewhere(&state_path));
        armed::fail_next(2);
        assert_eq!(lock_problem(&state_path), None);
        armed::refuse_threads(2);
        assert!(is_used_elsewhere(&state_path));
    }

    #[test]
    fn a_process_is_named_only_where_it_is_of_this_host() {
        let lock = tempfile::NamedTempFile::new().unwrap();
        let name = lock.path().file_name().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let holder_on =
            |file_system, pid| holder(pid, file_system, |pid| has_open(pid, name, lock.as_file()));
        let is_named = |holder| matches!(holder, LockHolder::Process { pid, .. } if pid == own);
        assert!(is_named(holder_on(FUSE_SUPER_MAGIC, own)));
        assert!(is_named(holder_on(NFS_SUPER_MAGIC, own)));
        // This process has other files open, but not that one.
        let other = tempfile::NamedTempFile::new().unwrap();
        let elsewhere = |name: &Path, file: &File| {
            let name = name.file_name().unwrap();
            holder(own, FUSE_SUPER_MAGIC, |pid| has_open(pid, name, file)) == LockHolder::Elsewhere
        };
        assert!(!elsewhere(other.path(), other.as_file()));
        assert!(elsewhere(lock.path(), other.as_file()));
        assert!(elsewhere(other.path(), lock.as_file()));
        for (pid, expected) in [
            (0, LockHolder::Elsewhere),
            (-7, LockHolder::Elsewhere),
            (-1, LockHolder::OpenFile),
        ] {
            assert_eq!(holder_on(FUSE_SUPER_MAGIC, pid), expected);
        }
    }

    #[test]
    fn a_lock_that_is_dropped_is_free_even_if_a_child_has_its_file_open() {
        let home = tempfile::tempdir().unwrap();
        let dir = File::open(home.path()).unwrap();
        let take = || take(&dir, home.path(), &dir.metadata().unwrap());
        let lock = take().unwrap();
        assert!(matches!(take(), Err(LockError::InUse)));
        // As a child has it until it runs its program.
        let shared = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(take().is_ok());
        drop(shared);
    }
}
