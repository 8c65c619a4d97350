//! Reading what a verdict depends on.

use rusqlite::Connection;

use super::error::Failure;
use super::{Store, StoreError, announcements, clients_key, key_rows, provider_rows, seen_state};
use crate::clock::Timestamp;
use crate::ids::DomainUuid;
use crate::verdict::facts::References;

impl Store {
    /// Everything that concerns one guest, in one read.
    pub fn references(&self, domain: DomainUuid, now: Timestamp) -> Result<References, StoreError> {
        self.read(|connection| references(connection, domain, now))
    }
}

pub(super) fn references(
    connection: &Connection,
    domain: DomainUuid,
    now: Timestamp,
) -> Result<References, Failure> {
    let announced = announcements::for_domain(connection, domain, now)?;
    let (key_refs, mut retired) = key_rows::of_domain(connection, domain)?;
    retired.retain(|row| row.wrapped_dek.is_some());
    Ok(References {
        key_refs,
        retired,
        providers: provider_rows::all(connection)?,
        state_arrives: announced.is_some(),
        announced,
        seen_state: seen_state::of_domain(connection, domain)?,
        clients_key: clients_key::is_noted(connection, domain)?,
    })
}
