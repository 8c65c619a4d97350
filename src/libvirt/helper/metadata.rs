//! The guard's element in the metadata of a guest.
//!
//! libvirt adds prefix and namespace to the element and to all within, replaces the one of this
//! namespace whatever its prefix, leaves other elements alone, and taints no guest (tried on 9.0).

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys::{
    VIR_DOMAIN_AFFECT_CONFIG, VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_JOB_NONE,
    VIR_DOMAIN_METADATA_ELEMENT,
};

use super::failure;
use crate::domain::{NAMESPACE, PREFIX};
use crate::ids::DomainUuid;
use crate::libvirt::metadata::{Element, Metadata};
use crate::libvirt::protocol::Response;
use crate::libvirt::secret::SecretError;

const KIND: i32 = VIR_DOMAIN_METADATA_ELEMENT.cast_signed();

/// Returns the element in the guest's definitions.
pub(super) fn get(connection: &Connect, domain: DomainUuid) -> Result<Response, SecretError> {
    let Some(guest) = look_up(connection, domain)? else {
        return Ok(Response::Absent);
    };
    let read = Definitions::of(&guest).and_then(|definitions| definitions.read(&guest));
    answer(read)
}

/// Sets or removes the element in every definition of the guest, and reads it back.
pub(super) fn set(
    connection: &Connect,
    domain: DomainUuid,
    element: Option<&str>,
) -> Result<Response, SecretError> {
    let Some(guest) = look_up(connection, domain)? else {
        return Ok(Response::Absent);
    };
    let work = || {
        let definitions = Definitions::of(&guest)?;
        if definitions.running && has_job(&guest) {
            return Ok(None);
        }
        let flags = definitions.flags();
        guest.set_metadata(KIND, element, Some(PREFIX), Some(NAMESPACE), flags)?;
        definitions.read(&guest).map(Some)
    };
    match work() {
        Ok(None) => Ok(Response::Busy),
        Ok(Some(found)) => Ok(Response::Metadata(found)),
        // It has started or stopped meanwhile, or its monitor is in use.
        Err(error) if is_in_the_way(&error) => Ok(Response::Busy),
        Err(error) => answer(Err(error)),
    }
}

fn look_up(connection: &Connect, domain: DomainUuid) -> Result<Option<Domain>, SecretError> {
    failure::found(connection.lookup_domain_by_uuid_string(&domain.to_string()))
}

/// A guest that has disappeared meanwhile is absent.
fn answer(read: Result<Metadata, Error>) -> Result<Response, SecretError> {
    Ok(failure::found(read)?.map_or(Response::Absent, Response::Metadata))
}

/// Whether a migration, a save or a dump goes on, for which setting would wait. A guest that cannot
/// say it has none: the setting itself ends at the deadline.
fn has_job(guest: &Domain) -> bool {
    guest
        .job_info()
        .is_ok_and(|job| job.r#type != VIR_DOMAIN_JOB_NONE.cast_signed())
}

fn is_in_the_way(error: &Error) -> bool {
    error.code().is_known_and(|code| {
        matches!(
            code,
            ErrorNumber::OperationTimeout | ErrorNumber::OperationInvalid
        )
    })
}

/// Which definitions a guest has.
#[derive(Clone, Copy)]
struct Definitions {
    running: bool,
    persistent: bool,
}

impl Definitions {
    fn of(guest: &Domain) -> Result<Self, Error> {
        Ok(Self {
            running: guest.is_active()?,
            persistent: guest.is_persistent()?,
        })
    }

    fn flags(self) -> u32 {
        let flag = |is_there, flag| if is_there { flag } else { 0 };
        flag(self.running, VIR_DOMAIN_AFFECT_LIVE) | flag(self.persistent, VIR_DOMAIN_AFFECT_CONFIG)
    }

    fn read(self, guest: &Domain) -> Result<Metadata, Error> {
        let element = |is_there: bool, flag| {
            if !is_there {
                return Ok(Element::NoDefinition);
            }
            match guest.metadata(KIND, Some(NAMESPACE), flag) {
                Ok(text) => Ok(Element::Present(text)),
                Err(error) if is_missing(&error) => Ok(Element::Missing),
                Err(error) => Err(error),
            }
        };
        Ok(Metadata {
            live: element(self.running, VIR_DOMAIN_AFFECT_LIVE)?,
            persistent: element(self.persistent, VIR_DOMAIN_AFFECT_CONFIG)?,
        })
    }
}

fn is_missing(error: &Error) -> bool {
    let code = error.code();
    code.is_known_and(|code| matches!(code, ErrorNumber::NoDomainMetadata))
}
