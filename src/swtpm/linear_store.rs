//! A linear store that is locked, while the permanent state in it is replaced.
//!
//! It is changed in place: a swtpm that is waiting for the lock has this very file open, and would
//! go on with it if another took its name. Whole or not at all, in this order:
//!
//! 1. the new state is written where no state is, read back, and flushed;
//! 2. its entry in the header is written, 12 bytes of one sector, and flushed: from here on it is
//!    the state;
//! 3. everything else is overwritten with zeros: the old state may be plain, or open with a key
//!    that is no secret any more.
//!
//! A kill before 2 leaves the old state, after 2 the new one. What is left of the other is not seen
//! by swtpm, which finds states by the header alone, and is overwritten by the next replacement;
//! [`has_remains`](super::has_remains) sees it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::error::{LockError, StateError};
use super::format::MAX_STATE_LEN;
use super::linear::{self, HEADER_LEN, Header, PERMALL_ENTRY, Section, unused};
use super::lock::{InstallError, OldState};
use super::lock_file::{self, StateLock};
use super::open::open_to_write;
use super::state_path::StatePath;
use crate::host::crash;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

/// The longest file that is changed: swtpm makes files hardly longer than their states.
pub(super) const MAX_LEN: u64 = 4 * MAX_STATE_LEN as u64;

/// A locked linear store with a permanent state, and no other.
pub(super) struct LinearStore {
    lock: StateLock,
    path: PathBuf,
    /// Where its permanent state is.
    permall: Section,
    /// Where another one is staged.
    staged: Option<Section>,
}

impl LinearStore {
    /// Locks the store. `None`: there is none, or it has no permanent state.
    pub(super) fn lock(state_path: &StatePath) -> Result<Option<Self>, LockError> {
        let Some(file) = open_to_write(state_path)? else {
            return Ok(None);
        };
        if !file.metadata()?.is_file() {
            return Err(LockError::BlockDevice);
        }
        let lock = lock_file::take_file(file)?;
        let Some(header) = Header::read(&mut lock.file())? else {
            return Ok(None);
        };
        if header.has_other_states() {
            let states = "a volatile or saved state in the same file";
            return Err(LockError::Volatile(states.to_owned()));
        }
        let Some(permall) = header.permall() else {
            return Ok(None);
        };
        let found = lock.file().metadata()?.len();
        if found > MAX_LEN {
            return Err(StateError::TooLong.into());
        }
        if permall.data_len > permall.len || (permall.offset as usize) < HEADER_LEN {
            return Err(StateError::Header.into());
        }
        Ok(Some(Self {
            lock,
            path: state_path.path.clone(),
            permall,
            staged: None,
        }))
    }

    /// Returns the locked file.
    pub(super) fn file(&self) -> &File {
        self.lock.file()
    }

    /// Reads its permanent state.
    pub(super) fn read(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        linear::read_section(&mut self.file(), self.permall).map(Zeroizing::new)
    }

    /// Reads the whole file.
    pub(super) fn read_file(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let len = self.file().metadata()?.len();
        let mut bytes = Zeroizing::new(vec![0; usize::try_from(len).unwrap_or(0)]);
        self.file().read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Writes another permanent state where none is, durably. Nothing changes for swtpm.
    pub(super) fn stage(&mut self, state: &[u8]) -> io::Result<()> {
        let section = self
            .free_section(state.len())
            .ok_or(ErrorKind::FileTooLarge)?;
        self.staged = Some(section);
        self.file().write_all_at(state, section.offset.into())?;
        let section_end = section.end();
        if self.file().metadata()?.len() < section_end {
            self.file().set_len(section_end)?;
        }
        self.file().sync_all()?;
        crash::point();
        let read_back = linear::read_section(&mut self.file(), section).map(Zeroizing::new);
        if !read_back.is_ok_and(|read_back| *read_back == state) {
            return Err(io::Error::other("it was read back differently"));
        }
        Ok(())
    }

    /// Makes the staged state the permanent one, and overwrites the old one. Returns whether that
    /// succeeded.
    pub(super) fn install(&mut self) -> Result<OldState, InstallError> {
        let Some(staged) = self.staged.take() else {
            return Err(InstallError {
                error: ErrorKind::NotFound.into(),
                may_be_installed: false,
            });
        };
        if let Err(error) = self.write_entry(staged) {
            // Until the old entry is back, either may be the state.
            let is_back = self.write_entry(self.permall).is_ok();
            self.staged = is_back.then_some(staged);
            return Err(InstallError {
                error,
                may_be_installed: !is_back,
            });
        }
        crash::point();
        self.permall = staged;
        // It is installed, whatever comes now.
        let erased = self.erase_unused();
        crash::point();
        Ok(erased.into())
    }

    /// Returns whether anything is where no state is.
    pub(super) fn has_remains(&self) -> io::Result<bool> {
        let file = self.read_file()?;
        let unused = unused([self.permall], file.len() as u64);
        Ok(unused.into_iter().any(|part| holds_data(&file, part)))
    }

    /// Overwrites everything but the header and the permanent state, and shortens the file.
    pub(super) fn erase_unused(&self) -> io::Result<()> {
        let (file, permall_end) = (self.file(), self.permall.end());
        let len = file.metadata()?.len();
        for part in unused([self.permall], len) {
            crash::failing_point()?;
            let zeros = vec![0; usize::try_from(part.end - part.start).unwrap_or(0)];
            file.write_all_at(&zeros, part.start)?;
        }
        file.sync_all()?;
        if len > permall_end {
            file.set_len(permall_end)?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// Returns a section where no state is: before the present one, or after it. As swtpm's own, its
    /// length is a power of two.
    fn free_section(&self, data_len: usize) -> Option<Section> {
        let data_len = u32::try_from(data_len).ok()?;
        let len = data_len.checked_next_power_of_two()?;
        let first = u32::try_from(HEADER_LEN).ok()?;
        let offset = if first.checked_add(len)? <= self.permall.offset {
            first
        } else {
            u32::try_from(self.permall.end()).ok()?
        };
        (u64::from(offset) + u64::from(len) <= MAX_LEN).then_some(Section {
            offset,
            data_len,
            len,
        })
    }

    fn write_entry(&self, section: Section) -> io::Result<()> {
        self.file()
            .write_all_at(&section.entry(), PERMALL_ENTRY as u64)?;
        self.file().sync_all()
    }
}

impl Drop for LinearStore {
    /// A staged state that was not installed is removed; if it cannot be, `doctor` reports it.
    fn drop(&mut self) {
        if self.staged.is_some()
            && let Err(error) = self.erase_unused()
        {
            let path = self.path.display();
            tracing::warn!(%error, %path, "the unused TPM state could not be overwritten");
        }
    }
}

/// Whether a part of a file, which may be shorter, holds more than zeros.
pub(super) fn holds_data(file: &[u8], part: Range<u64>) -> bool {
    let at = |position| usize::try_from(position).map_or(file.len(), |at| at.min(file.len()));
    file[at(part.start)..at(part.end)]
        .iter()
        .any(|&byte| byte != 0)
}
