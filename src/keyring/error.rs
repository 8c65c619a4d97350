//! Why a KEK cannot be opened or stored.

use std::path::PathBuf;

use super::seal::SealError;
use crate::host::path_error::PathError;
use crate::host::trusted::{Distrust, Reason};
use crate::key::id::KeyId;

/// Why a KEK cannot be opened or stored.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is no `keys/KEYID`.
    #[error("this host holds no key {0}")]
    Missing(KeyId),
    /// Another user could have written or read it.
    #[error("{path} is not trusted: {reason}", path = .path.display())]
    NotTrusted {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The file is not a sealed key, or not the key of its name.
    #[error("{path} is damaged: {reason}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// This host cannot seal a key.
    #[error("the key cannot be sealed: {source}")]
    SealFailed {
        /// Why.
        source: SealError,
    },
    /// This host cannot unseal the file, at least not now.
    #[error("{path} cannot be unsealed: {source}", path = .path.display())]
    UnsealFailed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// There was no answer before the deadline.
    #[error("the provider's key did not open in time")]
    TimedOut,
    /// I/O error.
    #[error(transparent)]
    Io(#[from] PathError),
}

impl From<Distrust> for KeyringError {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Io(error) => Self::Io(error),
            Distrust::Untrusted { path, reason } => Self::NotTrusted { path, reason },
        }
    }
}
