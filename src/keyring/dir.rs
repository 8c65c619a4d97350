//! The keyring's directory: trusts only its own user's files, writes whole ones.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::{Distrust, KeyringError};
use crate::clock::Deadline;
use crate::host::atomic::{self, NewFile};
use crate::host::trusted::{self, TrustedDir};
use crate::key::id::KeyId;
use crate::keyring::seal::MAX_SEALED;

/// The longest file: a sealed key and its first line.
const MAX_FILE: usize = MAX_SEALED + 100;

/// How often a lock is tried that another writer holds.
const LOCK_POLL: Duration = Duration::from_millis(1);

/// The opened directory, known to be this user's, and writable to nobody else.
pub(crate) struct Dir {
    path: PathBuf,
    dir: File,
}

impl Dir {
    /// Opens it; `None` if there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, KeyringError> {
        let parent = match TrustedDir::open(path.parent().unwrap_or(path)) {
            Ok(parent) => parent,
            Err(distrust) if distrust.is_missing() => return Ok(None),
            Err(distrust) => return Err(parent_error(distrust)),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = path.file_name().unwrap_or_default();
        let dir = match openat(parent.fd(), name, flags, Mode::empty()) {
            Ok(dir) => File::from(dir),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                return Err(distrusted(path, Distrust::NotADirectory));
            }
            Err(errno) => return Err(io_error(path)(errno.into())),
        };
        trust(path, &dir, 0o022)?;
        let path = path.to_owned();
        Ok(Some(Self { path, dir }))
    }

    /// Opens it, and makes it first if there is none.
    pub(crate) fn create(path: &Path) -> Result<Self, KeyringError> {
        if let Some(dir) = Self::open(path)? {
            return Ok(dir);
        }
        let made = TrustedDir::open_or_make(path);
        made.map_err(parent_error)?;
        Self::open(path)?.ok_or_else(|| io_error(path)(io::ErrorKind::NotFound.into()))
    }

    /// Reads a key's file; `None` if there is none.
    pub(crate) fn read(&self, key_id: KeyId) -> Result<Option<Zeroizing<Vec<u8>>>, KeyringError> {
        let opened = self.open_file(&name(key_id))?;
        let path = self.path.join(name(key_id));
        opened.map(|file| read_whole(&path, file)).transpose()
    }

    /// Waits until nobody else opens this key, or the deadline passes, and lets nobody else do
    /// so until what is returned is dropped.
    pub(crate) fn wait_for_turn(
        &self,
        key_id: KeyId,
        deadline: Deadline,
    ) -> Result<Option<File>, KeyringError> {
        let Some(file) = self.open_file(&name(key_id))? else {
            return Ok(None);
        };
        match lock(&file, deadline) {
            Ok(()) => Ok(Some(file)),
            Err(LockFailed::TimedOut) => Err(KeyringError::TimedOut),
            // A file system without locks: everybody opens it alone.
            Err(LockFailed::Io(_)) => Ok(None),
        }
    }

    /// Opens a trusted file of this directory; `None` if there is none.
    fn open_file(&self, name: &OsStr) -> Result<Option<File>, KeyringError> {
        let path = self.path.join(name);
        // Non-blocking, or a FIFO of that name would hold up the start for ever.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP | Errno::ENXIO) => {
                return Err(distrusted(&path, Distrust::NotAFile));
            }
            Err(errno) => return Err(io_error(&path)(errno.into())),
        };
        if !file.metadata().map_err(io_error(&path))?.is_file() {
            return Err(distrusted(&path, Distrust::NotAFile));
        }
        trust(&path, &file, 0o077)?;
        Ok(Some(file))
    }

    /// Writes a key's file in place of any that is there, which stays until the new one is
    /// known to be on the disk as it should be.
    pub(crate) fn replace(
        &self,
        key_id: KeyId,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<(), KeyringError> {
        self.lock(deadline)?;
        let path = self.path.join(name(key_id));
        let written = NewFile::write(&self.dir, |file| file.write_all(bytes))
            .and_then(|new| Ok((new.reads_back(bytes)?, new)));
        let (reads_back, new) = written.map_err(io_error(&path))?;
        if !reads_back {
            let reason = "the disk does not return what was written to it";
            return Err(io_error(&path)(io::Error::other(reason)));
        }
        new.replace(&name(key_id)).map_err(io_error(&path))
    }

    /// Removes a key's file.
    pub(crate) fn remove(&self, key_id: KeyId) -> Result<(), KeyringError> {
        atomic::remove(&self.dir, &name(key_id)).map_err(io_error(&self.path.join(name(key_id))))
    }

    /// The ids after which files are named, in order.
    pub(crate) fn list(&self) -> Result<Vec<KeyId>, KeyringError> {
        let mut key_ids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io_error(&self.path))? {
            let found = entry.map_err(io_error(&self.path))?.file_name();
            let key_id = found.to_str().and_then(KeyId::parse);
            key_ids.extend(key_id.filter(|key_id| name(*key_id) == found));
        }
        key_ids.sort_unstable();
        Ok(key_ids)
    }

    /// Holds other writers off until this value is dropped, for they use the same temporary.
    fn lock(&self, deadline: Deadline) -> Result<(), KeyringError> {
        lock(&self.dir, deadline).map_err(|failed| match failed {
            LockFailed::TimedOut => KeyringError::TimedOut,
            LockFailed::Io(error) => io_error(&self.path)(error),
        })
    }
}

/// Why there is no lock.
enum LockFailed {
    TimedOut,
    Io(io::Error),
}

fn lock(file: &File, deadline: Deadline) -> Result<(), LockFailed> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(LockFailed::Io(error)),
            Err(TryLockError::WouldBlock) if deadline.has_passed() => {
                return Err(LockFailed::TimedOut);
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
        }
    }
}

fn read_whole(path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    let bound = u64::try_from(MAX_FILE + 1).unwrap_or(u64::MAX);
    file.take(bound)
        .read_to_end(&mut bytes)
        .map_err(io_error(path))?;
    if bytes.len() > MAX_FILE {
        let path = path.to_owned();
        let reason = "it is too long for a sealed key";
        return Err(KeyringError::Damaged { path, reason });
    }
    Ok(bytes)
}

fn name(key_id: KeyId) -> OsString {
    key_id.to_string().into()
}

/// Checks the opened thing itself, not its name: nobody can exchange it after that.
fn trust(path: &Path, file: &File, forbidden: u32) -> Result<(), KeyringError> {
    let found = file.metadata().map_err(io_error(path))?;
    if found.uid() != geteuid().as_raw() {
        return Err(distrusted(path, Distrust::Owner(found.uid())));
    }
    if found.mode() & forbidden != 0 {
        return Err(distrusted(path, Distrust::Mode(found.mode() & 0o7777)));
    }
    Ok(())
}

fn parent_error(distrust: trusted::Distrust) -> KeyringError {
    match distrust {
        trusted::Distrust::Owner { path, owner } => distrusted(&path, Distrust::Owner(owner)),
        trusted::Distrust::WritableByOthers { path, mode } => {
            distrusted(&path, Distrust::Mode(mode))
        }
        trusted::Distrust::Io { path, source } => KeyringError::Io { path, source },
    }
}

fn distrusted(path: &Path, reason: Distrust) -> KeyringError {
    KeyringError::NotTrusted {
        path: path.to_owned(),
        reason,
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> KeyringError + use<'_> {
    move |source| KeyringError::Io {
        path: path.to_owned(),
        source,
    }
}
