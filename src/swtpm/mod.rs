//! swtpm's TPM state: where it is, what it is, and whether a DEK opens it.
//!
//! The rule for every odd case is what libvirt and swtpm would make of it. [`StateFile::Absent`]
//! says that they would make a new TPM without a word; [`StateFile::Damaged`] that swtpm would
//! fail whatever the key, hang, or destroy what is there; [`StateFile::Unreadable`] leaves it open.

mod cipher;
mod empty;
mod error;
pub mod format;
pub mod linear;
mod lock;
mod lock_file;
mod open;
mod proof;
mod reach;
mod state_path;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::fs::{File, Metadata};
use std::io::{Cursor, Read, Seek};
use std::path::Path;

pub use cipher::{RecryptError, TpmData};
pub use empty::remove_empty_directory;
pub use error::StateError;
pub use lock::{LockError, LockedState, StagedState};
pub use lock_file::{LockHolder, LockProblem, lock_problem};
pub use proof::EncryptedState;
pub use reach::{ClosedDirectory, closed_directory};
pub use state_path::{Backend, StatePath, state_path};

use crate::domain::Emulator;
use crate::host;
use crate::ids::DomainUuid;
use format::Contents;

/// The longest state that is read, in bytes. The NVRAM of libtpms has 173 KiB (`NV_MEMORY_SIZE`
/// in its `TpmProfile.h`); some forty times that leaves room, and a bound.
pub const MAX_STATE_LEN: u32 = 8 * 1024 * 1024;

/// The TPM state found at one place.
#[derive(Debug)]
pub enum StateFile {
    /// No file, or an empty place: libvirt would make a new TPM.
    Absent,
    /// Not encrypted.
    Plain,
    /// Encrypted.
    Encrypted(EncryptedState),
    /// There is something that swtpm would refuse whatever the key: says what and how.
    Damaged(String),
    /// There is something that cannot be read, or is of a newer format: says what and how.
    Unreadable(String),
}

/// Reads the state of a domain's emulated TPM, once. Never fails: what cannot be read is
/// `Damaged` or `Unreadable`. Whatever is in the state's place, this comes back within seconds.
#[must_use]
pub fn read_state(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> StateFile {
    let place = StatePath::of(libvirt_state_dir, domain, vtpm);
    let asked = place.clone();
    let contents = bounded(&place, move || match open::open(&asked)? {
        None => Ok(None),
        Some(file) => match asked.backend {
            Backend::Linear => linear_contents(file),
            Backend::Directory => format::parse(&read_bounded(file)?).map(Some),
        },
    });
    contents.map_or_else(
        |error| StateFile::failed(&error, format!("{}: {error}", place.path.display())),
        StateFile::from,
    )
}

/// The file of a state, as it is.
#[derive(Debug)]
pub struct StateBytes {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its owner and mode.
    pub metadata: Metadata,
    /// Owner and mode of the directories around it that libvirt makes, from the outermost: below
    /// what the administrator owns, and that directory itself.
    pub directories: Vec<Metadata>,
}

/// Reads the file of a state as it is, without looking at what is in it. `None`: there is none,
/// or it is a block device.
pub fn read_bytes(place: &StatePath) -> Result<Option<StateBytes>, StateError> {
    let asked = place.clone();
    bounded(place, move || {
        let Some(file) = open::open(&asked)? else {
            return Ok(None);
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        Ok(Some(StateBytes {
            bytes: read_bounded(file)?,
            metadata,
            directories: open::directories(&asked)?,
        }))
    })
}

/// What the bytes of a state's file are.
#[must_use]
pub fn state_in(bytes: &[u8], backend: Backend) -> StateFile {
    let contents = match backend {
        Backend::Directory => format::parse(bytes).map(Some),
        Backend::Linear => linear_contents(Cursor::new(bytes)),
    };
    contents.map_or_else(
        |error| StateFile::failed(&error, error.to_string()),
        StateFile::from,
    )
}

impl StateFile {
    /// What it is, in one word, as JSON has it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Plain => "plain",
            Self::Encrypted(_) => "encrypted",
            Self::Damaged(_) => "damaged",
            Self::Unreadable(_) => "unreadable",
        }
    }

    fn failed(error: &StateError, words: String) -> Self {
        if error.is_damage() {
            Self::Damaged(words)
        } else {
            Self::Unreadable(words)
        }
    }
}

/// Does `work`, which looks at this place, in a bounded time.
fn bounded<T: Send + 'static>(
    place: &StatePath,
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    host::bounded::bounded(&place.common_directory(), work).unwrap_or(Err(StateError::NoAnswer))
}

impl From<Option<Contents>> for StateFile {
    fn from(contents: Option<Contents>) -> Self {
        match contents {
            None => Self::Absent,
            Some(Contents::Plain) => Self::Plain,
            Some(Contents::Encrypted(state)) => Self::Encrypted(state),
        }
    }
}

fn linear_contents(store: impl Read + Seek) -> Result<Option<Contents>, StateError> {
    let Some(permall) = linear::read_permall(store)? else {
        return Ok(None);
    };
    format::parse(&permall).map(Some)
}

fn read_bounded(mut file: File) -> Result<Vec<u8>, StateError> {
    let len = file.metadata()?.len();
    if len > u64::from(MAX_STATE_LEN) {
        // Some day TPMs may be larger; what has no header of that length is none of them.
        let mut beginning = [0; 16];
        file.read_exact(&mut beginning)?;
        return Err(if format::is_as_long_as_it_says(&beginning, len) {
            StateError::TooLong
        } else {
            StateError::Length { found: len }
        });
    }
    let mut bytes = Vec::new();
    // It may grow meanwhile, but not beyond this.
    file.take(u64::from(MAX_STATE_LEN))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
