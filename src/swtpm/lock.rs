//! A stopped guest's TPM state, locked while it is replaced.
//!
//! swtpm locks the file `.lock` next to the state while it runs (swtpm 0.7 and later,
//! `src/swtpm/swtpm_nvstore_dir.c`: `SWTPM_NVRAM_Lock_Dir`). Whoever has that lock knows that no
//! TPM runs on the state, and none can start until it is replaced.
//!
//! A linear store is locked, and replaced, as `linear_store` says.
//!
//! The directory belongs to swtpm's user, who may put anything there at any moment. So it is
//! opened once, and each file in it by name; no link is followed (`swtpm::open`).

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::directories::{bounded, open_directory};
use super::error::LockError;
use super::linear_store::LinearStore;
use super::lock_file::{self, StateLock};
use super::open::open_in;
use super::read::read_bounded;
use super::state_path::{Backend, StatePath};
use crate::domain::Emulator;
use crate::host::atomic::{self, NewFile};
use crate::host::crash;
use crate::ids::DomainUuid;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

/// A TPM state that nobody uses, and that nobody can use as long as this value lives.
pub struct LockedState {
    path: PathBuf,
    meta: Metadata,
    /// Its bytes, as swtpm wrote them.
    blob: Zeroizing<Vec<u8>>,
    place: Place,
}

/// Where it is.
enum Place {
    /// In a file of its own.
    Directory {
        dir: File,
        name: OsString,
        lock: StateLock,
    },
    /// In a linear store.
    Linear(LinearStore),
}

impl LockedState {
    /// Locks the state of a domain's emulated TPM. `None`: there is none.
    pub fn lock(
        libvirt_state_dir: &Path,
        domain: DomainUuid,
        vtpm: &Emulator,
    ) -> Result<Option<Self>, LockError> {
        let state_path = StatePath::of(libvirt_state_dir, domain, vtpm);
        let asked = state_path.clone();
        bounded(&state_path, move || {
            Ok(match asked.backend {
                Backend::Directory => Self::lock_in_directory(&asked),
                Backend::Linear => Self::lock_linear(&asked),
            })
        })?
    }

    fn lock_in_directory(state_path: &StatePath) -> Result<Option<Self>, LockError> {
        let Some(dir) = open_directory(state_path)? else {
            return Ok(None);
        };
        let name = state_path.file.clone();
        let open_state = || open_in(&dir, state_path.directory(), &name);
        let Some(file) = open_state()? else {
            return Ok(None);
        };
        let lock = lock_file::take(&dir, state_path.directory(), &file.metadata()?)?;
        refuse_volatile_state(&dir, state_path)?;
        // Only now, under the lock, is it certain to be the last state that the TPM wrote.
        let Some(file) = open_state()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            path: state_path.path.clone(),
            meta: file.metadata()?,
            blob: Zeroizing::new(read_bounded(file)?),
            place: Place::Directory { dir, name, lock },
        }))
    }

    fn lock_linear(state_path: &StatePath) -> Result<Option<Self>, LockError> {
        let Some(store) = LinearStore::lock(state_path)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            path: state_path.path.clone(),
            meta: store.file().metadata()?,
            blob: store.read()?,
            place: Place::Linear(store),
        }))
    }

    /// Returns the state's bytes.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Returns the bytes of the file that it is in.
    pub fn file(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        match &self.place {
            Place::Directory { .. } => Ok(self.blob.clone()),
            Place::Linear(store) => store.read_file(),
        }
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the owner, group and mode of its file.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    /// Overwrites what an earlier replacement has left in the state's own file. `None`: nothing.
    #[must_use]
    pub fn erase_remains(&self) -> Option<OldState> {
        match &self.place {
            Place::Directory { .. } => None,
            Place::Linear(store) => match store.has_remains() {
                Ok(false) => None,
                Ok(true) => Some(store.erase_unused().into()),
                Err(error) => Some(OldState::Left(error)),
            },
        }
    }

    /// Writes a new state next to the old one, durably. Nothing changes until it is
    /// [installed](StagedState::install).
    pub fn stage(self, blob: &[u8]) -> io::Result<StagedState> {
        let new = match self.place {
            Place::Directory { dir, name, lock } => StagedPlace::Directory {
                new: NewFile::write(&dir, |file| {
                    file.write_all(blob)?;
                    atomic::set_attributes(file, &self.meta)
                })?,
                name,
                lock,
            },
            Place::Linear(mut store) => {
                store.stage(blob)?;
                StagedPlace::Linear(store)
            }
        };
        Ok(StagedState(new))
    }
}

/// A new state that is ready next to the old one, which stays locked. Dropping it removes it.
pub struct StagedState(StagedPlace);

enum StagedPlace {
    Directory {
        new: NewFile,
        name: OsString,
        lock: StateLock,
    },
    Linear(LinearStore),
}

/// What became of the bytes of an old state that was in the same file as the new one.
#[derive(Debug)]
pub enum OldState {
    /// They are overwritten.
    Erased,
    /// Some may still be there, because of this.
    Left(io::Error),
}

impl From<io::Result<()>> for OldState {
    fn from(erased: io::Result<()>) -> Self {
        match erased {
            Ok(()) => Self::Erased,
            Err(error) => Self::Left(error),
        }
    }
}

/// One word for each.
impl Serialize for OldState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match self {
            Self::Erased => "erased",
            Self::Left(_) => "left",
        })
    }
}

/// Why a new state was not installed for good.
#[derive(Debug)]
pub struct InstallError {
    /// What failed.
    pub error: io::Error,
    /// Whether it may be in its place all the same, now or after a power cut. If not, the old state
    /// is what it was.
    pub may_be_installed: bool,
}

impl StagedState {
    /// Replaces the old state, atomically. `None`: it was in a file of its own, which is gone.
    pub fn install(self) -> Result<Option<OldState>, InstallError> {
        match self.0 {
            StagedPlace::Directory {
                mut new,
                name,
                lock,
            } => {
                let named = new.take_name(&name).map_err(|failed| InstallError {
                    error: failed.error,
                    may_be_installed: failed.may_have_it,
                });
                let flush = || crash::failing_point().and_then(|()| new.flush_name());
                let flushed = named.and_then(|()| {
                    flush().map_err(|error| InstallError {
                        error,
                        may_be_installed: true,
                    })
                });
                drop(lock);
                flushed.map(|()| None)
            }
            StagedPlace::Linear(mut store) => store.install().map(Some),
        }
    }
}

/// swtpm would read `NAME.volatilestate` with the key of the permanent state.
fn refuse_volatile_state(dir: &File, state_path: &StatePath) -> Result<(), LockError> {
    let volatile = Path::new(&state_path.file).with_extension("volatilestate");
    match open_in(dir, state_path.directory(), volatile.as_os_str())? {
        Some(_) => Err(LockError::Volatile(volatile.display().to_string())),
        None => Ok(()),
    }
}
