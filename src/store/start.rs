//! What the hook notes around a start: that TPM state will arrive, that a key is fresh, that
//! the boot worked or did not.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};

use super::error::Failure;
use super::schema::{KEYED, LIVE, is_uuid};
use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId};

/// How long a `migrate begin` or `restore begin` vouches for TPM state that will arrive.
/// libvirt calls `prepare begin` directly after it, before anything is received, so this only
/// bounds how long a start that never came can mislead a later one.
pub const INCOMING_LIFETIME: Duration = Duration::from_mins(10);

/// [`INCOMING_LIFETIME`] in milliseconds.
#[allow(clippy::cast_possible_truncation, reason = "600,000 fits")]
const INCOMING_LIFETIME_MS: i64 = INCOMING_LIFETIME.as_millis() as i64;

/// The rows of `fresh_key` about domain ?1.
fn of_domain() -> String {
    let of_domain = is_uuid("resource_uuid", "?1");
    format!("key_ref_id IN (SELECT id FROM key_ref WHERE resource_type = 'tpm' AND {of_domain})")
}

impl Store {
    /// Notes that TPM state will arrive for this domain, and forgets old notes.
    pub fn note_incoming(
        &mut self,
        domain: DomainUuid,
        operation: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute(
                "DELETE FROM arriving WHERE abs(at - ?1) > ?2",
                params![now.0, INCOMING_LIFETIME_MS],
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO arriving (domain_uuid, operation, at) VALUES (?1, ?2, ?3)",
                params![domain.to_string(), operation, now.0],
            )?;
            Ok(())
        })
    }

    /// Notes that the domain runs with its key: the key has been used, and is no longer
    /// taken back.
    pub fn mark_started(&mut self, domain: DomainUuid, now: Timestamp) -> Result<(), StoreError> {
        self.write(|transaction| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let sql = format!(
                "UPDATE key_ref SET first_used_at = ?2, updated_at = ?2
                 WHERE {of_domain} AND {LIVE} AND {KEYED} AND first_used_at IS NULL"
            );
            transaction.execute(&sql, params![domain.to_string(), now.0])?;
            forget_freshness(transaction, domain)?;
            forget_incoming(transaction, domain)
        })
    }

    /// Notes that the domain's keys are no longer fresh: there is TPM state that may be
    /// encrypted with them, whatever became of the start. They are never taken back.
    pub fn keep_fresh_key(&mut self, domain: DomainUuid) -> Result<(), StoreError> {
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

    /// Makes the row of a key that was made for a start that failed a placeholder again, and
    /// says whether there was one. A row that changed since then is left alone: another tool
    /// may have deleted the guard's row, which leaves the note of its key behind if foreign
    /// keys are off, and the id may be that of a row with another key by now. For the caller
    /// to ask only where no TPM state exists: then nothing was ever encrypted with that key.
    pub fn take_back_fresh_key(
        &mut self,
        domain: DomainUuid,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let sql = format!(
                "UPDATE key_ref SET wrapped_dek = NULL, kek_ref = NULL, key_version = NULL,
                                    algorithm = NULL, updated_at = ?2
                 WHERE {of_domain} AND {LIVE} AND first_used_at IS NULL
                   AND EXISTS (SELECT 1 FROM fresh_key
                               WHERE key_ref_id = key_ref.id AND at = key_ref.updated_at)
                 RETURNING id"
            );
            let mut update = transaction.prepare(&sql)?;
            let ids = update
                .query_map(params![domain.to_string(), now.0], |row| {
                    row.get::<_, i64>(0)
                })?
                .collect::<Result<Vec<_>, _>>()?;
            for id in &ids {
                transaction.execute("DELETE FROM fresh_key WHERE key_ref_id = ?1", [id])?;
            }
            Ok(!ids.is_empty())
        })
    }
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

/// Whether a note about this domain still holds. One from the future is as good as one from
/// the past: the clock may have been set.
pub(super) fn state_arrives(
    connection: &Connection,
    domain: DomainUuid,
    now: Timestamp,
) -> Result<bool, Failure> {
    Ok(connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM arriving WHERE domain_uuid = ?1 AND abs(at - ?2) <= ?3)",
        params![domain.to_string(), now.0, INCOMING_LIFETIME_MS],
        |row| row.get(0),
    )?)
}

fn forget_freshness(transaction: &Transaction<'_>, domain: DomainUuid) -> Result<(), Failure> {
    let sql = format!("DELETE FROM fresh_key WHERE {}", of_domain());
    transaction.execute(&sql, [domain.to_string()])?;
    Ok(())
}

pub(super) fn forget_incoming(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
) -> Result<(), Failure> {
    transaction.execute(
        "DELETE FROM arriving WHERE domain_uuid = ?1",
        [domain.to_string()],
    )?;
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
