//! TPM states of guests that have stopped, encrypted, until they are in the shared store.

use rusqlite::params;

use super::super::{Store, StoreError, columns};
use super::membership::membership;
use crate::clock::Timestamp;
use crate::ids::DomainUuid;

/// A state on its way to the shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedState {
    /// The guest.
    pub domain: DomainUuid,
    /// When it stopped.
    pub at: Timestamp,
    /// What goes with it, in JSON.
    pub body: String,
    /// The state, as swtpm encrypted it.
    pub data: Vec<u8>,
}

impl Store {
    /// Queues the state of a guest that has stopped; one that waits since an earlier run is replaced. Nothing, where
    /// this host is in no fleet.
    pub fn queue_state(&mut self, state: &QueuedState) -> Result<(), StoreError> {
        if self.membership()?.is_none() {
            return Ok(());
        }
        self.write(|transaction| {
            if membership(transaction)?.is_none() {
                return Ok(());
            }
            transaction.execute(
                "INSERT OR REPLACE INTO fleet_state (domain_uuid, at, body, data)
                 VALUES (?1, ?2, ?3, ?4)",
                params![state.domain.to_string(), state.at.0, state.body, state.data],
            )?;
            Ok(())
        })
    }

    /// The states that wait, the oldest first.
    pub fn queued_states(&self, limit: usize) -> Result<Vec<QueuedState>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT * FROM fleet_state ORDER BY at, domain_uuid LIMIT ?1";
            let mut query = connection.prepare(sql)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = query.query_map([limit], |row| {
                let parse = |text: &str| DomainUuid::parse(text).ok();
                let Some(domain) = columns::parsed(row, "domain_uuid", parse)? else {
                    return Ok(None);
                };
                Ok(Some(QueuedState {
                    domain,
                    at: Timestamp(row.get("at")?),
                    body: row.get("body")?,
                    data: row.get("data")?,
                }))
            })?;
            Ok(rows
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?)
        })
    }

    /// Deletes a state from the queue, which the shared store has; a later one of the guest stays.
    pub fn state_sent(&mut self, state: &QueuedState) -> Result<(), StoreError> {
        self.write_quietly(|transaction| {
            transaction.execute(
                "DELETE FROM fleet_state WHERE domain_uuid = ?1 AND at = ?2 AND data = ?3",
                params![state.domain.to_string(), state.at.0, state.data],
            )?;
            Ok(())
        })
    }
}
