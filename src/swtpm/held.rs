//! A stopped guest's TPM state, held while it is replaced by another one.
//!
//! swtpm of libvirt's days locks `.lock` beside the state while it runs (swtpm 0.7 and later,
//! `src/swtpm/swtpm_nvstore_dir.c`: `SWTPM_NVRAM_Lock_Dir`). Holding that lock here tells for
//! certain that no TPM runs on the state, and keeps one from starting until it is replaced.
//!
//! The directory belongs to swtpm's user, who may put anything there at any moment. So it is
//! opened once, and everything in it by its name alone; no link is followed (`swtpm::open`).

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{StateError, StatePlace, bounded, lock, open, read_bounded};
use crate::domain::{Emulator, StateSource};
use crate::host::atomic::{self, NewFile};
use crate::ids::DomainUuid;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

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
    /// A TPM's saved run lies beside it, under the old key.
    #[error("{0} lies beside it: the volatile state of a TPM that was not shut down")]
    Volatile(String),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// I/O error.
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
        let place = StatePlace::of(libvirt_state_dir, domain, vtpm);
        let asked = place.clone();
        bounded(&place, move || Ok(Self::take_at(&asked)))?
    }

    fn take_at(place: &StatePlace) -> Result<Option<Self>, HoldError> {
        let Some(dir) = open::open_directory(place)? else {
            return Ok(None);
        };
        let name = place.file.clone();
        let open_state = || open::open_in(&dir, place.directory(), &name);
        let Some(file) = open_state()? else {
            return Ok(None);
        };
        let lock = lock::take(&dir, place.directory(), &file.metadata()?)?;
        refuse_volatile_state(&dir, place)?;
        // Only now, under the lock, is it the last word of the TPM that wrote it.
        let Some(file) = open_state()? else {
            return Ok(None);
        };
        let meta = file.metadata()?;
        let blob = zeroize::Zeroizing::new(read_bounded(file)?);
        Ok(Some(Self {
            path: place.path.clone(),
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
            atomic::set_attributes(file, &self.meta)
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

/// swtpm would read `NAME.volatilestate` with the key of the permanent state.
fn refuse_volatile_state(dir: &File, place: &StatePlace) -> Result<(), HoldError> {
    let volatile = Path::new(&place.file).with_extension("volatilestate");
    match open::open_in(dir, place.directory(), volatile.as_os_str())? {
        Some(_) => Err(HoldError::Volatile(volatile.display().to_string())),
        None => Ok(()),
    }
}
