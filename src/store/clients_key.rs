//! Which guests were last started with a key that their client provided.

use rusqlite::{Connection, Transaction, params};

use super::error::Failure;
use crate::clock::Timestamp;
use crate::ids::DomainUuid;

/// Whether the guest's last allowed start used a key that its client provided.
pub(super) fn is_noted(connection: &Connection, domain: DomainUuid) -> Result<bool, Failure> {
    Ok(connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM clients_key WHERE domain_uuid = ?1)",
        [domain.to_string()],
        |row| row.get(0),
    )?)
}

/// Records whether this start uses a key that its client provided.
pub(super) fn note(
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
