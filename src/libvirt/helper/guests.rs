//! Guests, for the administrator's command. A hook must never ask for them: libvirt holds the
//! starting guest's lock while the hook runs.

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys::{VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE, VIR_DOMAIN_XML_INACTIVE};

use super::failure;
use crate::ids::DomainUuid;
use crate::libvirt::protocol::{Guest, Response, SavedRuns};
use crate::secret::SecretError;

/// All guests, without those that go away meanwhile.
pub(super) fn all(connection: &Connect) -> Result<Response, SecretError> {
    let mut guests = Vec::new();
    for domain in connection.list_all_domains(0).map_err(failure::of_call)? {
        guests.extend(describe(&domain)?);
    }
    Ok(Response::Guests(guests))
}

/// The guest of this UUID or, if there is none, of this name.
pub(super) fn find(connection: &Connect, name_or_uuid: &str) -> Result<Response, SecretError> {
    let by_uuid = match DomainUuid::parse(name_or_uuid) {
        Ok(uuid) => failure::found(connection.lookup_domain_by_uuid_string(&uuid.to_string()))?,
        Err(_) => None,
    };
    let domain = match by_uuid {
        Some(domain) => Some(domain),
        None => failure::found(connection.lookup_domain_by_name(name_or_uuid))?,
    };
    let guest = domain.as_ref().map(describe).transpose()?.flatten();
    Ok(Response::Guests(guest.into_iter().collect()))
}

/// What is kept of a guest's runs that have not ended.
pub(super) fn saved_runs(
    connection: &Connect,
    domain: DomainUuid,
) -> Result<Response, SecretError> {
    let domain = connection
        .lookup_domain_by_uuid_string(&domain.to_string())
        .map_err(failure::of_call)?;
    let managed_save = domain.has_managed_save(0).map_err(failure::of_call)?;
    let snapshots = domain.num_snapshots(VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE);
    Ok(Response::SavedRuns(SavedRuns {
        managed_save,
        snapshots: snapshots.map_err(failure::of_call)?,
    }))
}

/// What libvirt says of a guest; `None` if it has gone away meanwhile.
fn describe(domain: &Domain) -> Result<Option<Guest>, SecretError> {
    let Some(uuid) = failure::found(domain.uuid_string())? else {
        return Ok(None);
    };
    let uuid = DomainUuid::parse(&uuid).map_err(|error| SecretError::Refused(error.to_string()))?;
    failure::found(read(domain, uuid))
}

fn read(domain: &Domain, uuid: DomainUuid) -> Result<Guest, Error> {
    let persistent = domain.is_persistent()?;
    let xml_flags = if persistent {
        VIR_DOMAIN_XML_INACTIVE
    } else {
        0
    };
    Ok(Guest {
        name: domain.name()?,
        uuid,
        running: domain.is_active()?,
        persistent,
        autostart: domain.autostart()?,
        xml: domain.xml_desc(xml_flags)?,
    })
}
