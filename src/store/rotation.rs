//! A provider's new KEK, the rows that follow, and what happens to its previous one.
//!
//! The previous KEK stays on the host as a provider of its own. So a key reference that was
//! missed, or that another tool restores, still opens, by the rules for any provider; and the
//! previous KEK is deleted only when nothing needs it.

use rusqlite::{Connection, Transaction, params};

use super::error::Failure;
use super::key_rows::{self, exactly_one};
use super::schema::{is_uuid, provider_uuid};
use super::{Slot, Store, StoreError, fleet, previous_key_name, provider_rows, slots};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::{Provider, kek_ref};

/// A key reference whose DEK was re-wrapped.
#[derive(Debug, Clone)]
pub struct RewrappedRow {
    /// The row.
    pub key_ref: KeyRefId,
    /// The wrapped DEK that was opened.
    pub seen: WrappedDek,
    /// The same DEK under the new KEK.
    pub key: NewKey,
}

/// A provider gets a new KEK.
#[derive(Debug)]
pub struct KeyChange<'a> {
    /// The provider, as it was seen.
    pub provider: &'a Provider,
    /// The new KEK's id.
    pub key_id: KeyId,
    /// The new KEK's version.
    pub key_version: i64,
    /// The slots of the new KEK.
    pub slots: &'a [Slot],
    /// Rows that follow in the same step: those that would be another provider's meanwhile, which has the present KEK, too.
    pub rewrapped: &'a [RewrappedRow],
    /// The time that goes into `updated_at`.
    pub now: Timestamp,
}

impl Store {
    /// The previous KEKs of a provider, by name.
    pub fn previous_keys(&self, provider: &Provider) -> Result<Vec<Provider>, StoreError> {
        self.read(|connection| provider_rows::previous(connection, provider))
    }

    /// Gives a provider its new KEK, which counts as never exported, and keeps the previous one, unless another
    /// provider has it too. The rows that the previous one wraps stay as they are: they open with it, and
    /// [`Store::rewrap`] follows. So a start waits for this no longer than for the change of a few rows.
    ///
    /// `Changed` if the provider has another KEK or name by now.
    pub fn change_key(&mut self, change: &KeyChange<'_>) -> Result<(), StoreError> {
        let KeyChange { provider, now, .. } = change;
        self.write(|transaction| {
            provider_rows::as_seen(transaction, provider)?;
            let key = (change.key_id, change.key_version);
            provider_rows::set_key(transaction, provider.uuid, key, *now)?;
            for slot in change.slots {
                slots::insert(transaction, slot.clone())?;
            }
            rewrap(transaction, provider, change.rewrapped, *now)?;
            keep_previous(transaction, provider, *now)
        })
    }

    /// Writes rows that were re-wrapped with the KEK that the provider has, and binds them to it: all of them, or
    /// none. `Changed` if it has another KEK, or a row was changed.
    pub fn rewrap(
        &mut self,
        provider: &Provider,
        rewrapped: &[RewrappedRow],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if provider_rows::by_uuid(transaction, provider.uuid)?.key_id != provider.key_id {
                return Err(StoreError::Changed.into());
            }
            rewrap(transaction, provider, rewrapped, now)
        })
    }

    /// Whether a key reference needs this previous KEK, including retired ones.
    pub fn needs_previous_key(&self, previous: &Provider) -> Result<bool, StoreError> {
        self.read(|connection| is_needed(connection, previous))
    }

    /// Deletes the row of a previous KEK, if no key reference needs it, including retired ones.
    /// Returns whether it was deleted.
    pub fn delete_previous_key(&mut self, previous: &Provider) -> Result<bool, StoreError> {
        // All rows are looked at: first without the lock, for which starts would wait.
        if self.needs_previous_key(previous)? {
            return Ok(false);
        }
        self.write(|transaction| {
            if is_needed(transaction, previous)? {
                return Ok(false);
            }
            let deleted = provider_rows::delete(transaction, previous.uuid)?;
            fleet::decline_key(transaction, previous.key_id)?;
            slots::delete_unless_held(transaction, previous.key_id)?;
            Ok(deleted)
        })
    }
}

/// Whether a key reference is bound to a previous KEK, or wrapped with it.
fn is_needed(connection: &Connection, previous: &Provider) -> Result<bool, Failure> {
    let is_its = is_uuid("provider_uuid", "?1");
    let sql = format!("SELECT EXISTS (SELECT 1 FROM key_ref WHERE {is_its} OR provider_name = ?2)");
    let names = params![previous.uuid.to_string(), previous.name];
    let is_bound: bool = connection.query_row(&sql, names, |row| row.get(0))?;
    Ok(is_bound || !key_rows::under_kek(connection, previous.key_id)?.is_empty())
}

/// Rows that were bound to a previous KEK are bound to the provider now, or else that KEK would
/// be needed for ever.
pub(super) fn rewrap(
    transaction: &Transaction<'_>,
    provider: &Provider,
    rewrapped: &[RewrappedRow],
    now: Timestamp,
) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE OR ABORT key_ref SET wrapped_dek = ?3, kek_ref = ?4, key_version = ?5,
                            algorithm = ?6, provider_uuid = {}, provider_name = ?8,
                            updated_at = ?9
         WHERE id = ?1 AND wrapped_dek = ?2",
        provider_uuid("?7")
    );
    let mut update = transaction.prepare_cached(&sql)?;
    for RewrappedRow { key_ref, seen, key } in rewrapped {
        exactly_one(update.execute(params![
            key_ref.0,
            seen.as_bytes(),
            key.wrapped_dek.as_bytes(),
            kek_ref(key.key_id),
            key.key_version,
            key.algorithm,
            provider.uuid.to_string(),
            provider.name,
            now.0
        ])?)?;
        let domain = key_rows::by_id(transaction, *key_ref)?.domain;
        key_rows::read_back(transaction, *key_ref, domain, key)?;
    }
    Ok(())
}

/// Makes a provider of the KEK that `provider` had. If another provider has that KEK too, it
/// keeps it: a second one would be ambiguous.
pub(super) fn keep_previous(
    transaction: &Transaction<'_>,
    provider: &Provider,
    now: Timestamp,
) -> Result<(), Failure> {
    let all = provider_rows::all(transaction)?;
    if all.iter().any(|other| other.key_id == provider.key_id) {
        return Ok(());
    }
    let previous = Provider {
        uuid: ProviderUuid::random(),
        name: previous_key_name(&provider.name, provider.key_id),
        ..provider.clone()
    };
    provider_rows::insert(transaction, &previous, now)
}
