//! Applying a verdict's repairs: all of them in one transaction, and only to the rows that
//! the verdict saw.

use super::repairs::Repairs;
use super::{Event, Store, StoreError, clients_key, events, references};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::new_key::NewKey;
use crate::verdict::facts::References;
use crate::verdict::repair::Repair;

/// A verdict's changes, applied together or not at all.
#[derive(Debug)]
pub struct Change<'a> {
    /// The domain.
    pub domain: DomainUuid,
    /// What the verdict saw; if the store differs by now, nothing is changed.
    pub seen: &'a References,
    /// The repairs, in order.
    pub repairs: &'a [Repair],
    /// Whether this start goes by a key that its client brought; `None` where there is none.
    pub clients_key: Option<bool>,
    /// The key of a `CreateKey` or a `KeepHostValue` among them.
    pub new_key: Option<&'a NewKey>,
    /// The secret that the domain XML names, for rows that the repairs make.
    pub secret_uuid: Option<SecretUuid>,
    /// The event to record with them.
    pub event: Option<&'a Event>,
    /// The time that goes into `created_at`, `updated_at`, `retired_at`.
    pub now: Timestamp,
}

impl Store {
    /// Applies a verdict's changes in one transaction. Gives the id of the row that a
    /// `BindProvider` made. `Changed` says that nothing was applied, for the rows are not
    /// (or no longer) what the verdict saw: read and decide again.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<Option<KeyRefId>, StoreError> {
        self.write(|transaction| {
            let found = references::references(transaction, change.domain, change.now)?;
            if !found.judged_alike(change.seen) {
                return Err(StoreError::Changed.into());
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
                events::insert(transaction, event)?;
            }
            Ok(made)
        })
    }
}
