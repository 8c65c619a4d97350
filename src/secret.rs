//! The host secret: what the guard asks of libvirt's secret driver.

use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::verdict::facts::HostSecret;

/// What providing a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provided {
    /// An existing secret got the value.
    Set,
    /// The secret was defined and got the value.
    Defined,
    /// Somebody else's secret was left as it is.
    LeftAsIs,
}

/// Why libvirt did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// libvirt said no: its words.
    #[error("libvirt refused: {0}")]
    Refused(String),
    /// libvirt could not be reached or did not answer in time.
    #[error("{0}")]
    Unreachable(String),
    /// The usage belongs to another secret, or the UUID to another usage type: libvirt's words.
    #[error("{0}")]
    Conflict(String),
}

/// The host secrets of one libvirt.
pub trait HostSecrets {
    /// What libvirt has under this UUID. Unreachable libvirt is an answer, not an error.
    fn state(&self, secret: SecretUuid, deadline: Deadline) -> HostSecret;

    /// Gives libvirt the key: defines the secret (usage type vtpm, usage name
    /// `vtpm-guard:DOMAIN-UUID`, private, ephemeral) if there is none, and sets its value.
    /// Somebody else's secret that has a value gets a new one only if `replace_foreign`.
    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        replace_foreign: bool,
        deadline: Deadline,
    ) -> Result<Provided, SecretError>;

    /// Undefines the secret if its usage name is the guard's own for this domain. Says
    /// whether there was one to drop.
    fn drop_own(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError>;
}
