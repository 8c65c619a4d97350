//! Removing the key references of domains that are no more.

use rusqlite::params;

use super::key_rows;
use super::schema::is_uuid;
use super::{Event, KeyRefRecord, Store, StoreError, events};
use crate::ids::DomainUuid;

/// A domain whose key references go for good, retired ones too.
#[derive(Debug)]
pub struct Prune<'a> {
    /// The domain.
    pub domain: DomainUuid,
    /// All its key references, as whoever decided saw them.
    pub seen: &'a [KeyRefRecord],
    /// The event that tells of it.
    pub event: &'a Event,
}

impl Store {
    /// Deletes all key references of these domains, and with them, perhaps, the last copy of
    /// a key: only ever because an administrator asked for it. `Changed` if any domain has
    /// other rows by now: then nothing is deleted.
    pub fn prune(&mut self, domains: &[Prune<'_>]) -> Result<(), StoreError> {
        self.write(|transaction| {
            for Prune {
                domain,
                seen,
                event,
            } in domains
            {
                let uuid = domain.to_string();
                let is_its = is_uuid("resource_uuid", "?1");
                let of_domain = format!("resource_type = 'tpm' AND {is_its}");
                if key_rows::select(transaction, &of_domain, [&uuid])? != *seen {
                    return Err(StoreError::Changed.into());
                }
                let sql = format!("DELETE FROM key_ref WHERE {of_domain}");
                transaction.execute(&sql, params![uuid])?;
                for notes in ["seen_state", "clients_key"] {
                    let sql = format!("DELETE FROM {notes} WHERE domain_uuid = ?1");
                    transaction.execute(&sql, params![uuid])?;
                }
                events::insert(transaction, event)?;
            }
            Ok(())
        })
    }
}
