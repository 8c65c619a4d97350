//! The plain TPM state of a guest whose vTPM was encrypted, kept until the guest has started with
//! the encrypted one: `STATE-DIR/plain-state/DOMAIN-UUID/` contains the file under its own name,
//! with its owner and mode, in directories that only root can access.
//!
//! It was plain before, too: no encrypted state is ever decrypted to this place.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use crate::host::atomic::{self, NewFile};
use crate::host::dirs::StateDir;
use crate::host::interrupted::read_dir;
use crate::host::path_error::PathError;
use crate::host::trusted;
use crate::ids::DomainUuid;
use crate::swtpm::LockedState;

/// Saves the locked plain state, replacing one that was saved before. Returns its path.
pub fn save(
    state_dir: &StateDir,
    domain: DomainUuid,
    state: &LockedState,
) -> Result<PathBuf, PathError> {
    write(state_dir, domain, state).map_err(PathError::at(&state_dir.plain_states()))
}

fn write(state_dir: &StateDir, domain: DomainUuid, state: &LockedState) -> io::Result<PathBuf> {
    let dir = guest_dir(state_dir, domain);
    let name = state.path().file_name().ok_or(ErrorKind::IsADirectory)?;
    let open = trusted::make_dir(&dir, trusted::STATE_DIR)?;
    let new = NewFile::write(&open, |file| {
        file.write_all(&state.file()?)?;
        atomic::set_attributes(file, state.metadata())
    })?;
    new.replace(name)?;
    Ok(dir.join(name))
}

/// Removes the guest's plain state. Returns whether there was one.
pub fn remove(state_dir: &StateDir, domain: DomainUuid) -> Result<bool, PathError> {
    trusted::remove_dir(&guest_dir(state_dir, domain))
        .map_err(PathError::at(&state_dir.plain_states()))
}

/// The guests whose plain state is kept, by UUID.
pub fn list(state_dir: &StateDir) -> Result<Vec<DomainUuid>, PathError> {
    let dir = state_dir.plain_states();
    let entries = match read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(PathError::at(&dir))?,
    };
    let mut domains = Vec::new();
    for entry in entries {
        let name = entry.map_err(PathError::at(&dir))?.file_name();
        domains.extend(name.to_str().and_then(|name| DomainUuid::parse(name).ok()));
    }
    domains.sort();
    Ok(domains)
}

fn guest_dir(state_dir: &StateDir, domain: DomainUuid) -> PathBuf {
    state_dir.plain_states().join(domain.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::domain::{Emulator, StateSource, TpmVersion};

    #[test]
    fn a_plain_state_is_saved_apart_and_removed_once() {
        let (dir, below) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state_dir = &StateDir::at(below.path());
        fs::write(dir.path().join("tpm2-00.permall"), b"plain").unwrap();
        let (domain, vtpm) = (
            DomainUuid::random(),
            Emulator {
                version: TpmVersion::V2_0,
                secret_uuid: None,
                source: Some(StateSource::Dir(dir.path().to_owned())),
                persistent_state: false,
            },
        );
        assert!(!remove(state_dir, domain).unwrap());

        let held = LockedState::lock(std::path::Path::new("/nowhere"), domain, &vtpm);
        let held = held.unwrap().unwrap();
        save(state_dir, domain, &held).unwrap();
        let kept = save(state_dir, domain, &held).unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"plain");
        assert_eq!(super::list(state_dir).unwrap(), [domain]);
        for parent in kept.ancestors().skip(1).take(2) {
            assert_eq!(fs::metadata(parent).unwrap().mode() & 0o7777, 0o700);
        }

        assert!(remove(state_dir, domain).unwrap());
        assert!(!remove(state_dir, domain).unwrap());
        assert!(!kept.exists());
        assert!(super::list(state_dir).unwrap().is_empty());
    }

    #[test]
    fn plain_states_that_cannot_be_listed_are_not_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = &StateDir::at(dir.path());
        assert!(super::list(state_dir).unwrap().is_empty());
        fs::write(state_dir.plain_states(), "").unwrap();
        assert!(super::list(state_dir).is_err());
    }
}
