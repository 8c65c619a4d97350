//! The facts that this host knows: the union of its own and those of others.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::super::error::Failure;
use super::super::{Store, StoreError, columns};
use crate::fleet::fact::{Fact, WireFact};
use crate::fleet::fact_id::FactId;
use crate::fleet::status::{KeyStatus, Stated};

/// A fact as it travels, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFact {
    /// As it travels.
    pub wire: WireFact,
    /// What it says.
    pub fact: Fact,
}

/// A key that is known, and what it counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedKey {
    /// Whether the key itself is known, not only what it counts as.
    pub is_known: bool,
    /// What it counts as.
    pub stated: Stated,
}

impl Store {
    /// Whether this fact is known.
    pub fn knows_fact(&self, id: FactId) -> Result<bool, StoreError> {
        self.read(|connection| is_known(connection, id))
    }

    /// What the fleet says of a key.
    pub fn stated_key(&self, key: FactId) -> Result<StatedKey, StoreError> {
        self.read(|connection| {
            Ok(StatedKey {
                is_known: is_known(connection, key)?,
                stated: stated(connection, key)?,
            })
        })
    }

    /// The facts of these kinds.
    pub fn facts_of_kind(&self, kinds: &[&str]) -> Result<Vec<WireFact>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT * FROM fleet_fact WHERE kind = ?1")?;
            let mut facts = Vec::new();
            for kind in kinds {
                let rows = query.query_map([kind], wire)?;
                facts.extend(
                    rows.filter_map(Result::transpose)
                        .collect::<Result<Vec<_>, _>>()?,
                );
            }
            Ok(facts)
        })
    }

    /// The facts of these ids, as far as they are known.
    pub fn facts(&self, ids: &[FactId]) -> Result<Vec<WireFact>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT * FROM fleet_fact WHERE id = ?1")?;
            let mut facts = Vec::new();
            for id in ids {
                let found = query.query_row([id.as_bytes()], wire).optional()?;
                facts.extend(found.flatten());
            }
            Ok(facts)
        })
    }

    /// The ids of the facts of these kinds, in ascending order.
    pub fn fact_ids(&self, kinds: &[&str]) -> Result<Vec<FactId>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT id FROM fleet_fact WHERE kind = ?1")?;
            let mut ids = Vec::new();
            for kind in kinds {
                let rows = query.query_map([kind], |row| row.get::<_, Vec<u8>>(0))?;
                for bytes in rows {
                    ids.extend(FactId::from_slice(&bytes?));
                }
            }
            ids.sort_unstable();
            Ok(ids)
        })
    }

    /// Records that these facts are known to the fleet, which was told them, and deletes the notes of the outbox
    /// with these numbers. A subject that has changed since has another note.
    pub fn mark_sent(&mut self, facts: &[KnownFact], notes: &[i64]) -> Result<(), StoreError> {
        self.write_quietly(|transaction| {
            for fact in facts {
                insert(transaction, fact)?;
            }
            let mut delete = transaction.prepare("DELETE FROM fleet_outbox WHERE seq = ?1")?;
            for seq in notes {
                delete.execute([seq])?;
            }
            Ok(())
        })
    }
}

/// Adds a fact, if it is one that hosts keep: reports and history stay in the shared store, and placements have
/// a table of their own.
pub(super) fn insert(transaction: &Transaction<'_>, known: &KnownFact) -> Result<(), Failure> {
    let KnownFact { wire, fact } = known;
    let stated = match fact {
        Fact::Status(status) => Some((status.says.key, status.says.stated())),
        Fact::Key(_) | Fact::Provider(_) | Fact::Slot(_) | Fact::Successor(_) | Fact::Host(_) => {
            None
        }
        Fact::Placement(_) | Fact::Event(_) | Fact::Report(_) => return Ok(()),
    };
    transaction.execute(
        "INSERT OR IGNORE INTO fleet_fact (id, kind, domain_uuid, key_id, host_uuid, at, body, subject, revision,
                                           status)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            wire.id.as_bytes(),
            wire.kind,
            wire.domain,
            wire.key_id,
            wire.host,
            wire.at,
            wire.body,
            stated.map(|(key, _)| key.as_bytes().to_vec()),
            stated.map(|(_, stated)| stated.revision),
            stated.map(|(_, stated)| stated.status.word()),
        ],
    )?;
    Ok(())
}

fn is_known(connection: &Connection, id: FactId) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM fleet_fact WHERE id = ?1)";
    Ok(connection.query_row(sql, [id.as_bytes()], |row| row.get(0))?)
}

/// What a key counts as, by all that was said of it.
pub(super) fn stated(connection: &Connection, key: FactId) -> Result<Stated, Failure> {
    let sql = "SELECT revision, status FROM fleet_fact WHERE subject = ?1";
    let mut query = connection.prepare(sql)?;
    let rows = query.query_map([key.as_bytes()], |row| {
        let status = columns::parsed(row, "status", status)?;
        let revision = columns::integer(row, "revision")?.and_then(|it| u32::try_from(it).ok());
        Ok(status
            .zip(revision)
            .map(|(status, revision)| Stated { revision, status }))
    })?;
    let mut newest = Stated::NEW;
    for row in rows {
        newest = newest.max(row?.unwrap_or(Stated::NEW));
    }
    Ok(newest)
}

fn status(word: &str) -> Option<KeyStatus> {
    let all = [KeyStatus::Pruned, KeyStatus::Retired, KeyStatus::Live];
    all.into_iter().find(|status| status.word() == word)
}

/// A fact; `None` where its id cannot be read.
fn wire(row: &Row<'_>) -> rusqlite::Result<Option<WireFact>> {
    let id: Vec<u8> = row.get("id")?;
    let Some(id) = FactId::from_slice(&id) else {
        return Ok(None);
    };
    Ok(Some(WireFact {
        id,
        kind: row.get("kind")?,
        domain: row.get("domain_uuid")?,
        key_id: row.get("key_id")?,
        host: row.get("host_uuid")?,
        at: row.get("at")?,
        body: row.get("body")?,
    }))
}
