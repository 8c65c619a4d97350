//! swtpm's TPM state: where it is, what it is, and whether a DEK opens it.
//!
//! The rule for every odd case is what libvirt and swtpm would make of it. [`StateFile::Absent`]
//! says that they would make a new TPM without a word; [`StateFile::Unreadable`] that the start
//! would fail, or that swtpm would destroy what is there.

mod cipher;
mod error;
pub mod format;
mod held;
pub mod linear;
mod place;
mod proof;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use cipher::{RecryptError, TpmData};
pub use error::StateError;
pub use held::{HeldState, HoldError, StagedState};
pub use place::{LIBVIRT_STATE_DIR, state_path};
pub use proof::EncryptedState;

use crate::domain::{Emulator, StateSource};
use crate::ids::DomainUuid;
use format::Contents;
use place::Backend;

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
    /// There is something, and it is damaged or unreadable: says what and how.
    Unreadable(String),
}

/// Reads the state of a domain's emulated TPM, once. Never fails: what cannot be read is
/// `Unreadable`. It does not wait either, whatever stands in the state's place.
#[must_use]
pub fn read_state(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> StateFile {
    let path = state_path(libvirt_state_dir, domain, vtpm);
    let contents = match vtpm.source {
        Some(StateSource::File(_)) => read_linear(&path),
        Some(StateSource::Dir(_)) | None => read_permall(&path),
    };
    match contents {
        Ok(None) => StateFile::Absent,
        Ok(Some(Contents::Plain)) => StateFile::Plain,
        Ok(Some(Contents::Encrypted(state))) => StateFile::Encrypted(state),
        Err(error) => StateFile::Unreadable(format!("{}: {error}", path.display())),
    }
}

/// A file of swtpm's directory backend: the state and nothing else.
fn read_permall(path: &Path) -> Result<Option<Contents>, StateError> {
    let Some(file) = place::open(path, Backend::Directory)? else {
        return Ok(None);
    };
    format::parse(&read_bounded(file)?).map(Some)
}

/// A file or block device of swtpm's linear backend: a table of contents and several states.
fn read_linear(path: &Path) -> Result<Option<Contents>, StateError> {
    let Some(store) = place::open(path, Backend::Linear)? else {
        return Ok(None);
    };
    let Some(permall) = linear::read_permall(store)? else {
        return Ok(None);
    };
    format::parse(&permall).map(Some)
}

fn read_bounded(file: File) -> Result<Vec<u8>, StateError> {
    let mut bytes = Vec::new();
    // One byte more than is allowed shows that there is more.
    file.take(u64::from(MAX_STATE_LEN) + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_STATE_LEN as usize {
        return Err(StateError::TooLong);
    }
    Ok(bytes)
}
