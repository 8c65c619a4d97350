//! A state directory without a state in it, as a state that was moved away or lost leaves it.
//! libvirt takes an existing one for a made TPM and skips `swtpm_setup` (`created` in its
//! `qemuTPMEmulatorCreateStorage`): the new TPM would have no endorsement key certificates.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::lock_file::{self, LOCK};
use super::open;
use super::state_path::{Base, StatePath};
use super::{LockError, StateError, bounded};

/// Removes libvirt's own directory of a TPM's state where it holds nothing, or swtpm's lock alone
/// which nobody holds; and the guest's directory around it, if nothing else is in that. Says
/// whether it was there to remove.
pub fn remove_empty_directory(place: &StatePath) -> Result<bool, LockError> {
    let asked = place.clone();
    bounded(place, move || Ok(remove(&asked)))?
}

fn remove(place: &StatePath) -> Result<bool, LockError> {
    let (Base::Libvirt(_), [guest, version]) = (&place.base, place.below.as_slice()) else {
        return Ok(false);
    };
    let Some(dir) = open::open_directory(place)? else {
        return Ok(false);
    };
    let names = open::names_in(&dir)?;
    if names.iter().any(|name| name != LOCK) {
        return Ok(false);
    }
    if !names.is_empty() {
        // Until it is gone nobody else can take it.
        let _lock = lock_file::take(&dir, place.directory(), &dir.metadata()?)?;
        unlinkat(&dir, LOCK, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from)?;
    }
    let base = open::open_base(place)?.ok_or_else(gone)?;
    let guest_dir = open::open_directory_in(&base, guest)?.ok_or_else(gone)?;
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

    fn place(states: &Path, source: Option<StateSource>) -> StatePath {
        let vtpm = Emulator {
            version: TpmVersion::V2_0,
            secret_uuid: None,
            persistent_state: false,
            source,
        };
        StatePath::of(states, DomainUuid::random(), &vtpm)
    }

    #[test]
    fn only_a_directory_without_a_state_goes() {
        let states = tempfile::tempdir().unwrap();
        let place = place(states.path(), None);
        let (dir, guest) = (place.directory(), place.directory().parent().unwrap());
        let remove = || remove_empty_directory(&place);
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
    fn a_lock_that_is_held_keeps_it() {
        let states = tempfile::tempdir().unwrap();
        let place = place(states.path(), None);
        fs::create_dir_all(place.directory()).unwrap();
        let dir = open::open_directory(&place).unwrap().unwrap();
        let held = lock_file::take(&dir, place.directory(), &dir.metadata().unwrap()).unwrap();
        let refused = remove_empty_directory(&place);
        assert!(matches!(refused, Err(LockError::InUse)), "{refused:?}");
        drop(held);
        assert!(remove_empty_directory(&place).unwrap());
    }

    #[test]
    fn a_directory_of_the_administrators_stays() {
        let states = tempfile::tempdir().unwrap();
        let source = Some(StateSource::Dir(states.path().to_owned()));
        assert!(!remove_empty_directory(&place(states.path(), source)).unwrap());
        assert!(states.path().exists());
    }
}
