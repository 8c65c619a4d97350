//! A stopped guest's TPM state, locked while it is replaced.
//!
//! swtpm locks the file `.lock` next to the state while it runs (swtpm 0.7 and later,
//! `src/swtpm/swtpm_nvstore_dir.c`: `SWTPM_NVRAM_Lock_Dir`). Whoever has that lock knows that no
//! TPM runs on the state, and none can start until it is replaced.
//!
//! The directory belongs to swtpm's user, who may put anything there at any moment. So it is
//! opened once, and each file in it by name; no link is followed (`swtpm::open`).

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::directories::{bounded, open_directory};
use super::error::LockError;
use super::lock_file::{self, StateLock};
use super::open::open_in;
use super::read::read_bounded;
use super::state_path::StatePath;
use crate::domain::{Emulator, StateSource};
use crate::host::atomic::{self, NewFile};
use crate::ids::DomainUuid;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

/// A TPM state that nobody uses, and that nobody can use as long as this value lives.
pub struct LockedState {
    path: PathBuf,
    dir: File,
    name: OsString,
    meta: Metadata,
    /// Its bytes, as swtpm wrote them.
    blob: zeroize::Zeroizing<Vec<u8>>,
    _lock: StateLock,
}

impl LockedState {
    /// Locks the state of a domain's emulated TPM. `None`: there is none.
    pub fn lock(
        libvirt_state_dir: &Path,
        domain: DomainUuid,
        vtpm: &Emulator,
    ) -> Result<Option<Self>, LockError> {
        if matches!(vtpm.source, Some(StateSource::File(_))) {
            return Err(LockError::Linear);
        }
        let state_path = StatePath::of(libvirt_state_dir, domain, vtpm);
        let asked = state_path.clone();
        bounded(&state_path, move || Ok(Self::lock_at(&asked)))?
    }

    fn lock_at(state_path: &StatePath) -> Result<Option<Self>, LockError> {
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
        let meta = file.metadata()?;
        let blob = zeroize::Zeroizing::new(read_bounded(file)?);
        Ok(Some(Self {
            path: state_path.path.clone(),
            dir,
            name,
            meta,
            blob,
            _lock: lock,
        }))
    }

    /// Returns the state's bytes.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its owner, group and mode.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    /// Writes a new state next to the old one, durably. Nothing changes until it is
    /// [installed](StagedState::install).
    pub fn stage(self, blob: &[u8]) -> io::Result<StagedState> {
        let new = NewFile::write(&self.dir, |file| {
            file.write_all(blob)?;
            atomic::set_attributes(file, &self.meta)
        })?;
        Ok(StagedState { held: self, new })
    }
}

/// A new state that is ready next to the old one. Dropping it removes it.
pub struct StagedState {
    held: LockedState,
    new: NewFile,
}

impl StagedState {
    /// Replaces the old state, atomically.
    pub fn install(self) -> io::Result<()> {
        self.new.replace(&self.held.name)
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
