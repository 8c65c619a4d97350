//! The keys that came with the guest, in its domain XML, and those that the fleet's store has.

use super::key_ref::{KeyRef, kek_ref};
use super::provider::Provider;
use super::references::References;
use crate::clock::Timestamp;
use crate::domain::{Domain, MAX_KEYS, TravellingFault, TravellingKey};
use crate::ids::{DomainUuid, KeyRefId};

/// The keys that came with the guest, in its domain XML, and those that the fleet's store has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Travelling {
    /// Its own keys, each as the row that it would be: used before, for it is written only for a
    /// TPM that is somewhere. Those of the fleet's store come last. What trying them gave is in [`super::Facts::trials`].
    pub keys: Vec<KeyRef>,
    /// The guest whose keys the XML has, if it is another one: the XML is a copy of that guest's.
    pub original: Option<DomainUuid>,
    /// What is wrong with the element.
    pub fault: Option<TravellingFault>,
}

impl Travelling {
    /// What the domain XML has, at this time, as far as the guest's retired rows do not have it.
    #[must_use]
    pub fn of(domain: &Domain, references: &References, now: Timestamp) -> Self {
        let Some(found) = &domain.travelling else {
            return Self::default();
        };
        let is_retired = |key: &&TravellingKey| {
            let mut retired = references.retired.iter();
            retired.any(|row| row.wrapped_dek.as_ref() == Some(&key.wrapped_dek))
        };
        let row = |(number, key)| row(number, key, domain, &references.providers, now);
        let own = found.are_of(domain.uuid);
        let keys = found.keys.iter().filter(|key| own && !is_retired(key));
        Self {
            keys: keys.enumerate().map(row).collect(),
            original: found.domain.filter(|_| !own),
            fault: found.fault,
        }
    }

    /// Adds a key that the fleet's store has of this guest, at this time. Returns whether it was added: what a row of
    /// the guest holds is that row's, and of many the first ones count.
    pub fn add_of_fleet(
        &mut self,
        key: &TravellingKey,
        domain: &Domain,
        references: &References,
        now: Timestamp,
    ) -> bool {
        let rows = references.key_refs.iter().chain(&references.retired);
        let mut held = rows.chain(&self.keys).map(|row| &row.wrapped_dek);
        let is_known = held.any(|held| held.as_ref() == Some(&key.wrapped_dek));
        let number = self.keys.iter().filter(|it| it.id.is_of_fleet()).count();
        if is_known || number >= MAX_KEYS {
            return false;
        }
        let row = row(0, key, domain, &references.providers, now);
        self.keys.push(KeyRef {
            id: KeyRefId::of_fleet(number),
            ..row
        });
        true
    }
}

/// The row of a key. Its provider is the one with its provider key: of several the one that is
/// named, else the first, for they have the same.
fn row(
    number: usize,
    key: &TravellingKey,
    domain: &Domain,
    providers: &[Provider],
    now: Timestamp,
) -> KeyRef {
    let key_id = key.wrapped_dek.key_id().ok();
    let holds = |provider: &&Provider| Some(provider.key_id) == key_id;
    let holders = || providers.iter().filter(holds);
    let named = holders().find(|provider| provider.name == key.provider);
    let owner = named.or_else(|| holders().min_by_key(|provider| &provider.name));
    KeyRef {
        id: KeyRefId::travelling(number),
        secret_uuid: domain.encrypted_vtpm().map(|(_, secret)| secret),
        provider_uuid: owner.map(|owner| owner.uuid),
        provider_name: owner.map_or_else(|| key.provider.clone(), |owner| owner.name.clone()),
        key_version: owner.map(|owner| owner.key_version),
        kek_ref: key_id.map(kek_ref),
        wrapped_dek: Some(key.wrapped_dek.clone()),
        first_used_at: Some(now),
        created_at: now,
    }
}

#[cfg(test)]
mod tests;
