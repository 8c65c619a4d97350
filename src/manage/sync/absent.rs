//! Whose keys are to travel and do not yet, as far as the definitions say that libvirt lists.

use std::collections::BTreeSet;

use super::Facts;
use crate::domain::{Domain, MAX_KEYS};
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;
use crate::manage::guests::{GuestRef, ListedGuest};
use crate::manage::host::Host;

/// The guests whose keys are to travel and are not in their definition, by name; `None` if no keys
/// are to travel, or where the store cannot say, which is reported elsewhere.
pub(crate) fn not_travelling<'g>(
    host: &Host,
    guests: impl IntoIterator<Item = &'g ListedGuest>,
) -> Option<Vec<GuestRef>> {
    let wrapped = host.config().ok()?.fleet.metadata.is_wrapped();
    let facts = wrapped
        .then(|| Facts::read(host, true))
        .and_then(Result::ok)?;
    let lacks = |guest: &ListedGuest| {
        let domain = guest.domain.as_ref().ok()?;
        let is_encrypted = domain.encrypted_vtpm().is_some();
        let is_absent = is_encrypted && !facts.has_its_keys(domain);
        is_absent.then(|| GuestRef::called(domain.uuid, &guest.name))
    };
    Some(guests.into_iter().filter_map(lacks).collect())
}

/// Their UUIDs.
pub(crate) fn uuids(guests: &[GuestRef]) -> BTreeSet<DomainUuid> {
    guests.iter().map(|guest| guest.uuid).collect()
}

/// Whether the domain XML has this key of the guest.
pub(crate) fn has_key(domain: &Domain, key: &WrappedDek) -> bool {
    let element = domain.travelling.as_ref();
    element.is_some_and(|element| {
        let mut keys = element.keys.iter();
        element.are_of(domain.uuid) && keys.any(|found| found.wrapped_dek == *key)
    })
}

impl Facts {
    /// Whether the domain XML has the guest's keys that travel, as far as there is room beside those
    /// that this host does not have.
    fn has_its_keys(&self, domain: &Domain) -> bool {
        let own = self.known(domain.uuid).own;
        let mut present = own.iter().map(|own| has_key(domain, &own.key.wrapped_dek));
        let element = domain.travelling.as_ref();
        let is_full = element.is_some_and(|element| element.keys.len() == MAX_KEYS);
        if is_full {
            own.is_empty() || present.any(|present| present)
        } else {
            present.all(|present| present)
        }
    }
}
