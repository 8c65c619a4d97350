//! A stopped guest's TPM state, held while it is replaced by another one.
//!
//! swtpm of libvirt's days locks `.lock` beside the state while it runs (swtpm 0.7 and later,
//! `src/swtpm/swtpm_nvstore_dir.c`: `SWTPM_NVRAM_Lock_Dir`). Holding that lock here tells for
//! certain that no TPM runs on the state, and keeps one from starting until it is replaced.
//!
//! The directory belongs to swtpm's user, who may put anything there at any moment. So it is
//! opened once, and everything in it by its name alone; no link is followed.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown};

use super::{StateError, read_bounded, state_path};
use crate::domain::{Emulator, StateSource};
use crate::durable::{self, NewFile};
use crate::ids::DomainUuid;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

const LOCK: &str = ".lock";

/// What swtpm makes its lock with, where umask lets it.
const LOCK_MODE: Mode = Mode::from_bits_truncate(0o640);

/// Why a TPM state cannot be held, or not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody else holds it: a TPM that runs, or another vtpm-guard.
    #[error("it is in use: a TPM emulator runs on it, or another vtpm-guard works on it")]
    InUse,
    /// `<source type='file'>`: a file or device with several states, which cannot be replaced
    /// in one step.
    #[error(
        "it is kept in one file or block device (swtpm's linear format), which cannot be replaced in one step"
    )]
    Linear,
    /// A link, a directory or the like.
    #[error("it is not a regular file of its own")]
    NotAFile,
    /// A TPM's saved run lies beside it, under the old key.
    #[error("{0} lies beside it: the volatile state of a TPM that was not shut down")]
    Volatile(String),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system says no.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A TPM state that nobody uses, and that nobody will as long as this lives.
pub struct HeldState {
    path: PathBuf,
    dir: File,
    name: OsString,
    meta: Metadata,
    /// Its bytes, as swtpm wrote them.
    blob: zeroize::Zeroizing<Vec<u8>>,
    /// Closing it ends the lock.
    _lock: File,
}

impl HeldState {
    /// Takes hold of the state of a domain's emulated TPM. `None`: there is none.
    pub fn take(
        libvirt_state_dir: &Path,
        domain: DomainUuid,
        vtpm: &Emulator,
    ) -> Result<Option<Self>, HoldError> {
        if matches!(vtpm.source, Some(StateSource::File(_))) {
            return Err(HoldError::Linear);
        }
        let path = state_path(libvirt_state_dir, domain, vtpm);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(HoldError::NotAFile);
        };
        let name = name.to_owned();
        let dir = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(parent);
        let dir = match dir {
            Ok(dir) => dir,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(file) = open_regular(&dir, &name)? else {
            return Ok(None);
        };
        let meta = file.metadata()?;
        let lock = lock(&dir, &meta)?;
        refuse_volatile_state(&dir, &name)?;
        // Only now, under the lock, is it the last word of the TPM that wrote it.
        let Some(file) = open_regular(&dir, &name)? else {
            return Ok(None);
        };
        let meta = file.metadata()?;
        let blob = zeroize::Zeroizing::new(read_bounded(file)?);
        Ok(Some(Self {
            path,
            dir,
            name,
            meta,
            blob,
            _lock: lock,
        }))
    }

    /// The state's bytes.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Its place.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its owner, group and mode.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    /// Writes a new state beside the old one, durably. Nothing has changed until it is
    /// [put in place](StagedState::put_in_place).
    pub fn stage(self, blob: &[u8]) -> io::Result<StagedState> {
        let new = NewFile::write(&self.dir, |file| {
            file.write_all(blob)?;
            durable::set_attributes(file, &self.meta)
        })?;
        Ok(StagedState { held: self, new })
    }
}

/// A new state that lies ready beside the old one. Dropping it takes it away.
pub struct StagedState {
    held: HeldState,
    new: NewFile,
}

impl StagedState {
    /// Puts it in the old one's place, in one step.
    pub fn put_in_place(self) -> io::Result<()> {
        self.new.replace(&self.held.name)
    }
}

fn open_regular(dir: &File, name: &OsStr) -> Result<Option<File>, HoldError> {
    // Without O_NONBLOCK opening a FIFO would wait.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err(HoldError::NotAFile),
        Err(errno) => return Err(io::Error::from(errno).into()),
    };
    if file.metadata()?.is_file() {
        Ok(Some(file))
    } else {
        Err(HoldError::NotAFile)
    }
}

/// Takes swtpm's lock. Where it has to be made, it is made as swtpm's own, which must be able
/// to open it.
fn lock(dir: &File, state: &Metadata) -> Result<File, HoldError> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let lock = openat(dir, LOCK, flags, LOCK_MODE).map_err(io::Error::from)?;
    let lock = File::from(lock);
    if lock.metadata()?.uid() != state.uid() {
        let (owner, group) = (Uid::from_raw(state.uid()), Gid::from_raw(state.gid()));
        fchown(&lock, Some(owner), Some(group)).map_err(io::Error::from)?;
    }
    #[allow(clippy::cast_possible_truncation, reason = "these constants are small")]
    let whole_file = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole_file)) {
        Ok(_) => Ok(lock),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(HoldError::InUse),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

/// swtpm would read `NAME.volatilestate` with the key of the permanent state.
fn refuse_volatile_state(dir: &File, name: &OsStr) -> Result<(), HoldError> {
    let volatile = Path::new(name).with_extension("volatilestate");
    match open_regular(dir, volatile.as_os_str())? {
        Some(_) => Err(HoldError::Volatile(volatile.display().to_string())),
        None => Ok(()),
    }
}
