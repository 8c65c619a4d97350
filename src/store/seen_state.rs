//! The TPM states that guests ran with, whether or not the guard has their keys, so that it is
//! noticed when one is gone.

use std::path::PathBuf;

use rusqlite::{Connection, params};

use super::error::Failure;
use super::{Store, StoreError, columns};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, SecretUuid};
use crate::verdict::facts::SeenState;

/// How many guests are recorded; beyond that, the oldest records are deleted. A host whose guests
/// each live for one job would otherwise keep them for ever.
const STATES_KEPT: i64 = 10_000;

impl Store {
    /// Records that a guest runs with this TPM state. If that is known, nothing is written.
    pub fn note_seen_state(
        &mut self,
        domain: DomainUuid,
        seen: &SeenState,
    ) -> Result<(), StoreError> {
        let known = self.read(|connection| of_domain(connection, domain))?;
        let is_known = known.is_some_and(|known| {
            SeenState {
                at: seen.at,
                ..known
            } == *seen
        });
        if is_known {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO seen_state (domain_uuid, domain_name, secret_uuid, path, at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    domain.to_string(),
                    seen.domain_name,
                    seen.secret_uuid.map(|uuid| uuid.to_string()),
                    seen.path.to_string_lossy(),
                    seen.at.0,
                ],
            )?;
            // So that nothing is sorted, for which other starts would wait, where none is too many.
            transaction.execute(
                "DELETE FROM seen_state WHERE rowid IN
                     (SELECT rowid FROM seen_state ORDER BY at, rowid
                      LIMIT max(0, (SELECT count(*) FROM seen_state) - ?1))",
                [STATES_KEPT],
            )?;
            Ok(())
        })
    }

    /// The TPM state that this guest last ran with.
    pub fn seen_state(&self, domain: DomainUuid) -> Result<Option<SeenState>, StoreError> {
        self.read(|connection| of_domain(connection, domain))
    }

    /// Deletes the record of a guest's TPM state. Returns whether there was one.
    pub fn clear_seen_state(&mut self, domain: DomainUuid) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let sql = "DELETE FROM seen_state WHERE domain_uuid = ?1";
            Ok(transaction.execute(sql, [domain.to_string()])? > 0)
        })
    }
}

/// The TPM state that this guest last ran with.
pub(super) fn of_domain(
    connection: &Connection,
    domain: DomainUuid,
) -> Result<Option<SeenState>, Failure> {
    let mut query = connection.prepare_cached(
        "SELECT domain_name, secret_uuid, path, at FROM seen_state WHERE domain_uuid = ?1",
    )?;
    let mut rows = query.query([domain.to_string()])?;
    let Some(found) = rows.next()? else {
        return Ok(None);
    };
    Ok(Some(SeenState {
        domain_name: columns::text(found, "domain_name")?.unwrap_or_default(),
        secret_uuid: columns::parsed(found, "secret_uuid", |text| SecretUuid::parse(text).ok())?,
        path: PathBuf::from(columns::text(found, "path")?.unwrap_or_default()),
        at: columns::time(found, "at")?.unwrap_or(Timestamp(0)),
    }))
}
