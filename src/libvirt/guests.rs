//! What an administrator's procedures ask of libvirt, in addition to what a start asks ([`HostSecrets`]).

use serde::{Deserialize, Serialize};

use super::metadata::{Metadata, MetadataChange};
use super::secret::{HostSecrets, LibvirtSecret, SecretError};
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};

/// One libvirt, as the administrator's commands use it. A hook must not ask about guests:
/// libvirt holds the starting guest's lock while the hook runs, and would never answer.
///
/// Every question ends at its deadline. A question that libvirt refuses or does not answer is a
/// [`SecretError`].
pub trait Libvirt: HostSecrets {
    /// Returns all guests.
    fn guests(&self, deadline: Deadline) -> Result<Vec<Guest>, SecretError>;

    /// Returns the guest with this UUID and the one with this name: two, where the name of one
    /// guest is the UUID of another.
    fn guests_called(
        &self,
        name_or_uuid: &str,
        deadline: Deadline,
    ) -> Result<Vec<Guest>, SecretError>;

    /// Returns the guest with this UUID.
    fn guest(&self, uuid: DomainUuid, deadline: Deadline) -> Result<Option<Guest>, SecretError> {
        let called = self.guests_called(&uuid.to_string(), deadline)?;
        Ok(called.into_iter().find(|guest| guest.uuid == uuid))
    }

    /// Returns what libvirt saved of runs of this guest that have not ended.
    fn saved_runs(&self, domain: DomainUuid, deadline: Deadline) -> Result<SavedRuns, SecretError>;

    /// Adds `<encryption>` with this secret to the emulated TPM in the guest's persistent
    /// definition, and changes nothing else. Returns whether it did: if not, the guest has no
    /// emulated TPM without that element.
    fn encrypt_vtpm(
        &self,
        domain: DomainUuid,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError>;

    /// Adds `persistent_state='yes'` to the emulated TPM in the guest's persistent definition, and
    /// changes nothing else. Returns whether it did: if not, the guest has no emulated TPM, or one
    /// that has it.
    fn persist_vtpm_state(
        &self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError>;
    /// Returns the guard's element in the guest's definitions; `None` if libvirt does not know it.
    fn metadata(
        &self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<Option<Metadata>, SecretError>;

    /// Sets the guard's element ([`TravellingKeys::for_libvirt`]) in every definition of the guest, or
    /// removes it there, and reads it back. What else is in `<metadata>` stays.
    ///
    /// [`TravellingKeys::for_libvirt`]: crate::domain::TravellingKeys::for_libvirt
    fn set_metadata(
        &self,
        domain: DomainUuid,
        element: Option<&str>,
        deadline: Deadline,
    ) -> Result<MetadataChange, SecretError>;

    /// Returns the secret with this UUID. Its value is included if libvirt discloses it.
    fn reveal(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError>;

    /// Undefines a secret for vTPMs, whoever defined it, with its value and libvirt's files of
    /// it. Returns whether there was one. A secret for anything else is a
    /// [`SecretError::Conflict`].
    fn undefine(&self, secret: SecretUuid, deadline: Deadline) -> Result<bool, SecretError>;

    /// Undefines the secret if it is the one that was staged for this guest's start with the
    /// daemon. Returns whether there was one.
    fn drop_staged(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError>;
}

/// A guest that libvirt knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its UUID.
    #[serde(with = "uuid_text")]
    pub uuid: DomainUuid,
    /// Whether it runs (a paused guest does).
    pub running: bool,
    /// Whether libvirt keeps its definition when it stops.
    pub persistent: bool,
    /// The definition that its next start uses; of a transient guest, the live one.
    pub xml: String,
}

/// Why the definition of a transient guest is not changed: defining it would make it persistent.
#[cfg(any(feature = "libvirt", test))]
pub(super) fn not_defined() -> SecretError {
    SecretError::Refused("the guest is transient: it has no definition to change".to_owned())
}

/// What libvirt saved of runs of a guest that have not ended. Each holds the TPM's state of that
/// moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRuns {
    /// Whether there is a managed save image.
    pub managed_save: bool,
    /// How many snapshots were taken while the guest ran.
    pub snapshots: u32,
}

/// A domain's UUID in JSON.
mod uuid_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::DomainUuid;

    pub(super) fn serialize<S: Serializer>(uuid: &DomainUuid, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(uuid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DomainUuid, D::Error> {
        let text = String::deserialize(from)?;
        DomainUuid::parse(&text).map_err(Error::custom)
    }
}
