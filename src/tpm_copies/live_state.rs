//! A TPM state as it lies in libvirt's place, to be copied.

use std::path::{Path, PathBuf};

use super::CopyError;
use super::manifest::Attributes;
use crate::domain::{Emulator, TpmVersion};
use crate::ids::DomainUuid;
use crate::swtpm::{self, Backend, StateBytes, StateFile, StatePath};

/// A TPM state's file: its bytes, its place, owners and modes.
#[derive(Debug)]
pub struct LiveState {
    pub(super) path: PathBuf,
    pub(super) tpm_version: TpmVersion,
    pub(super) backend: Backend,
    pub(super) bytes: Vec<u8>,
    pub(super) file: Attributes,
    pub(super) directories: Vec<Attributes>,
}

impl LiveState {
    /// Reads the state of a guest's TPM. `None`: there is none, or it is on a block device, which
    /// nobody deletes. What is no TPM state is an error: it is not kept.
    pub fn read(
        libvirt_state_dir: &Path,
        domain: DomainUuid,
        vtpm: &Emulator,
    ) -> Result<Option<Self>, CopyError> {
        let place = StatePath::of(libvirt_state_dir, domain, vtpm);
        let backend = Backend::of(vtpm);
        let path = place.path.clone();
        let read = swtpm::read_bytes(&place).map_err(|source| CopyError::State {
            path: path.clone(),
            source,
        })?;
        let Some(StateBytes {
            bytes,
            metadata,
            directories,
        }) = read
        else {
            return Ok(None);
        };
        if let StateFile::Damaged(how) = swtpm::state_in(&bytes, backend) {
            return Err(CopyError::NotAState { path, how });
        }
        Ok(Some(Self {
            tpm_version: vtpm.version,
            backend,
            bytes,
            file: Attributes::of(&metadata),
            directories: directories.iter().map(Attributes::of).collect(),
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
