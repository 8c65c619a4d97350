//! A TPM state at the path where libvirt has it, to be copied.

use std::path::{Path, PathBuf};

use super::error::CopyError;
use super::manifest::Attributes;
use crate::domain::{Emulator, TpmVersion};
use crate::ids::DomainUuid;
use crate::swtpm::{self, Backend, StateBytes, StateFile, StatePath};

/// A TPM state's file: its bytes, path, owners and modes.
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
    /// Reads the state of a guest's TPM. `None`: there is none, or it is on a block device, of which
    /// libvirt deletes the node alone. A file that is not a TPM state is an error: it is not saved.
    pub fn read(
        libvirt_state_dir: &Path,
        domain: DomainUuid,
        vtpm: &Emulator,
    ) -> Result<Option<Self>, CopyError> {
        let state_path = StatePath::of(libvirt_state_dir, domain, vtpm);
        let backend = Backend::of(vtpm);
        let path = state_path.path.clone();
        let read = swtpm::read_bytes(&state_path).map_err(|source| CopyError::State {
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
        if let StateFile::Damaged(damage) = swtpm::state_in(&bytes, backend) {
            let reason = damage.how;
            return Err(CopyError::NotAState { path, reason });
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

    /// Returns the path of its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns how swtpm has stored it.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Returns what the state is.
    #[must_use]
    pub fn state(&self) -> StateFile {
        swtpm::state_in(&self.bytes, self.backend)
    }
}
