//! What the hook notes around a start: that a key is fresh, that the boot worked or did not.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};

use super::error::Failure;
use super::schema::{KEYED, LIVE, is_uuid};
use super::{Store, StoreError, announced, keys, load};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;

/// The rows of `fresh_key` about domain ?1.
fn of_domain() -> String {
    let of_domain = is_uuid("resource_uuid", "?1");
    format!("key_ref_id IN (SELECT id FROM key_ref WHERE resource_type = 'tpm' AND {of_domain})")
}

impl Store {
    /// Notes that the domain runs with its key: the key has been used, and is no longer
    /// taken back.
    pub fn mark_started(&mut self, domain: DomainUuid, now: Timestamp) -> Result<(), StoreError> {
        let news = format!(
            "SELECT EXISTS (SELECT 1 FROM key_ref WHERE {} AND {LIVE} AND {KEYED}
                            AND first_used_at IS NULL)
                 OR EXISTS (SELECT 1 FROM fresh_key WHERE {})
                 OR EXISTS (SELECT 1 FROM arriving WHERE domain_uuid = ?1)",
            is_uuid("resource_uuid", "?1"),
            of_domain()
        );
        let is_news: bool = self.read(|connection| {
            Ok(connection.query_row(&news, [domain.to_string()], |row| row.get(0))?)
        })?;
        // Of most starts there is nothing to note, and nobody to wait for.
        if !is_news {
            return Ok(());
        }
        self.write(|transaction| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let sql = format!(
                "UPDATE OR ABORT key_ref SET first_used_at = ?2, updated_at = ?2
                 WHERE {of_domain} AND {LIVE} AND {KEYED} AND first_used_at IS NULL"
            );
            transaction.execute(&sql, params![domain.to_string(), now.0])?;
            forget_freshness(transaction, domain)?;
            announced::forget(transaction, domain)
        })
    }

    /// Notes that the domain's keys are no longer fresh: there is TPM state that may be
    /// encrypted with them, whatever became of the start. They are never taken back.
    pub fn clear_fresh_key(&mut self, domain: DomainUuid) -> Result<(), StoreError> {
        let is_fresh = self.read(|connection| {
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM fresh_key WHERE {})",
                of_domain()
            );
            Ok(connection.query_row(&sql, [domain.to_string()], |row| row.get(0))?)
        })?;
        // Most often there is nothing to note, and nobody to be locked out for it.
        if is_fresh {
            self.write(|transaction| forget_freshness(transaction, domain))?;
        }
        Ok(())
    }

    /// Takes a key that was made for a start that failed out of use, and gives the domain a
    /// placeholder in its stead, if it has no other row. Says what it did.
    ///
    /// For the caller to ask only where no TPM state exists. Should that state be out of sight,
    /// nothing is lost: the row is retired, with its key. `made_within` is how long ago the key
    /// may have been made. A row that changed since then is left alone: another tool may have
    /// deleted the guard's row, which leaves the note of its key behind if foreign keys are off,
    /// and the id may be that of a row with another key by now.
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
            let fresh = keys::records(connection, &condition, values)?;
            Ok(fresh.into_iter().map(|row| row.key_ref.id).collect())
        };
        // Most often there is none, and nobody to be locked out for it.
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
                note_fresh_key(transaction, *id, now)?;
            }
            let mut placeholder = None;
            if load::key_refs(transaction, domain)?.is_empty() {
                transaction.execute(
                    "INSERT OR ABORT INTO key_ref (resource_type, resource_uuid, secret_uuid,
                                                   provider_uuid, provider_name,
                                                   created_at, updated_at)
                     SELECT resource_type, resource_uuid, secret_uuid, provider_uuid,
                            provider_name, ?2, ?2
                     FROM key_ref WHERE id = ?1",
                    params![first.0, now.0],
                )?;
                placeholder = Some(KeyRefId(transaction.last_insert_rowid()));
            }
            Ok(Some(RetiredFreshKey {
                retired,
                placeholder,
            }))
        })
    }

    /// The keys of this domain under a KEK that were taken back, and that nothing has been done
    /// with since, the latest first. One of them is used again in the place of a new one: so a
    /// guest whose starts keep failing has one retired key, and not one for each start.
    pub fn spare_keys(
        &self,
        domain: DomainUuid,
        key_id: KeyId,
    ) -> Result<Vec<WrappedDek>, StoreError> {
        let condition = format!("{} AND {}", is_uuid("resource_uuid", "?1"), is_spare());
        let mut spare =
            self.read(|connection| keys::records(connection, &condition, [domain.to_string()]))?;
        spare.retain(|row| keys::kek_of(&row.key_ref) == Some(key_id));
        let wrapped = spare.into_iter().rev();
        Ok(wrapped.filter_map(|row| row.key_ref.wrapped_dek).collect())
    }
}

/// The rows whose key was made for a start that has not succeeded; nothing changed them since.
const IS_FRESH: &str = "EXISTS (SELECT 1 FROM fresh_key
                                WHERE key_ref_id = key_ref.id AND at = key_ref.updated_at)";

/// The rows of [`Store::spare_keys`].
fn is_spare() -> String {
    format!(
        "resource_type = 'tpm' AND retired_at IS NOT NULL AND first_used_at IS NULL AND {IS_FRESH}"
    )
}

/// What taking a key back did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredFreshKey {
    /// The rows that were retired: one, unless other tools have made more.
    pub retired: Vec<KeyRefId>,
    /// The placeholder that was made.
    pub placeholder: Option<KeyRefId>,
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Whether the domain's last allowed start went by a key that its client brought.
pub(super) fn is_started_with_a_clients_key(
    connection: &Connection,
    domain: DomainUuid,
) -> Result<bool, Failure> {
    Ok(connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM clients_key WHERE domain_uuid = ?1)",
        [domain.to_string()],
        |row| row.get(0),
    )?)
}

/// Notes whether this start goes by a key that its client brought.
pub(super) fn note_clients_key(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
    is_clients: bool,
    now: Timestamp,
) -> Result<(), Failure> {
    if is_clients {
        transaction.execute(
            "INSERT OR REPLACE INTO clients_key (domain_uuid, at) VALUES (?1, ?2)",
            params![domain.to_string(), now.0],
        )?;
    } else {
        transaction.execute(
            "DELETE FROM clients_key WHERE domain_uuid = ?1",
            [domain.to_string()],
        )?;
    }
    Ok(())
}

fn forget_freshness(transaction: &Transaction<'_>, domain: DomainUuid) -> Result<(), Failure> {
    let sql = format!("DELETE FROM fresh_key WHERE {}", of_domain());
    transaction.execute(&sql, [domain.to_string()])?;
    Ok(())
}

/// Deletes the spare row whose very bytes another row of the domain holds now.
pub(super) fn forget_spare(
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

/// Notes that a key was made for a start that has not succeeded yet.
pub(super) fn note_fresh_key(
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
