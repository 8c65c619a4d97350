//! TPM states of guests that have stopped, encrypted, until they are in the shared store.

use rusqlite::{OptionalExtension as _, Row, params};

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

    /// The guests whose states wait, that of the oldest first.
    pub fn queued_states(&self) -> Result<Vec<DomainUuid>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT domain_uuid FROM fleet_state ORDER BY at, domain_uuid";
            let mut query = connection.prepare(sql)?;
            let rows = query.query_map([], guest)?;
            Ok(rows
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?)
        })
    }

    /// The state of a guest that waits.
    pub fn queued_state(&self, domain: DomainUuid) -> Result<Option<QueuedState>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT at, body, data FROM fleet_state WHERE domain_uuid = ?1";
            let mut query = connection.prepare_cached(sql)?;
            let row = query.query_row([domain.to_string()], |row| {
                Ok(QueuedState {
                    domain,
                    at: Timestamp(row.get("at")?),
                    body: row.get("body")?,
                    data: row.get("data")?,
                })
            });
            Ok(row.optional()?)
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

/// The guest of a row; another tool may have written something else there.
fn guest(row: &Row<'_>) -> rusqlite::Result<Option<DomainUuid>> {
    columns::parsed(row, "domain_uuid", |text| DomainUuid::parse(text).ok())
}
