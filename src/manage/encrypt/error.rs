//! Why a guest's TPM was not encrypted.

use std::io;

use crate::host::path_error::PathError;
use crate::libvirt::secret::SecretError;
use crate::manage::guests::GuestRef;
use crate::manage::host::HostError;
use crate::manage::providers::ProviderError;
use crate::manage::stopped_guest::StoppedError;

/// Why a guest's TPM was not encrypted. Nothing has changed, except where a variant says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncryptError {
    /// The guest cannot be touched.
    #[error(transparent)]
    Stopped(StoppedError),
    /// No provider for a new key.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// It has no TPM state. Its first start makes an encrypted one if its XML says so.
    #[error("no TPM state")]
    NoState {
        guest: GuestRef,
        /// Whether its XML says so.
        is_encrypted: bool,
    },
    /// Its state is encrypted already, and no key that this host can open opens it.
    #[error("no key opens it")]
    NoKeyOpens(GuestRef, Option<String>),
    /// What is left of an earlier state in the file of the encrypted one could not be overwritten.
    #[error("{1}")]
    NotErased(GuestRef, io::Error),
    /// The plain state could not be saved.
    #[error("{0}")]
    NotSaved(PathError),
    /// libvirt did not change the XML.
    #[error("{1}")]
    NotRedefined(GuestRef, SecretError),
    /// Somebody else has just changed the XML.
    #[error("redefined")]
    Redefined(GuestRef),
    /// libvirt has the new XML, or may have it: only another run can complete it.
    #[error("unfinished: {cause}")]
    Unfinished {
        guest: GuestRef,
        cause: Box<StoppedError>,
    },
    /// It failed, and so did removing what it had made. That does no harm: the next run uses it.
    #[error("{error}; {left}")]
    NotUndone { error: Box<Self>, left: HostError },
}

impl<E: Into<StoppedError>> From<E> for EncryptError {
    fn from(error: E) -> Self {
        Self::Stopped(error.into())
    }
}
