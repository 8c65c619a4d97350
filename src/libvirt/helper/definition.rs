//! Changes a guest's persistent definition, as `virsh edit` does.

use virt::connect::Connect;
use virt_sys::{VIR_DOMAIN_XML_INACTIVE, VIR_DOMAIN_XML_SECURE};
use zeroize::Zeroizing;

use super::failure;
use crate::domain::{self, DomainXmlError};
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::guests::not_defined;
use crate::libvirt::protocol::Response;
use crate::libvirt::secret::SecretError;

/// Adds `<encryption>` to the guest's emulated TPM.
pub(super) fn encrypt_vtpm(
    connection: &Connect,
    domain: DomainUuid,
    secret: SecretUuid,
) -> Result<Response, SecretError> {
    redefine(connection, domain, |before| {
        domain::encrypt_vtpm(before, secret)
    })
}

/// Adds `persistent_state='yes'` to the guest's emulated TPM.
pub(super) fn persist_vtpm_state(
    connection: &Connect,
    domain: DomainUuid,
) -> Result<Response, SecretError> {
    redefine(connection, domain, domain::persist_vtpm_state)
}

/// Changes the definition. It includes the passwords of graphics devices, which a redefinition
/// without them would remove; they do not leave this process.
fn redefine(
    connection: &Connect,
    domain: DomainUuid,
    edit: impl FnOnce(&str) -> Result<Option<String>, DomainXmlError>,
) -> Result<Response, SecretError> {
    let guest = connection
        .lookup_domain_by_uuid_string(&domain.to_string())
        .map_err(failure::of_call)?;
    if !guest.is_persistent().map_err(failure::of_call)? {
        return Err(not_defined());
    }
    let before = guest
        .xml_desc(VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE)
        .map(Zeroizing::new)
        .map_err(failure::of_call)?;
    let after = edit(&before).map_err(|error| SecretError::Refused(error.to_string()))?;
    let Some(after) = after.map(Zeroizing::new) else {
        return Ok(Response::Redefined(false));
    };
    connection
        .define_domain_xml(&after)
        .map_err(failure::of_call)?;
    Ok(Response::Redefined(true))
}
