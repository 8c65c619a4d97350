//! Guests, for the administrator's commands. A hook must never ask for them: libvirt holds the
//! starting guest's lock while the hook runs.

use std::collections::BTreeSet;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys::{
    VIR_CONNECT_LIST_DOMAINS_ACTIVE, VIR_CONNECT_LIST_DOMAINS_PERSISTENT,
    VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE, VIR_DOMAIN_XML_INACTIVE,
};

use super::failure;
use super::xml::{self, Xml};
use crate::ids::DomainUuid;
use crate::libvirt::guests::{Guest, SavedRuns};
use crate::libvirt::protocol::Response;
use crate::libvirt::secret::SecretError;

/// Returns all guests, without those that disappear in the meantime. A host may have a thousand
/// guests, so their traits are asked for all at once.
pub(super) fn all(connection: &Connect) -> Result<Response, SecretError> {
    let list = |flags| connection.list_all_domains(flags).map_err(failure::of_call);
    let those = |flags| -> Result<BTreeSet<String>, SecretError> {
        let domains = list(flags)?;
        let uuids: Result<_, Error> = domains.iter().map(Domain::uuid_string).collect();
        uuids.map_err(failure::of_call)
    };
    let active = those(VIR_CONNECT_LIST_DOMAINS_ACTIVE)?;
    let persistent = those(VIR_CONNECT_LIST_DOMAINS_PERSISTENT)?;
    let mut described = Vec::new();
    for domain in list(0)? {
        let uuid = domain.uuid_string().map_err(failure::of_call)?;
        let traits = Traits {
            running: active.contains(&uuid),
            persistent: persistent.contains(&uuid),
        };
        let guest = describe(&domain, |_| Ok(traits))?;
        described.extend(guest.map(|guest| (domain, guest)));
    }
    with_xml(described)
}

/// Returns the guest with this UUID and the one with this name: two, if a name is another guest's
/// UUID.
pub(super) fn find(connection: &Connect, name_or_uuid: &str) -> Result<Response, SecretError> {
    let by_uuid = match DomainUuid::parse(name_or_uuid) {
        Ok(uuid) => failure::found(connection.lookup_domain_by_uuid_string(&uuid.to_string()))?,
        Err(_) => None,
    };
    let by_name = failure::found(connection.lookup_domain_by_name(name_or_uuid))?;
    let mut described: Vec<(Domain, Guest)> = Vec::new();
    for domain in by_uuid.into_iter().chain(by_name) {
        let guest = describe(&domain, Traits::of)?;
        let is_new = |guest: &Guest| described.iter().all(|(_, known)| known.uuid != guest.uuid);
        let guest = guest.filter(is_new);
        described.extend(guest.map(|guest| (domain, guest)));
    }
    with_xml(described)
}

/// Returns what libvirt saved of a guest's runs that have not ended.
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

/// What libvirt knows about a guest beyond its XML.
#[derive(Clone, Copy)]
struct Traits {
    running: bool,
    persistent: bool,
}

impl Traits {
    fn of(domain: &Domain) -> Result<Self, Error> {
        Ok(Self {
            running: domain.is_active()?,
            persistent: domain.is_persistent()?,
        })
    }
}

/// A guest without its XML; `None` if it has disappeared in the meantime.
fn describe(
    domain: &Domain,
    traits: impl FnOnce(&Domain) -> Result<Traits, Error>,
) -> Result<Option<Guest>, SecretError> {
    let Some(uuid) = failure::found(domain.uuid_string())? else {
        return Ok(None);
    };
    let uuid = DomainUuid::parse(&uuid).map_err(|error| SecretError::Refused(error.to_string()))?;
    let read = || {
        let traits = traits(domain)?;
        Ok(Guest {
            name: domain.name()?,
            uuid,
            running: traits.running,
            persistent: traits.persistent,
            xml: String::new(),
        })
    };
    failure::found(read())
}

/// Adds their XML. One that libvirt does not tell in time stays empty.
fn with_xml(described: Vec<(Domain, Guest)>) -> Result<Response, SecretError> {
    let (domains, guests): (Vec<_>, Vec<_>) = described
        .into_iter()
        .map(|(domain, guest)| {
            let flags = if guest.persistent {
                VIR_DOMAIN_XML_INACTIVE
            } else {
                0
            };
            ((domain, flags), guest)
        })
        .unzip();
    let told = xml::of_all(domains)?;
    let guests = guests.into_iter().zip(told);
    let guests = guests.filter_map(|(guest, xml)| match xml {
        Xml::Told(xml) => Some(Guest { xml, ..guest }),
        Xml::NotTold => Some(guest),
        Xml::Gone => None,
    });
    Ok(Response::Guests(guests.collect()))
}
