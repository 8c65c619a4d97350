//! Where guests run, as each host has said last.

use rusqlite::{Connection, Row, Transaction, params};

use super::super::error::Failure;
use super::super::{Store, StoreError, columns};
use super::membership::membership;
use super::outbox;
use crate::clock::Timestamp;
use crate::fleet::claim::PlacementClaim;
use crate::ids::{DomainUuid, HostUuid};

/// Where a guest is, as a host has said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRow {
    /// What the host said.
    pub placement: PlacementClaim,
    /// Whether it is this host.
    pub is_own: bool,
}

impl Store {
    /// Records that a guest runs on this host since this time, or has stopped here, and that the fleet is to be
    /// told. Nothing, where this host is in no fleet.
    pub fn note_placement(
        &mut self,
        domain: DomainUuid,
        name: &str,
        running: bool,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if self.membership()?.is_none() {
            return Ok(());
        }
        self.write(|transaction| {
            let Some(own) = membership(transaction)? else {
                return Ok(());
            };
            // A clock that was set back does not undo what this host did before.
            let before = select(transaction, "domain_uuid = ?1", [domain.to_string()])?;
            let before = before.iter().find(|it| it.is_own).map(|it| it.placement.at);
            let at = Timestamp(before.map_or(at.0, |before| at.0.max(before.saturating_add(1))));
            put(
                transaction,
                &PlacementClaim {
                    domain,
                    name: name.to_owned(),
                    host: own.host,
                    host_name: own.name,
                    at: at.0,
                    running,
                },
            )?;
            outbox::note(transaction, domain, None)
        })
    }

    /// What each host said last of a guest, the newest first.
    pub fn placements(&self, domain: DomainUuid) -> Result<Vec<PlacementRow>, StoreError> {
        let domain = domain.to_string();
        self.read(|connection| select(connection, "domain_uuid = ?1", [domain]))
    }

    /// Whether another host says that it has begun or ended a run of this guest after this time. `true` also where
    /// that cannot be read: what is older is not restored by itself then.
    #[must_use]
    pub fn has_run_elsewhere_since(&self, domain: DomainUuid, at: Timestamp) -> bool {
        let is_said = self.is_said_since(domain, at, |it| !it.is_own);
        is_said.unwrap_or(true)
    }

    /// Whether this guest may have run after this time, here or on another host.
    #[must_use]
    pub fn may_have_run_since(&self, domain: DomainUuid, at: Timestamp) -> bool {
        self.has_started_since(domain, at) || self.has_run_elsewhere_since(domain, at)
    }

    /// Whether any host, this one too, says that it has begun or ended a run of this guest after this time; likewise
    /// `true` where that cannot be read.
    #[must_use]
    pub fn has_run_noted_since(&self, domain: DomainUuid, at: Timestamp) -> bool {
        self.is_said_since(domain, at, |_| true).unwrap_or(true)
    }

    /// Whether this host has noted something of the guest after this time: it has run here. `false` also where that
    /// cannot be read: what other hosts say counts then.
    #[must_use]
    pub fn has_own_run_since(&self, domain: DomainUuid, at: Timestamp) -> bool {
        let is_said = self.is_said_since(domain, at, |it| it.is_own);
        is_said.unwrap_or(false)
    }

    fn is_said_since(
        &self,
        domain: DomainUuid,
        at: Timestamp,
        counts: impl Fn(&PlacementRow) -> bool,
    ) -> Result<bool, StoreError> {
        let placements = self.placements(domain)?;
        let mut later = placements.iter().filter(|it| it.placement.at > at.0);
        Ok(later.any(counts))
    }

    /// Records that the run of a guest which this host has noted is over. Nothing, if none is.
    pub fn note_end_of_run(
        &mut self,
        domain: DomainUuid,
        name: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let placements = self.placements(domain)?;
        let runs_here = placements
            .iter()
            .any(|it| it.is_own && it.placement.running);
        if runs_here {
            self.note_placement(domain, name, false, at)?;
        }
        Ok(())
    }

    /// What each host said last of every guest, the newest first.
    pub fn all_placements(&self) -> Result<Vec<PlacementRow>, StoreError> {
        self.read(|connection| select(connection, "TRUE", []))
    }
}

fn select(
    connection: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<PlacementRow>, Failure> {
    let sql = format!(
        "SELECT fleet_placement.*, host_uuid = (SELECT host_uuid FROM fleet) AS is_own
         FROM fleet_placement WHERE {condition} ORDER BY at DESC, host_uuid"
    );
    let mut query = connection.prepare(&sql)?;
    let rows = query.query_map(values, row)?;
    Ok(rows
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?)
}

/// A placement; `None` where it cannot be read.
fn row(row: &Row<'_>) -> rusqlite::Result<Option<PlacementRow>> {
    let domain = columns::parsed(row, "domain_uuid", |text| DomainUuid::parse(text).ok())?;
    let host = columns::parsed(row, "host_uuid", |text| HostUuid::parse(text).ok())?;
    let (Some(domain), Some(host)) = (domain, host) else {
        return Ok(None);
    };
    Ok(Some(PlacementRow {
        placement: PlacementClaim {
            domain,
            name: row.get("domain_name")?,
            host,
            host_name: row.get("host_name")?,
            at: row.get("at")?,
            running: row.get("running")?,
        },
        is_own: row.get::<_, Option<bool>>("is_own")?.unwrap_or_default(),
    }))
}

/// Records what a host said, unless it has said something later. Of equal times the one that says "runs" counts:
/// a start that is refused for it can be repeated, two hosts that run one guest cannot be undone.
pub(super) fn put(transaction: &Transaction<'_>, fact: &PlacementClaim) -> Result<(), Failure> {
    transaction.execute(
        "INSERT INTO fleet_placement (domain_uuid, host_uuid, host_name, domain_name, at, running)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (domain_uuid, host_uuid) DO UPDATE
             SET host_name = ?3, domain_name = ?4, at = ?5, running = ?6
             WHERE (?5, ?6) > (at, running)",
        params![
            fact.domain.to_string(),
            fact.host.to_string(),
            fact.host_name,
            fact.name,
            fact.at,
            fact.running
        ],
    )?;
    Ok(())
}
