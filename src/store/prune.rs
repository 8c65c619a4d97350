//! Deleting the key references of guests that no longer exist.

use rusqlite::params;

use super::key_rows;
use super::schema::is_uuid;
use super::{Event, KeyRefRecord, Store, StoreError, events, fleet};
use crate::ids::DomainUuid;

/// A guest whose key references are deleted, including retired ones.
#[derive(Debug)]
pub struct Prune<'a> {
    /// The guest.
    pub domain: DomainUuid,
    /// All its key references, as they were when the decision was made.
    pub seen: &'a [KeyRefRecord],
    /// The event to record.
    pub event: &'a Event,
}

impl Store {
    /// Deletes all key references of these guests, and perhaps the last copy of a key with them: only when an administrator
    /// asks for it. `Changed` if any guest has other rows by now, or an event after the one of this number
    /// ([`Store::last_event`]), as of a start: then nothing is deleted. In a fleet all keys of these guests count as pruned
    /// that are known here.
    pub fn prune(&mut self, domains: &[Prune<'_>], last_event: i64) -> Result<(), StoreError> {
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
                let sql = "SELECT EXISTS (SELECT 1 FROM event WHERE domain_uuid = ?1 AND id > ?2)";
                let has_new_event =
                    transaction.query_row(sql, params![uuid, last_event], |row| row.get(0))?;
                if has_new_event || key_rows::select(transaction, &of_domain, [&uuid])? != *seen {
                    return Err(StoreError::Changed.into());
                }
                let sql = format!("DELETE FROM key_ref WHERE {of_domain}");
                transaction.execute(&sql, params![uuid])?;
                fleet::note_known_keys(transaction, *domain)?;
                for notes in ["seen_state", "clients_key", "written_key", "fleet_state"] {
                    let sql = format!("DELETE FROM {notes} WHERE domain_uuid = ?1");
                    transaction.execute(&sql, params![uuid])?;
                }
                events::insert(transaction, event)?;
            }
            Ok(())
        })
    }
}
