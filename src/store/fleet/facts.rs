//! The facts that this host knows: the union of its own and those of others.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::super::error::Failure;
use super::super::{Store, StoreError, columns};
use crate::clock::Timestamp;
use crate::fleet::claim::Claim;
use crate::fleet::status::{KeyStatus, Stated};
use crate::fleet::{Fact, FactId, Kind};
use crate::ids::{DomainUuid, HostUuid};
use crate::key::id::KeyId;

/// A fact as it travels, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFact {
    /// As it travels.
    pub fact: Fact,
    /// What it says.
    pub claim: Claim,
}

impl KnownFact {
    /// What this host says now.
    #[must_use]
    pub fn said(claim: Claim, host: HostUuid, now: Timestamp) -> Self {
        Self {
            fact: claim.write(host, now),
            claim,
        }
    }
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
    pub fn facts_of_kind(&self, kinds: &[Kind]) -> Result<Vec<Fact>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT * FROM fleet_fact WHERE kind = ?1")?;
            let mut facts = Vec::new();
            for kind in kinds {
                let rows = query.query_map([kind.as_str()], wire)?;
                facts.extend(
                    rows.filter_map(Result::transpose)
                        .collect::<Result<Vec<_>, _>>()?,
                );
            }
            Ok(facts)
        })
    }

    /// The facts of this kind about a guest.
    pub fn facts_about(&self, domain: DomainUuid, kind: Kind) -> Result<Vec<Fact>, StoreError> {
        self.read(|connection| Ok(about(connection, domain, kind)?))
    }

    /// The facts of these ids, as far as they are known.
    pub fn facts(&self, ids: &[FactId]) -> Result<Vec<Fact>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached("SELECT * FROM fleet_fact WHERE id = ?1")?;
            let mut facts = Vec::new();
            for id in ids {
                let found = query.query_row([id.0], wire).optional()?;
                facts.extend(found.flatten());
            }
            Ok(facts)
        })
    }

    /// How many facts of this kind are known.
    pub fn count_facts(&self, kind: Kind) -> Result<usize, StoreError> {
        self.read(|connection| {
            let sql = "SELECT count(*) FROM fleet_fact WHERE kind = ?1";
            let count: i64 = connection.query_row(sql, [kind.as_str()], |row| row.get(0))?;
            Ok(usize::try_from(count).unwrap_or_default())
        })
    }

    /// The guests of which other hosts of the fleet have said something; none where this host is in no fleet.
    pub fn guests_of_other_hosts(&self) -> Result<BTreeSet<DomainUuid>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT domain_uuid FROM fleet_fact JOIN fleet WHERE fleet_fact.host_uuid <> fleet.host_uuid
                       UNION
                       SELECT domain_uuid FROM fleet_placement JOIN fleet
                       WHERE fleet_placement.host_uuid <> fleet.host_uuid";
            let mut query = connection.prepare(sql)?;
            let rows = query.query_map([], |row| row.get::<_, Option<String>>(0))?;
            let mut guests = BTreeSet::new();
            for text in rows {
                guests.extend(text?.and_then(|text| DomainUuid::parse(&text).ok()));
            }
            Ok(guests)
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
    let KnownFact { fact: wire, claim } = known;
    let stated = match claim {
        Claim::Status(status) => Some((status.says.key, status.says.stated())),
        Claim::Key(_)
        | Claim::Provider(_)
        | Claim::Slot(_)
        | Claim::Successor(_)
        | Claim::Host(_) => None,
        Claim::Placement(_) | Claim::Event(_) | Claim::Report(_) => return Ok(()),
    };
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO fleet_fact (id, kind, domain_uuid, key_id, host_uuid, at, body, subject, revision,
                                           status)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    insert.execute(params![
        wire.id.0,
        wire.kind.as_str(),
        wire.domain.map(|domain| domain.to_string()),
        wire.key_id.map(|key_id| key_id.to_string()),
        wire.host.to_string(),
        wire.at.0,
        wire.body,
        stated.map(|(key, _)| key.0.to_vec()),
        stated.map(|(_, stated)| stated.revision),
        stated.map(|(_, stated)| stated.status.word()),
    ])?;
    Ok(())
}

/// The facts of this kind about a guest.
pub(super) fn about(
    connection: &Connection,
    domain: DomainUuid,
    kind: Kind,
) -> rusqlite::Result<Vec<Fact>> {
    // The `+` keeps SQLite from the index by kinds, which would go through all facts of one.
    let sql = "SELECT * FROM fleet_fact WHERE domain_uuid = ?1 AND +kind = ?2";
    let mut query = connection.prepare_cached(sql)?;
    let rows = query.query_map([&*domain.to_string(), kind.as_str()], wire)?;
    rows.filter_map(Result::transpose).collect()
}

fn is_known(connection: &Connection, id: FactId) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM fleet_fact WHERE id = ?1)";
    Ok(connection
        .prepare_cached(sql)?
        .query_row([id.0], |row| row.get(0))?)
}

/// What a key counts as, by all that was said of it.
pub(super) fn stated(connection: &Connection, key: FactId) -> Result<Stated, Failure> {
    let sql = "SELECT revision, status FROM fleet_fact WHERE subject = ?1";
    let mut query = connection.prepare_cached(sql)?;
    let rows = query.query_map([key.0], |row| {
        let status = columns::parsed(row, "status", KeyStatus::parse)?;
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

/// A fact; `None` where it cannot be read.
fn wire(row: &Row<'_>) -> rusqlite::Result<Option<Fact>> {
    let id: Vec<u8> = row.get("id")?;
    let kind = columns::parsed(row, "kind", Kind::parse)?;
    let host = columns::parsed(row, "host_uuid", |text| HostUuid::parse(text).ok())?;
    let (Some(id), Some(kind), Some(host)) = (id.try_into().ok().map(FactId), kind, host) else {
        return Ok(None);
    };
    Ok(Some(Fact {
        id,
        kind,
        domain: columns::parsed(row, "domain_uuid", |text| DomainUuid::parse(text).ok())?,
        key_id: columns::parsed(row, "key_id", KeyId::parse)?,
        host,
        at: Timestamp(row.get("at")?),
        body: row.get("body")?,
    }))
}
