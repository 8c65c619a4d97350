//! Why nothing was adopted, or not this guest.

use std::path::PathBuf;

use crate::domain::DomainXmlError;
use crate::ids::KeyRefId;
use crate::libvirt::Daemons;
use crate::libvirt::secret::SecretError;
use crate::manage::guests::GuestError;
use crate::manage::host::HostError;
use crate::manage::providers::ProviderError;
use crate::store::StoreError;
use crate::verdict::adopt::NotAdoptable;
use crate::verdict::facts::{NotOpened, Provider};
use crate::verdict::refusal::Refusal;

/// Why no guest was looked at. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    /// No provider for new keys.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// A text names no guest, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
}

impl<E: Into<GuestError>> From<E> for AdoptError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

/// Why one guest was not adopted, or not completely. libvirt's secret is unchanged, except where a
/// variant says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdopted {
    /// Its XML cannot be read.
    #[error("unreadable XML")]
    UnreadableXml(DomainXmlError),
    /// It has no encrypted vTPM.
    #[error("no encrypted vTPM")]
    NotEncrypted {
        /// Whether it has a TPM at all.
        has_tpm: bool,
    },
    /// Its key may not be taken over, or its secret not be removed.
    #[error("refused")]
    Refused {
        why: NotAdoptable,
        /// The provider that wraps the key, or would.
        provider: Box<Provider>,
        /// The daemons of this host.
        daemons: Daemons,
    },
    /// libvirt has no key of it, and with what the guard has its start would be refused.
    #[error("would not start")]
    WouldNotStart(Refusal),
    /// Its key, its secret or its TPM state changed since it was first looked at.
    #[error("changed")]
    Changed,
    /// The stored key did not open again.
    #[error("not opened")]
    NotOpened { key_ref: KeyRefId, error: NotOpened },
    /// libvirt did not undefine the secret, or it is not known whether it did.
    #[error("{0}")]
    NotUndefined(SecretError),
    /// The history does not have what was done.
    #[error(transparent)]
    NotRecorded(StoreError),
    /// libvirt has no such secret any more, but left these files of it.
    #[error("files left")]
    FilesLeft(Vec<PathBuf>),
    /// The secret was removed, but libvirt did not take the guard's own in its place.
    #[error("{0}")]
    NotProvided(SecretError),
    /// The host.
    #[error(transparent)]
    Host(HostError),
}

impl<E: Into<HostError>> From<E> for NotAdopted {
    fn from(error: E) -> Self {
        Self::Host(error.into())
    }
}
