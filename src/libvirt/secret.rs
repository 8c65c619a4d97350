//! The host secret: what the guard asks libvirt's secret driver.

mod definition;

use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::verdict::Over;
pub use definition::{
    Purpose, SecretDefinition, definition, domain_of_usage, staged_definition, usage_name,
};

/// What providing a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provided {
    /// An existing secret got the value.
    Set,
    /// The secret was defined and got the value.
    Defined,
    /// The secret already had the value, and is unchanged.
    LeftAsIs,
}

/// Why libvirt did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// libvirt refused, with this message.
    #[error("libvirt refused: {0}")]
    Refused(String),
    /// libvirt could not be reached or did not answer in time.
    #[error("{0}")]
    Unreachable(String),
    /// The program that asks libvirt is not installed, or may not be run: which, and why.
    #[error("{0}")]
    NoHelper(String),
    /// The usage belongs to another secret, or the UUID to another usage type: libvirt's message.
    #[error("{0}")]
    Conflict(String),
    /// The UUID belongs to the guard's own secret of another guest, which has another key.
    #[error("it holds the key of the guest {0}")]
    OfGuest(DomainUuid),
    /// libvirt's secret is no longer the one of the verdict: inspect it and decide again.
    #[error("the secret changed in the meantime")]
    Changed,
    /// The daemon and the guests that autostart with it are starting; it takes no secret until then.
    #[error("libvirtd is still starting, and does not answer until its guests run")]
    Starting,
}

impl SecretError {
    /// The sentence of what failed by it: a libvirt that refuses was reached.
    pub fn sentence(&self) -> String {
        if self.is_silence() {
            return format!("libvirt is unreachable: {self}");
        }
        self.to_string()
    }

    /// Whether libvirt was not reached: it is unknown what it would say.
    pub fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::NoHelper(_) | Self::Starting
        )
    }
}

/// A secret that libvirt has.
pub struct LibvirtSecret {
    /// Its definition.
    pub definition: SecretDefinition,
    /// Its value.
    pub value: SecretValue,
}

/// A secret's value, as far as libvirt discloses it.
pub enum SecretValue {
    /// It has no value.
    None,
    /// The secret is private: libvirt discloses its value to no client.
    Private,
    /// This value.
    Disclosed(Dek),
}

/// The host secrets of one libvirt.
pub trait HostSecrets {
    /// Announces a question, so that connecting can continue during other work.
    fn expect_question(&self, deadline: Deadline);

    /// Returns libvirt's secret with this UUID, and its value as far as root can read it.
    fn inspect(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError>;

    /// Gives libvirt the key: defines the secret (usage type vtpm, usage name
    /// `vtpm-guard:DOMAIN-UUID`, private, ephemeral) if there is none, and sets its value. An
    /// existing secret is replaced only as far as `over` allows; any other is a
    /// [`SecretError::Changed`].
    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        deadline: Deadline,
    ) -> Result<Provided, SecretError>;

    /// Undefines the secret if its usage name is the guard's own for this domain. Returns whether
    /// there was one.
    fn drop_own(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError>;
}
