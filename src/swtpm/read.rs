//! Reads a TPM state and says what it is.

use std::fs::{File, Metadata};
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use super::directories::{self, bounded, once_more};
use super::error::StateError;
use super::format::{self, Contents, MAX_STATE_LEN};
use super::linear;
use super::open;
use super::proof::EncryptedState;
use super::state_path::{Backend, StatePath};
use crate::domain::Emulator;
use crate::ids::DomainUuid;
use crate::verdict::facts::Damage;

/// A TPM state, as it was found.
#[derive(Debug)]
pub enum StateFile {
    /// No file, or an empty directory: libvirt would make a new TPM.
    Absent,
    /// Not encrypted.
    Plain,
    /// Encrypted.
    Encrypted(EncryptedState),
    /// swtpm would refuse it whatever the key, or it is behind a link and not read.
    Damaged(Damage),
    /// It cannot be read, or is of a newer format, for this reason.
    Unreadable(String),
}

/// Reads the state of a domain's emulated TPM, once. Never fails: a state that cannot be read is
/// `Damaged` or `Unreadable`. Returns within seconds, whatever has the state's path.
#[must_use]
pub fn read_state(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> StateFile {
    let state_path = StatePath::of(libvirt_state_dir, domain, vtpm);
    let read = || {
        let asked = state_path.clone();
        bounded(&state_path, move || match open::open(&asked)? {
            None => Ok(None),
            Some(file) => match asked.backend {
                Backend::Linear => linear_contents(file),
                Backend::Directory => format::parse(&read_bounded(file)?).map(Some),
            },
        })
    };
    // What is taken for unreadable refuses no start, and where there is no state, libvirt would make a
    // new TPM.
    once_more(read).map_or_else(
        |error| StateFile::failed(&error, format!("{}: {error}", state_path.path.display())),
        StateFile::from,
    )
}

/// A state's file.
#[derive(Debug)]
pub struct StateBytes {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its owner and mode.
    pub metadata: Metadata,
    /// Owner and mode of the directories around it that libvirt makes, from the outermost.
    pub directories: Vec<Metadata>,
}

/// Reads a state's file without parsing it. `None`: there is none, or it is a block device.
pub fn read_bytes(state_path: &StatePath) -> Result<Option<StateBytes>, StateError> {
    let asked = state_path.clone();
    bounded(state_path, move || {
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
            directories: directories::directories(&asked)?,
        }))
    })
}

/// Parses the bytes of a state's file.
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
    /// Returns the word for it in JSON.
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

    fn failed(error: &StateError, reason: String) -> Self {
        if error.is_damage() {
            let link = match error {
                StateError::Link { link, .. } => Some(link.clone()),
                _ => None,
            };
            Self::Damaged(Damage { how: reason, link })
        } else {
            Self::Unreadable(reason)
        }
    }
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

pub(super) fn read_bounded(mut file: File) -> Result<Vec<u8>, StateError> {
    let len = file.metadata()?.len();
    if len > u64::from(MAX_STATE_LEN) {
        // Future TPMs may be larger; a file whose header gives another length is not one.
        let mut beginning = [0; 16];
        file.read_exact(&mut beginning)?;
        return Err(if format::is_as_long_as_it_says(&beginning, len) {
            StateError::TooLong
        } else {
            StateError::Length { found: len }
        });
    }
    let mut bytes = Vec::new();
    // It may grow in the meantime, but not beyond this.
    file.take(u64::from(MAX_STATE_LEN))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
