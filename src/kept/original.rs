//! A TPM state as it lies in libvirt's place, to be copied.

use std::fs;
use std::path::{Path, PathBuf};

use super::KeptError;
use super::manifest::Attributes;
use crate::domain::{Emulator, StateSource, TpmVersion};
use crate::ids::DomainUuid;
use crate::swtpm::{self, Backend, StateFile, state_path};

/// A TPM state's file: its bytes, its place, owners and modes.
#[derive(Debug)]
pub struct Original {
    pub(super) path: PathBuf,
    pub(super) tpm_version: TpmVersion,
    pub(super) backend: Backend,
    pub(super) bytes: Vec<u8>,
    pub(super) file: Attributes,
    pub(super) directories: Vec<Attributes>,
}

impl Original {
    /// Reads the state of a guest's TPM, whatever it is. `None`: there is none, or it lies on a
    /// block device, which nobody deletes.
    pub fn read(
        libvirt_state_dir: &Path,
        domain: DomainUuid,
        vtpm: &Emulator,
    ) -> Result<Option<Self>, KeptError> {
        let path = state_path(libvirt_state_dir, domain, vtpm);
        let backend = Backend::of(vtpm);
        let read = swtpm::read_bytes(&path, backend).map_err(|source| KeptError::State {
            path: path.clone(),
            source,
        })?;
        let Some((metadata, bytes)) = read else {
            return Ok(None);
        };
        let mut directories = Vec::new();
        for directory in own_directories(&path, vtpm) {
            let metadata = fs::metadata(directory).map_err(KeptError::io(directory))?;
            directories.push(Attributes::of(&metadata));
        }
        Ok(Some(Self {
            tpm_version: vtpm.version,
            backend,
            bytes,
            file: Attributes::of(&metadata),
            directories,
            path,
        }))
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the state is.
    #[must_use]
    pub fn state(&self) -> StateFile {
        swtpm::state_in(&self.bytes, self.backend)
    }
}

/// The directories around a state that libvirt makes where they are missing, from the outermost:
/// in its own place those of all states, of the guest and of the TPM's version; else the one
/// that the domain XML names. Those above must be there.
fn own_directories<'p>(path: &'p Path, vtpm: &Emulator) -> Vec<&'p Path> {
    let depth = match vtpm.source {
        None => 3,
        Some(StateSource::Dir(_)) => 1,
        Some(StateSource::File(_)) => 0,
    };
    let mut directories: Vec<_> = path.ancestors().skip(1).take(depth).collect();
    directories.reverse();
    directories
}
