//! What is left of old states in a linear store: `linear_store` overwrites it, unless it fails or is
//! killed.

use std::io::{Cursor, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::directories::bounded;
use super::error::StateError;
use super::linear::Header;
use super::linear_store::{MAX_LEN, holds_data};
use super::open;
use super::state_path::{Backend, StatePath};
use crate::domain::Emulator;
use crate::ids::DomainUuid;

/// Returns whether the file of a domain's TPM state holds more than swtpm has in it: of an old state,
/// which may be plain, or open with a key that is no secret any more. Only a file with several states
/// can.
pub fn has_remains(
    libvirt_state_dir: &Path,
    domain: DomainUuid,
    vtpm: &Emulator,
) -> Result<bool, StateError> {
    let state_path = StatePath::of(libvirt_state_dir, domain, vtpm);
    if state_path.backend != Backend::Linear {
        return Ok(false);
    }
    let asked = state_path.clone();
    bounded(&state_path, move || {
        let Some(file) = open::open(&asked)? else {
            return Ok(false);
        };
        let metadata = file.metadata()?;
        // Such a file, or a block device, is never changed.
        if !metadata.is_file() || metadata.len() > MAX_LEN {
            return Ok(false);
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(MAX_LEN).read_to_end(&mut bytes)?;
        let Some(header) = Header::read(&mut Cursor::new(bytes.as_slice()))? else {
            return Ok(false);
        };
        let unused = header.unused(bytes.len() as u64);
        Ok(unused.into_iter().any(|part| holds_data(&bytes, part)))
    })
}
