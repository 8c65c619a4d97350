//! The path of the store: its directory and its file, and whether they can be trusted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag};
use nix::sys::statvfs::FsFlags;

use super::error::StoreError;
use crate::host::atomic;
use crate::host::dirs::StateDir;
use crate::host::trusted::{self, Trusted};

/// A state directory that only the user who runs this program can write to, as with every
/// directory above it.
pub(super) struct StorePath {
    dir: Trusted,
    /// The database's path, without any symbolic link in it (`SQLITE_OPEN_NOFOLLOW` refuses
    /// them in the directories of a path too).
    pub(super) file: PathBuf,
}

impl StorePath {
    /// Opens the state directory; `create` creates a missing one.
    pub(super) fn open(state_dir: &Path, create: bool) -> Result<Self, StoreError> {
        let dir = if create {
            trusted::make(state_dir, trusted::STATE_DIR)?
        } else {
            trusted::find(state_dir, trusted::STATE_DIR)?.ok_or(StoreError::Missing)?
        };
        let file = dir.path().join(StateDir::STORE_NAME);
        Ok(Self { dir, file })
    }

    /// The directory, to create files in it.
    pub(super) fn dir(&self) -> Result<File, StoreError> {
        Ok(self.dir.open()?)
    }

    /// The database's length in bytes; `None` if there is none.
    ///
    /// The file is not opened for it: closing any descriptor of a file drops the locks that
    /// the process holds on it through others (POSIX), SQLite's among them.
    pub(super) fn file_len(&self) -> Result<Option<u64>, StoreError> {
        let stat = match nix::sys::stat::fstatat(
            self.dir.fd(),
            StateDir::STORE_NAME,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => {
                return Err(StoreError::unavailable(&self.file, io::Error::from(errno)));
            }
        };
        trusted::STORE.check_stat(&self.file, &stat)?;
        Ok(Some(u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// Creates an empty database file of mode 0600 (SQLite's `-wal` and `-shm` files inherit
    /// it), unless there is one. `mknod`, because it leaves no descriptor to close.
    pub(super) fn create_file(&self) -> Result<(), StoreError> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match nix::sys::stat::mknodat(self.dir.fd(), StateDir::STORE_NAME, SFlag::S_IFREG, mode, 0)
        {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(StoreError::unavailable(&self.file, io::Error::from(errno))),
        }
    }

    /// Syncs the directory and its parent, so that the names in them survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let above = self.dir.path().parent().unwrap_or(self.dir.path());
        let synced = atomic::sync_directory(&self.dir()?)
            .and_then(|()| atomic::sync_directory(&File::open(above)?));
        synced.map_err(|error| StoreError::unavailable(above, error))
    }

    /// Whether nobody can change the database: its file system is mounted read-only, and there is
    /// no write-ahead log with content next to it.
    pub(super) fn is_immutable(&self) -> bool {
        let read_only = nix::sys::statvfs::fstatvfs(self.dir.fd())
            .is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
        read_only && wal_len(&self.file) == 0
    }
}

/// The length in bytes of the write-ahead log next to a database; 0 if there is none.
pub(super) fn wal_len(database: &Path) -> u64 {
    fs::symlink_metadata(beside(database, "-wal")).map_or(0, |wal| wal.len())
}

/// The path of a file next to the database, whose name begins with the database's.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
