//! Where libvirt and swtpm keep a TPM state, and how it is opened.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::StateError;
use crate::domain::{Emulator, StateSource, TpmVersion};
use crate::ids::DomainUuid;

/// libvirt's directory of TPM states.
pub const LIBVIRT_STATE_DIR: &str = "/var/lib/libvirt/swtpm";

/// How swtpm keeps a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One file for each state in a directory (`--tpmstate dir=`).
    Directory,
    /// One file or block device for all (`--tpmstate backend-uri=file://`).
    Linear,
}

impl Backend {
    /// The one that libvirt has swtpm use for this TPM.
    #[must_use]
    pub fn of(vtpm: &Emulator) -> Self {
        match vtpm.source {
            Some(StateSource::File(_)) => Self::Linear,
            Some(StateSource::Dir(_)) | None => Self::Directory,
        }
    }
}

/// Where the state of a domain's emulated TPM is (libvirt, `src/qemu/qemu_tpm.c`:
/// `qemuTPMEmulatorStorageBuildPath`; swtpm, `src/swtpm/swtpm_nvstore.c`:
/// `SWTPM_NVRAM_GetFilenameForName`). A `<source type='dir'>` has no directory for the version
/// in it; a `<source type='file'>` is the place itself.
#[must_use]
pub fn state_path(libvirt_state_dir: &Path, domain: DomainUuid, vtpm: &Emulator) -> PathBuf {
    let (directory, file) = match vtpm.version {
        TpmVersion::V1_2 => ("tpm1.2", "tpm-00.permall"),
        TpmVersion::V2_0 => ("tpm2", "tpm2-00.permall"),
    };
    match &vtpm.source {
        None => libvirt_state_dir
            .join(domain.to_string())
            .join(directory)
            .join(file),
        Some(StateSource::Dir(path)) => path.join(file),
        Some(StateSource::File(path)) => path.clone(),
    }
}

/// Opens what can hold a state, for reading. `None`: there is nothing, and libvirt would make a
/// new TPM there.
///
/// Links are followed, as swtpm follows them. The directory belongs to swtpm's user, who could
/// put a link to anything there; so nothing is opened for reading before it is known to be a
/// file: opening a FIFO would wait, opening some devices does things (a watchdog starts).
pub(super) fn open(path: &Path, backend: Backend) -> Result<Option<File>, StateError> {
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    let handle = match handle {
        Ok(handle) => handle,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return missing(path, backend).map(|()| None);
        }
        Err(error) => return Err(error.into()),
    };
    let kind = handle.metadata()?.file_type();
    let fits = kind.is_file() || (backend == Backend::Linear && kind.is_block_device());
    if !fits {
        return Err(StateError::FileType(if kind.is_dir() {
            "a directory"
        } else if kind.is_block_device() {
            "a block device"
        } else if kind.is_fifo() {
            "a FIFO"
        } else {
            "neither a file nor a directory"
        }));
    }
    // The very file that was looked at, whatever the path leads to by now.
    let file = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
    Ok(Some(file))
}

/// Whether libvirt and swtpm would make what is missing, or fail. Failing is what they do where
/// a file system is not mounted, and nobody should take that for a lost TPM.
fn missing(path: &Path, backend: Backend) -> Result<(), StateError> {
    let mut parents = path.ancestors().skip(1);
    match backend {
        Backend::Directory => match parents.find(|parent| parent.is_symlink() || parent.exists()) {
            Some(link) if !link.exists() => Err(StateError::DanglingLink(link.to_owned())),
            _ => Ok(()),
        },
        Backend::Linear => match parents.next() {
            Some(parent) if !parent.exists() => Err(StateError::NoDirectory(parent.to_owned())),
            _ => Ok(()),
        },
    }
}
