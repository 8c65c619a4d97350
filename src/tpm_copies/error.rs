//! Why a copy of a TPM state cannot be saved, read or removed.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::host::path_error::PathError;
use crate::host::trusted::Distrust;
use crate::swtpm::StateError;

/// Why a copy was not saved, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// I/O error, as on a full disk.
    #[error(transparent)]
    Io(#[from] PathError),
    /// Another user could have put a file there.
    #[error(transparent)]
    NotTrusted(Distrust),
    /// Not a manifest of a known format.
    #[error("{path}: not a manifest of a known format", path = .path.display())]
    UnknownManifest {
        /// The manifest.
        path: PathBuf,
    },
    /// The copy's bytes are not those of its manifest.
    #[error("{path}: damaged: its bytes are not those that were saved", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a TPM state.
    #[error("{path}: {reason}", path = .path.display())]
    NotAState {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing shows that what has the path which a domain XML names is the guest's TPM state.
    #[error(
        "{path} belongs to {owner} and is not known as a TPM state of this guest, so it is not \
         moved away",
        path = .path.display()
    )]
    NotTheGuests {
        /// The path.
        path: PathBuf,
        /// Its owner.
        owner: String,
    },
    /// The TPM state cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    State {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: StateError,
    },
}

impl CopyError {
    /// Whether the file was read, and is none of this program: to read it again says nothing else.
    pub(super) fn is_unknown_manifest(&self) -> bool {
        matches!(self, Self::UnknownManifest { .. })
    }
}

impl CopyError {
    /// Whether the file is there, for all that is known, and may be read once what hinders it is gone.
    #[must_use]
    pub fn may_be_readable(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() != ErrorKind::NotFound,
            Self::NotTrusted(_) => true,
            _ => false,
        }
    }
}

impl From<Distrust> for CopyError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => Self::Io(error),
            untrusted @ Distrust::Untrusted { .. } => Self::NotTrusted(untrusted),
        }
    }
}
