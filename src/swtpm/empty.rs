//! A state directory without a state in it: the state was moved away or lost. libvirt takes an
//! existing directory as a sign that the TPM was set up, and skips `swtpm_setup` (`created` in its
//! `qemuTPMEmulatorCreateStorage`): the new TPM would have no endorsement key certificates.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::directories::{bounded, names_in, open_base, open_directory, open_directory_in};
use super::error::{LockError, StateError};
use super::lock_file::{self, LOCK};
use super::state_path::{Base, StatePath};

/// Removes libvirt's own directory of a TPM's state if it is empty, or holds only swtpm's lock and
/// nobody has locked it; also the guest's directory around it, if that is empty then. Returns
/// whether there was such a directory.
pub fn remove_empty_directory(state_path: &StatePath) -> Result<bool, LockError> {
    let asked = state_path.clone();
    bounded(state_path, move || Ok(remove(&asked)))?
}

fn remove(state_path: &StatePath) -> Result<bool, LockError> {
    let (Base::Libvirt(_), [guest, version]) = (&state_path.base, state_path.below.as_slice())
    else {
        return Ok(false);
    };
    let Some(dir) = open_directory(state_path)? else {
        return Ok(false);
    };
    let names = names_in(&dir)?;
    if names.iter().any(|name| name != LOCK) {
        return Ok(false);
    }
    if !names.is_empty() {
        // Nobody else can lock it until it is removed.
        let _lock = lock_file::take(&dir, state_path.directory(), &dir.metadata()?)?;
        unlinkat(&dir, LOCK, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from)?;
    }
    let base = open_base(state_path)?.ok_or_else(gone)?;
    let guest_dir = open_directory_in(&base, guest)?.ok_or_else(gone)?;
    remove_directory(&guest_dir, version)?;
    match remove_directory(&base, guest) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(true),
        removed => Ok(removed.map(|()| true)?),
    }
}

fn remove_directory(parent: &File, name: &std::ffi::OsStr) -> io::Result<()> {
    unlinkat(parent, name, UnlinkatFlags::RemoveDir).map_err(io::Error::from)
}

fn gone() -> StateError {
    StateError::Io(Errno::ENOENT.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::domain::{Emulator, StateSource, TpmVersion};
    use crate::ids::DomainUuid;

    fn state_path(states: &Path, source: Option<StateSource>) -> StatePath {
        let vtpm = Emulator {
            version: TpmVersion::V2_0,
            secret_uuid: None,
            persistent_state: false,
            source,
        };
        StatePath::of(states, DomainUuid::random(), &vtpm)
    }

    #[test]
    fn only_a_directory_without_a_state_is_removed() {
        let states = tempfile::tempdir().unwrap();
        let state_path = state_path(states.path(), None);
        let (dir, guest) = (
            state_path.directory(),
            state_path.directory().parent().unwrap(),
        );
        let remove = || remove_empty_directory(&state_path);
        assert!(!remove().unwrap(), "there is none");
        for files in [&[][..], &[LOCK]] {
            fs::create_dir_all(dir).unwrap();
            for file in files {
                fs::write(dir.join(file), "").unwrap();
            }
            assert!(remove().unwrap());
            assert!(!guest.exists() && states.path().exists());
        }
        fs::create_dir_all(dir).unwrap();
        fs::create_dir(guest.join("tpm1.2")).unwrap();
        assert!(remove().unwrap());
        assert!(!dir.exists() && guest.join("tpm1.2").exists());

        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("tpm2-00.volatilestate"), "").unwrap();
        assert!(!remove().unwrap());
        assert!(dir.exists());
    }

    #[test]
    fn a_directory_with_a_held_lock_stays() {
        let states = tempfile::tempdir().unwrap();
        let state_path = state_path(states.path(), None);
        fs::create_dir_all(state_path.directory()).unwrap();
        let dir = open_directory(&state_path).unwrap().unwrap();
        let held = lock_file::take(&dir, state_path.directory(), &dir.metadata().unwrap()).unwrap();
        let refused = remove_empty_directory(&state_path);
        assert!(matches!(refused, Err(LockError::InUse)), "{refused:?}");
        drop(held);
        assert!(remove_empty_directory(&state_path).unwrap());
    }

    #[test]
    fn a_directory_that_the_administrator_made_stays() {
        let states = tempfile::tempdir().unwrap();
        let source = Some(StateSource::Dir(states.path().to_owned()));
        assert!(!remove_empty_directory(&state_path(states.path(), source)).unwrap());
        assert!(states.path().exists());
    }
}
