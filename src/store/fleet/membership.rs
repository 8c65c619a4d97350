//! Whether this host is in a fleet, and how far it has exchanged facts.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::super::error::Failure;
use super::super::{ROWS_AT_ONCE, Store, StoreError, columns};
use crate::clock::Timestamp;
use crate::fleet::FactId;
use crate::ids::HostUuid;

/// The membership of this host in a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Who this host is there.
    pub host: HostUuid,
    /// Its name there.
    pub name: String,
    /// When it joined.
    pub joined_at: Timestamp,
    /// What identifies the database, and the time since it was made or restored; empty before the first exchange.
    pub database: (String, String),
    /// How far the shared store has been read; empty at the beginning.
    pub cursor: String,
    /// The last fact that this host has stored there, of those that stay there.
    pub witness: Option<FactId>,
    /// When facts were last exchanged.
    pub synced_at: Option<Timestamp>,
    /// When everything was last compared.
    pub compared_at: Option<Timestamp>,
}

impl Store {
    /// The membership; `None` where this host is in no fleet.
    pub fn membership(&self) -> Result<Option<Membership>, StoreError> {
        self.read(|connection| membership(connection))
    }

    /// Enters a fleet; every key and every provider of this host is to be announced there. A host that is in one
    /// keeps its identity. Returns who it is.
    pub fn join_fleet(&mut self, name: &str, now: Timestamp) -> Result<HostUuid, StoreError> {
        let host = self.write(|transaction| {
            let host = match membership(transaction)? {
                Some(found) => found.host,
                None => HostUuid::random(),
            };
            transaction.execute(
                "INSERT INTO fleet (id, host_uuid, host_name, joined_at) VALUES (1, ?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET host_name = ?2, joined_at = ?3",
                params![host.to_string(), name, now.0],
            )?;
            Ok(host)
        })?;
        // After a kill before this, the first exchange does it, as with any database that is new to it.
        self.announce_rows()?;
        Ok(host)
    }

    /// Leaves the fleet, and forgets what it said. Its keys stay.
    pub fn leave_fleet(&mut self) -> Result<(), StoreError> {
        self.write_quietly(|transaction| {
            for (table, _) in super::TABLES {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
            Ok(())
        })
    }

    /// Records with which database facts are exchanged. Of another one than before nothing has been read yet.
    pub fn set_fleet_database(&mut self, database: &(String, String)) -> Result<(), StoreError> {
        self.write_quietly(|transaction| {
            transaction.execute(
                "UPDATE fleet SET system = ?1, epoch = ?2, cursor = '', witness = NULL, compared_at = NULL",
                params![database.0, database.1],
            )?;
            Ok(())
        })
    }

    /// Records that facts were exchanged, and perhaps that everything was compared, or which fact is the last that was
    /// stored.
    pub fn mark_synced(
        &mut self,
        compared: bool,
        witness: Option<FactId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write_quietly(|transaction| {
            transaction.execute(
                "UPDATE fleet SET synced_at = ?1, compared_at = iif(?2, ?1, compared_at),
                                  witness = coalesce(?3, witness)",
                params![now.0, compared, witness.map(|id| id.0)],
            )?;
            Ok(())
        })
    }

    /// What was asked of the shared store up to the cursor: "key" or "guest", and the id.
    pub fn fleet_scope(&self) -> Result<BTreeSet<(String, String)>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT kind, value FROM fleet_scope")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Replaces that, some of it at a time: a start waits for each transaction. What a kill leaves out is asked for once
    /// more.
    pub fn set_fleet_scope(
        &mut self,
        scope: &BTreeSet<(String, String)>,
    ) -> Result<(), StoreError> {
        let known = self.fleet_scope()?;
        for (changed, sql) in [
            (
                &known - scope,
                "DELETE FROM fleet_scope WHERE kind = ?1 AND value = ?2",
            ),
            (
                scope - &known,
                "INSERT OR IGNORE INTO fleet_scope (kind, value) VALUES (?1, ?2)",
            ),
        ] {
            let changed: Vec<_> = changed.into_iter().collect();
            for some in changed.chunks(usize::from(ROWS_AT_ONCE)) {
                self.write_quietly(|transaction| {
                    let mut change = transaction.prepare(sql)?;
                    for (kind, value) in some {
                        change.execute(params![kind, value])?;
                    }
                    Ok(())
                })?;
                Self::let_others_in();
            }
        }
        Ok(())
    }
}

/// The membership; `None` where this host is in no fleet.
pub(in crate::store) fn membership(connection: &Connection) -> Result<Option<Membership>, Failure> {
    let mut query = connection.prepare("SELECT * FROM fleet")?;
    let mut rows = query.query([])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let host = columns::parsed(row, "host_uuid", |text| HostUuid::parse(text).ok())?;
    let Some(host) = host else {
        return Err(
            StoreError::NotAsWritten("this host's identity in its fleet is damaged").into(),
        );
    };
    let text = |column| columns::text(row, column).map(Option::unwrap_or_default);
    Ok(Some(Membership {
        host,
        name: text("host_name")?,
        joined_at: columns::time(row, "joined_at")?.unwrap_or(Timestamp(0)),
        database: (text("system")?, text("epoch")?),
        cursor: text("cursor")?,
        witness: columns::bytes(row, "witness")?.and_then(|it| it.try_into().ok().map(FactId)),
        synced_at: columns::time(row, "synced_at")?,
        compared_at: columns::time(row, "compared_at")?,
    }))
}
