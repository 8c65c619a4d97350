//! Where the store lies: its directory and its file, and whether they can be trusted.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::sys::statvfs::FsFlags;

use super::error::{Obstacle, StoreError};

/// The database's name in the state directory.
const FILE_NAME: &str = "store.db";

/// The permission bits that let the group or everybody write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A state directory that belongs to the user who runs this program, and to nobody else.
pub(super) struct Place {
    /// The directory, opened with `O_PATH`: what was checked is what is used.
    dir_fd: OwnedFd,
    dir: PathBuf,
    /// The database's path, without any symbolic link in it (`SQLITE_OPEN_NOFOLLOW` refuses
    /// them in the directories of a path too).
    pub(super) file: PathBuf,
}

impl Place {
    /// Opens the state directory; `create` makes one that is missing.
    pub(super) fn open(state_dir: &Path, create: bool) -> Result<Self, StoreError> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing,
            io::ErrorKind::NotADirectory => {
                StoreError::unavailable(state_dir, Obstacle::NotADirectory)
            }
            _ => StoreError::unavailable(state_dir, error),
        };
        if create && !state_dir.exists() {
            make_dir(state_dir).map_err(|error| StoreError::unavailable(state_dir, error))?;
        }
        let dir = fs::canonicalize(state_dir).map_err(fail)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir_fd =
            nix::fcntl::open(&dir, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        let stat = nix::sys::stat::fstat(&dir_fd).map_err(|errno| fail(errno.into()))?;
        check_owner(&dir, &stat)?;
        let file = dir.join(FILE_NAME);
        Ok(Self { dir_fd, dir, file })
    }

    /// The database's length in bytes; `None` if there is none.
    ///
    /// The file is not opened for it: closing any descriptor of a file drops the locks that
    /// the process holds on it through others (POSIX), SQLite's among them.
    pub(super) fn file_len(&self) -> Result<Option<u64>, StoreError> {
        let stat =
            match nix::sys::stat::fstatat(&self.dir_fd, FILE_NAME, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => {
                    return Err(StoreError::unavailable(&self.file, io::Error::from(errno)));
                }
            };
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
            return Err(StoreError::unavailable(&self.file, Obstacle::NotAFile));
        }
        check_owner(&self.file, &stat)?;
        Ok(Some(u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// Makes an empty database file of mode 0600 (SQLite's `-wal` and `-shm` files inherit
    /// it), unless there is one. `mknod`, for it leaves no descriptor to close.
    pub(super) fn make_file(&self) -> Result<(), StoreError> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match nix::sys::stat::mknodat(&self.dir_fd, FILE_NAME, SFlag::S_IFREG, mode, 0) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(StoreError::unavailable(&self.file, io::Error::from(errno))),
        }
    }

    /// Makes the names in the directory, and the directory's own, survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let above = self.dir.parent().unwrap_or(&self.dir);
        [&self.dir, above].into_iter().try_for_each(sync_dir)
    }

    /// Whether the database can change under no hand: its file system is mounted read-only,
    /// and no write-ahead log with content waits beside it.
    pub(super) fn is_immutable(&self) -> bool {
        let read_only = nix::sys::statvfs::fstatvfs(&self.dir_fd)
            .is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
        read_only && wal_len(&self.file) == 0
    }
}

/// The length in bytes of the write-ahead log beside a database; 0 if there is none.
pub(super) fn wal_len(database: &Path) -> u64 {
    fs::symlink_metadata(beside(database, "-wal")).map_or(0, |wal| wal.len())
}

/// The path of a file beside the database whose name begins with the database's.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Makes a directory's entries survive a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| StoreError::unavailable(dir, error))
}

/// Makes the directory, 0700, and those above it that are missing. Another process that
/// makes it at the same time is no error.
fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn check_owner(path: &Path, stat: &FileStat) -> Result<(), StoreError> {
    let user = nix::unistd::geteuid().as_raw();
    if stat.st_uid != user {
        let owner = stat.st_uid;
        return Err(StoreError::unavailable(
            path,
            Obstacle::NotOurs { owner, user },
        ));
    }
    if stat.st_mode & WRITABLE_BY_OTHERS != 0 {
        let mode = stat.st_mode & 0o7777;
        return Err(StoreError::unavailable(
            path,
            Obstacle::WritableByOthers { mode },
        ));
    }
    Ok(())
}
