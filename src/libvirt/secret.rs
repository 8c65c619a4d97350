//! The host secret: what the guard asks of libvirt's secret driver.

mod definition;

use serde::{Deserialize, Serialize};

use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::verdict::Over;
pub use definition::SecretDefinition;

/// What all usage names of the guard's own secrets begin with.
const USAGE_PREFIX: &str = "vtpm-guard:";

/// What the description of a secret says that was laid out.
const STAGED: &str = "vtpm-guard stage";

/// What providing a key did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provided {
    /// An existing secret got the value.
    Set,
    /// The secret was defined and got the value.
    Defined,
    /// A secret that has the value already was left as it is.
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
    /// The guard's own secret of another guest, which has another key, is there.
    #[error("it holds the key of the guest {0}")]
    OfGuest(DomainUuid),
    /// What libvirt has is no longer what the verdict saw: look and decide again.
    #[error("the secret changed while it was looked at")]
    Changed,
    /// It is starting itself and the guests that start with it, and takes nothing until then.
    #[error("libvirtd is still starting, and answers nobody until its guests are up")]
    Starting,
}

/// A secret that libvirt has.
pub struct LibvirtSecret {
    /// What it is.
    pub definition: SecretDefinition,
    /// Its value.
    pub value: SecretValue,
}

/// What libvirt lets a secret be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// `<usage type='vtpm'>`: for vTPMs alone.
    Vtpm,
    /// No usage: for anything, vTPMs included.
    Anything,
    /// Another usage: libvirt does not take it for a vTPM.
    Other,
}

/// A secret's value, as far as libvirt tells it.
pub enum SecretValue {
    /// There is none.
    None,
    /// The secret is private: libvirt tells nobody.
    Private,
    /// This.
    Disclosed(Dek),
}

/// The usage name of the guard's own secret for this domain. Only secrets that bear it does
/// the guard ever drop.
#[must_use]
pub fn usage_name(domain: DomainUuid) -> String {
    format!("{USAGE_PREFIX}{domain}")
}

/// The XML that defines the guard's own secret: ephemeral, so that libvirt keeps the key in
/// memory alone, and private, so that it tells it to nobody.
#[must_use]
pub fn definition(secret: SecretUuid, domain: DomainUuid) -> String {
    described(secret, domain, "vtpm-guard")
}

/// The same for a secret that is laid out for the start of the daemon: its description says
/// so, until a later start has defined it anew.
#[must_use]
pub fn staged_definition(secret: SecretUuid, domain: DomainUuid) -> String {
    described(secret, domain, STAGED)
}

impl SecretDefinition {
    /// Whether it is that of a secret that was laid out.
    #[must_use]
    pub fn is_staged(&self) -> bool {
        self.description.contains(STAGED)
    }

    /// The domain whose key the secret holds, if it is one of the guard's own.
    #[must_use]
    pub fn guards_domain(&self) -> Option<DomainUuid> {
        let is_for_vtpms = self.purpose == Purpose::Vtpm;
        domain_of_usage(&self.usage).filter(|_| is_for_vtpms)
    }
}

/// The domain that the usage name of one of the guard's own secrets names.
#[must_use]
pub fn domain_of_usage(usage: &str) -> Option<DomainUuid> {
    DomainUuid::parse(usage.strip_prefix(USAGE_PREFIX)?).ok()
}

fn described(secret: SecretUuid, domain: DomainUuid, by: &str) -> String {
    let usage_name = usage_name(domain);
    format!(
        "<secret ephemeral='yes' private='yes'>\
           <uuid>{secret}</uuid>\
           <description>vTPM key of {domain} ({by})</description>\
           <usage type='vtpm'><name>{usage_name}</name></usage>\
         </secret>"
    )
}

/// The host secrets of one libvirt.
pub trait HostSecrets {
    /// Tells that a question will follow, so that connecting can go on beside other work.
    fn expect_question(&self, deadline: Deadline);

    /// What libvirt has under this UUID, with its value as far as root can read it.
    fn inspect(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError>;

    /// Gives libvirt the key: defines the secret (usage type vtpm, usage name
    /// `vtpm-guard:DOMAIN-UUID`, private, ephemeral) if there is none, and sets its value.
    /// What is there already is replaced only as far as `over` allows; where it is something
    /// else, the answer is [`SecretError::Changed`].
    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
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
