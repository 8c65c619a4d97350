//! Applying a verdict's repairs: all of them in one transaction, and only to the rows that the
//! verdict saw.

use rusqlite::Transaction;

use super::error::Failure;
use super::repairs::{Change, Repairs};
use super::{Store, StoreError, clients_key, events, references};
use crate::ids::KeyRefId;

impl Store {
    /// Applies a verdict's changes in one transaction. Returns the id of the row that a
    /// `BindProvider` or a `LearnKey` added. `Changed` means that nothing was applied, because the rows are not (or
    /// no longer) what the verdict saw: read and decide again.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<Option<KeyRefId>, StoreError> {
        let is_repaired = !change.repairs.is_empty();
        let work = |transaction: &Transaction<'_>| {
            let found = references::references(transaction, change.domain, change.now)?;
            if !found.decides_as(change.seen) {
                return Err(Failure::from(StoreError::Changed));
            }
            let mut repairs = Repairs {
                transaction,
                change,
                made: None,
            };
            change
                .repairs
                .iter()
                .try_for_each(|repair| repairs.apply(repair))?;
            let made = repairs.made;
            if let Some(is_clients) = change.clients_key
                && is_clients != change.seen.clients_key
            {
                clients_key::note(transaction, change.domain, is_clients, change.now)?;
            }
            if let Some(event) = change.event {
                events::record_start(transaction, event)?;
            }
            Ok(made)
        };
        if is_repaired {
            self.write(work)
        } else {
            self.write_history(work)
        }
    }
}
