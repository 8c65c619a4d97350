//! Fresh keys, which were made for a start that has not succeeded yet: recording them, clearing
//! the record when the guest runs, and retiring them when the start has failed.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};

use super::error::Failure;
use super::schema::{KEYED, LIVE, is_uuid, provider_uuid};
use super::{Store, StoreError, announcements, key_rows};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;

/// The rows of `fresh_key` of guest ?1.
fn of_domain() -> String {
    let of_domain = is_uuid("resource_uuid", "?1");
    format!("key_ref_id IN (SELECT id FROM key_ref WHERE resource_type = 'tpm' AND {of_domain})")
}

impl Store {
    /// Records that the guest runs with its key: the key has been used, and is no longer fresh.
    pub fn mark_started(&mut self, domain: DomainUuid, now: Timestamp) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM key_ref WHERE {} AND {LIVE} AND {KEYED}
                            AND first_used_at IS NULL)
                 OR EXISTS (SELECT 1 FROM fresh_key WHERE {})
                 OR EXISTS (SELECT 1 FROM arriving WHERE domain_uuid = ?1)",
            is_uuid("resource_uuid", "?1"),
            of_domain()
        );
        let is_new: bool = self.read(|connection| {
            Ok(connection.query_row(&sql, [domain.to_string()], |row| row.get(0))?)
        })?;
        // Most starts have nothing to record, and need not wait for the lock.
        if !is_new {
            return Ok(());
        }
        self.write(|transaction| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let sql = format!(
                "UPDATE OR ABORT key_ref SET first_used_at = ?2, updated_at = ?2
                 WHERE {of_domain} AND {LIVE} AND {KEYED} AND first_used_at IS NULL"
            );
            transaction.execute(&sql, params![domain.to_string(), now.0])?;
            clear(transaction, domain)?;
            announcements::delete(transaction, domain)
        })
    }

    /// Records that the guest's keys are no longer fresh: there is TPM state that may be encrypted
    /// with them, whatever the result of the start. A failed start does not retire them then.
    pub fn clear_fresh_key(&mut self, domain: DomainUuid) -> Result<(), StoreError> {
        let is_fresh = self.read(|connection| {
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM fresh_key WHERE {})",
                of_domain()
            );
            Ok(connection.query_row(&sql, [domain.to_string()], |row| row.get(0))?)
        })?;
        // Usually there is nothing to record, and no reason to lock others out.
        if is_fresh {
            self.write(|transaction| clear(transaction, domain))?;
        }
        Ok(())
    }

    /// Retires a key that was made for a start that failed, and gives the guest a placeholder
    /// instead, if it has no other row. Returns what was changed; `None` if there was no such key.
    ///
    /// Call it only if no TPM state exists. If the state exists where it was not seen, nothing is
    /// lost: the row is retired, with its key. `made_within` limits the age of the key. A row that
    /// changed since the key was made is not retired: another tool may have deleted the guard's
    /// row, which leaves the record of its key if foreign keys are off, and its id may now be that
    /// of a row with another key.
    pub fn retire_fresh_key(
        &mut self,
        domain: DomainUuid,
        made_within: Option<Duration>,
        now: Timestamp,
    ) -> Result<Option<RetiredFreshKey>, StoreError> {
        let within = made_within.map_or(i64::MAX, milliseconds);
        let ids = |connection: &Connection| -> Result<Vec<KeyRefId>, Failure> {
            let condition = format!(
                "{} AND {LIVE} AND {KEYED} AND first_used_at IS NULL AND {IS_FRESH}
                 AND abs(updated_at - ?2) <= ?3",
                is_uuid("resource_uuid", "?1")
            );
            let values = params![domain.to_string(), now.0, within];
            let fresh = key_rows::select(connection, &condition, values)?;
            Ok(fresh.into_iter().map(|row| row.key_ref.id).collect())
        };
        // Usually there is none, and no reason to lock others out.
        if self.read(|connection| ids(connection))?.is_empty() {
            return Ok(None);
        }
        self.write(|transaction| {
            let retired = ids(transaction)?;
            let Some(first) = retired.first() else {
                return Ok(None);
            };
            for id in &retired {
                transaction.execute(
                    "UPDATE OR ABORT key_ref SET retired_at = ?2, updated_at = ?2 WHERE id = ?1",
                    params![id.0, now.0],
                )?;
                // It stays fresh: see `spare_keys`.
                note(transaction, *id, now)?;
            }
            let mut placeholder = None;
            if key_rows::in_use(transaction, domain)?.is_empty() {
                // Another tool may have deleted the provider, and left its UUID where it was.
                let provider = key_rows::by_id(transaction, *first)?.key_ref.provider_uuid;
                let sql = format!(
                    "INSERT OR ABORT INTO key_ref (resource_type, resource_uuid, secret_uuid,
                                                   provider_uuid, provider_name,
                                                   created_at, updated_at)
                     SELECT resource_type, resource_uuid, secret_uuid, {},
                            provider_name, ?2, ?2
                     FROM key_ref WHERE id = ?1",
                    provider_uuid("?3")
                );
                let provider = provider.map(|uuid| uuid.to_string());
                transaction.execute(&sql, params![first.0, now.0, provider])?;
                placeholder = Some(KeyRefId(transaction.last_insert_rowid()));
            }
            Ok(Some(RetiredFreshKey {
                retired,
                placeholder,
            }))
        })
    }

    /// The fresh keys of this guest under a KEK that were retired and have not changed since, newest
    /// first. One of them is used again instead of a new one: so a guest whose starts keep failing
    /// has one retired key, not one for each start.
    pub fn spare_keys(
        &self,
        domain: DomainUuid,
        key_id: KeyId,
    ) -> Result<Vec<WrappedDek>, StoreError> {
        let condition = format!("{} AND {}", is_uuid("resource_uuid", "?1"), is_spare());
        let mut spare =
            self.read(|connection| key_rows::select(connection, &condition, [domain.to_string()]))?;
        spare.retain(|row| key_rows::kek_of(&row.key_ref) == Some(key_id));
        let wrapped = spare.into_iter().rev();
        Ok(wrapped.filter_map(|row| row.key_ref.wrapped_dek).collect())
    }
}

/// The rows whose key was made for a start that has not succeeded, and that have not changed
/// since.
const IS_FRESH: &str = "EXISTS (SELECT 1 FROM fresh_key
                                WHERE key_ref_id = key_ref.id AND at = key_ref.updated_at)";

/// The rows of [`Store::spare_keys`].
fn is_spare() -> String {
    format!(
        "resource_type = 'tpm' AND retired_at IS NOT NULL AND first_used_at IS NULL AND {IS_FRESH}"
    )
}

/// What retiring a fresh key changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredFreshKey {
    /// The rows that were retired: one, unless other tools have made more.
    pub retired: Vec<KeyRefId>,
    /// The placeholder that was added.
    pub placeholder: Option<KeyRefId>,
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn clear(transaction: &Transaction<'_>, domain: DomainUuid) -> Result<(), Failure> {
    let sql = format!("DELETE FROM fresh_key WHERE {}", of_domain());
    transaction.execute(&sql, [domain.to_string()])?;
    Ok(())
}

/// Deletes the spare row whose wrapped DEK another row of the guest now holds.
pub(super) fn delete_spare(
    transaction: &Transaction<'_>,
    holder: KeyRefId,
    domain: DomainUuid,
    key: &NewKey,
) -> Result<(), Failure> {
    let sql = format!(
        "DELETE FROM key_ref WHERE id <> ?1 AND {} AND {} AND wrapped_dek = ?3",
        is_uuid("resource_uuid", "?2"),
        is_spare()
    );
    let values = params![holder.0, domain.to_string(), key.wrapped_dek.as_bytes()];
    transaction.execute(&sql, values)?;
    Ok(())
}

/// Records that a key was made for a start that has not succeeded yet.
pub(super) fn note(
    transaction: &Transaction<'_>,
    key_ref: KeyRefId,
    now: Timestamp,
) -> Result<(), Failure> {
    transaction.execute(
        "DELETE FROM fresh_key WHERE key_ref_id NOT IN (SELECT id FROM key_ref)",
        [],
    )?;
    transaction.execute(
        "INSERT OR REPLACE INTO fresh_key (key_ref_id, at) VALUES (?1, ?2)",
        params![key_ref.0, now.0],
    )?;
    Ok(())
}
