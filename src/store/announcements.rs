//! Announcements: a `migrate begin` or `restore begin` says that TPM state will arrive.
//!
//! Each belongs to one attempt of one daemon. It is valid for every `prepare` of that attempt, and
//! is deleted at `started`, `stopped` and `release`, or when it is too old.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};

use super::error::Failure;
use super::{Store, StoreError, columns};
use crate::clock::Timestamp;
use crate::ids::DomainUuid;
use crate::verdict::facts::{Announcement, Arrival};

/// How long an announcement is valid. libvirt calls `prepare begin` in the same call, before it
/// receives anything: measured 70 to 120 ms on libvirt 9.0. Other hooks may run in between, and
/// libvirt may probe QEMU first, which takes up to 9 s.
pub(super) const LIFETIME: Duration = Duration::from_secs(30);

/// [`LIFETIME`] in milliseconds.
#[allow(clippy::cast_possible_truncation, reason = "30,000 fits")]
const LIFETIME_MS: i64 = LIFETIME.as_millis() as i64;

impl Store {
    /// Records that TPM state will arrive for this guest, and deletes old announcements.
    pub fn announce(
        &mut self,
        domain: DomainUuid,
        announcement: &Announcement,
    ) -> Result<(), StoreError> {
        let Announcement {
            domain_name,
            arrival,
            attempt,
            at,
        } = announcement;
        self.write(|transaction| {
            transaction.execute(
                "DELETE FROM arriving WHERE abs(at - ?1) > ?2",
                params![at.0, LIFETIME_MS],
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO arriving (domain_uuid, domain_name, operation, daemon, at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    domain.to_string(),
                    domain_name,
                    operation(*arrival),
                    attempt,
                    at.0
                ],
            )?;
            Ok(())
        })
    }

    /// Deletes the announcement for this guest. If there is none, nothing is written.
    pub fn clear_announcement(&mut self, domain: DomainUuid) -> Result<(), StoreError> {
        let is_announced = self.read(|connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM arriving WHERE domain_uuid = ?1)";
            Ok(connection.query_row(sql, [domain.to_string()], |row| row.get(0))?)
        })?;
        if is_announced {
            self.write(|transaction| delete(transaction, domain))?;
        }
        Ok(())
    }
}

/// The announcement for this guest, if it is not too old. One from the future counts as one from
/// the past: the clock may have been set.
pub(super) fn for_domain(
    connection: &Connection,
    domain: DomainUuid,
    now: Timestamp,
) -> Result<Option<Announcement>, Failure> {
    let mut query = connection.prepare(
        "SELECT domain_name, operation, daemon, at FROM arriving
         WHERE domain_uuid = ?1 AND abs(at - ?2) <= ?3",
    )?;
    let mut rows = query.query(params![domain.to_string(), now.0, LIFETIME_MS])?;
    let Some(found) = rows.next()? else {
        return Ok(None);
    };
    let Some(arrival) = columns::parsed(found, "operation", arrival)? else {
        return Ok(None);
    };
    Ok(Some(Announcement {
        domain_name: columns::text(found, "domain_name")?.unwrap_or_default(),
        arrival,
        attempt: columns::text(found, "daemon")?.unwrap_or_default(),
        at: columns::time(found, "at")?.unwrap_or(Timestamp(0)),
    }))
}

pub(super) fn delete(transaction: &Transaction<'_>, domain: DomainUuid) -> Result<(), Failure> {
    transaction.execute(
        "DELETE FROM arriving WHERE domain_uuid = ?1",
        [domain.to_string()],
    )?;
    Ok(())
}

/// How the column `operation` spells what brings the state.
const OPERATIONS: [(Arrival, &str); 3] = [
    (Arrival::Migration, "migrate"),
    (Arrival::Restore, "restore"),
    (Arrival::Snapshot, "revert"),
];

fn operation(arrival: Arrival) -> Option<&'static str> {
    let mut all = OPERATIONS.iter();
    all.find(|(it, _)| *it == arrival).map(|(_, word)| *word)
}

fn arrival(operation: &str) -> Option<Arrival> {
    let mut all = OPERATIONS.iter();
    all.find(|(_, word)| *word == operation).map(|(it, _)| *it)
}
