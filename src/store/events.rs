//! The history: one event for each decision and each change of an administrator's.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, Transaction, params};

use super::error::Failure;
use super::{Origin, Store, StoreError, columns};
use crate::clock::Timestamp;
use crate::host::text::beginning;
use crate::ids::DomainUuid;
use crate::verdict::code::Code;

/// A decision or a change to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub at: Timestamp,
    /// The guest's UUID.
    pub domain_uuid: DomainUuid,
    /// The guest's name.
    pub domain_name: String,
    /// What asked for it.
    pub origin: Origin,
    /// The code of a refusal; `None` where nothing was refused.
    pub code: Option<Code>,
    /// The sentence.
    pub message: String,
    /// The repairs as a JSON list.
    pub repairs_json: String,
}

impl Event {
    /// An event that refuses nothing and repairs nothing.
    #[must_use]
    pub fn new(
        at: Timestamp,
        origin: Origin,
        domain_uuid: DomainUuid,
        domain_name: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            at,
            domain_uuid,
            domain_name: domain_name.into(),
            origin,
            code: None,
            message: message.into(),
            repairs_json: "[]".to_owned(),
        }
    }

    fn decision(&self) -> &'static str {
        self.code.map_or("allow", |_| "deny")
    }
}

/// A row of the history. Other tools and other versions write rows too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its primary key: the higher, the later it was written.
    pub id: i64,
    /// When it happened.
    pub at: Timestamp,
    /// The guest's UUID.
    pub domain_uuid: DomainUuid,
    /// The guest's name.
    pub domain_name: String,
    /// What asked for it: an [`Origin`] where this version wrote the row, else any text.
    pub operation: String,
    /// Whether it was allowed.
    pub allowed: bool,
    /// The code of a refusal, if this version knows it.
    pub code: Option<Code>,
    /// The sentence.
    pub message: String,
    /// The repairs as a JSON list; other tools may write anything there.
    pub repairs_json: String,
}

/// The longest sentence of an event, in bytes: some lines.
pub const MAX_MESSAGE: usize = 4096;

/// How many events are kept; beyond that, each new one deletes the oldest. Every start writes
/// one, so without a limit the store would grow for ever.
pub(super) const EVENTS_KEPT: i64 = 100_000;

/// Which guests' events to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFilter<'a> {
    /// All events.
    All,
    /// Those of this guest.
    Domain(DomainUuid),
    /// Those of all guests with this name, from the time when they had it.
    Name(&'a str),
    /// Likewise, and all other events of guests with this name now: those that had it last, and
    /// the guest of this UUID.
    Guest(&'a str, Option<DomainUuid>),
}

/// Which events to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventQuery<'a> {
    /// Of which guests.
    pub whose: EventFilter<'a>,
    /// Only refusals with this code.
    pub code: Option<Code>,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// Only at or before this time.
    pub until: Option<Timestamp>,
}

/// The events of [`EventFilter::Guest`]: a guest whose newest event has the name had it last.
const OF_GUEST: &str = "(domain_name = ?1 OR domain_uuid = ?5 OR domain_uuid IN
    (SELECT domain_uuid FROM event AS named
     WHERE domain_name = ?1
       AND NOT EXISTS (SELECT 1 FROM event AS later
                       WHERE later.domain_uuid = named.domain_uuid
                         AND (later.at, later.id) > (named.at, named.id))))";

impl<'a> From<EventFilter<'a>> for EventQuery<'a> {
    fn from(whose: EventFilter<'a>) -> Self {
        Self {
            whose,
            code: None,
            since: None,
            until: None,
        }
    }
}

impl Store {
    /// Records an event that is none of a start, in a row of its own.
    pub fn record_event(&mut self, event: &Event) -> Result<(), StoreError> {
        self.write_history(|transaction| insert(transaction, event))
    }

    /// Records a verdict on a start, or what became of it: one start is one row, which guest and time
    /// identify, with the repairs of all its events. A row that says already that the start was
    /// refused keeps saying so. A verdict with repairs is recorded with them by `apply`.
    pub fn record_start(&mut self, event: &Event) -> Result<(), StoreError> {
        self.write_history(|transaction| record_start(transaction, event))
    }

    /// The newest events, newest first. A row without the UUID of a guest is left out.
    pub fn history<'a>(
        &self,
        query: impl Into<EventQuery<'a>>,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let query: EventQuery<'_> = query.into();
        let (condition, name, uuid) = match query.whose {
            EventFilter::All => ("?1 IS NULL AND ?5 IS NULL", None, None),
            EventFilter::Domain(uuid) => ("?1 IS NULL AND domain_uuid = ?5", None, Some(uuid)),
            EventFilter::Name(name) => ("domain_name = ?1 AND ?5 IS NULL", Some(name), None),
            EventFilter::Guest(name, uuid) => (OF_GUEST, Some(name), uuid),
        };
        let uuid = uuid.map(|uuid| uuid.to_string());
        let sql = format!(
            "SELECT * FROM event
             WHERE {condition}
               AND (?2 IS NULL OR code = ?2)
               AND (?3 IS NULL OR at >= ?3)
               AND (?4 IS NULL OR at <= ?4)
             ORDER BY at DESC, id DESC"
        );
        let (since, until) = (query.since.map(|at| at.0), query.until.map(|at| at.0));
        self.read(|connection| {
            let mut select = connection.prepare(&sql)?;
            let values = params![name, query.code.map(Code::as_str), since, until, uuid];
            let rows = select.query_map(values, event_row)?;
            Ok(rows
                .filter_map(Result::transpose)
                .take(limit)
                .collect::<Result<_, _>>()?)
        })
    }

    /// When the last start of each guest was allowed, as far back as the history goes.
    pub fn last_starts(&self) -> Result<BTreeMap<DomainUuid, Timestamp>, StoreError> {
        self.read(|connection| {
            // The `+` keeps SQLite from the index by guests, for whose order it would fetch each event by itself.
            let mut query = connection.prepare(
                "SELECT domain_uuid, max(at) AS at FROM event
                 WHERE operation = 'prepare' AND decision = 'allow' GROUP BY +domain_uuid",
            )?;
            let mut rows = query.query([])?;
            let mut last = BTreeMap::new();
            while let Some(found) = rows.next()? {
                let uuid =
                    columns::parsed(found, "domain_uuid", |text| DomainUuid::parse(text).ok())?;
                if let (Some(uuid), Some(at)) = (uuid, columns::time(found, "at")?) {
                    last.insert(uuid, at);
                }
            }
            Ok(last)
        })
    }

    /// Whether a start of this guest was allowed after this time, and is not known to have failed.
    /// `true` also where the history cannot be read: what is older is not restored by itself then.
    #[must_use]
    pub fn has_started_since(&self, domain: DomainUuid, at: Timestamp) -> bool {
        let found = self.read(|connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM event WHERE domain_uuid = ?1 AND at > ?2
                           AND operation = 'prepare' AND decision = 'allow')";
            Ok(connection.query_row(sql, params![domain.to_string(), at.0], |row| row.get(0))?)
        });
        found.unwrap_or(true)
    }

    /// When this guest was last started or changed, as far back as the history goes. That what is left of it is
    /// being pruned is no change: a `key prune` that ended halfway is completed by the next one.
    pub fn last_change(&self, domain: DomainUuid) -> Result<Option<Timestamp>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT max(at) AS at FROM event WHERE domain_uuid = ?1 AND operation <> ?2";
            let values = params![domain.to_string(), Origin::Prune.as_str()];
            let mut query = connection.prepare_cached(sql)?;
            Ok(query.query_row(values, |row| columns::time(row, "at"))?)
        })
    }

    /// The number of the event that was recorded last, of this guest or of all; 0 where there is none. Times are those of when
    /// a start began, and of any clock: they do not tell.
    pub fn last_event(&self, domain: Option<DomainUuid>) -> Result<i64, StoreError> {
        let domain = domain.map(|domain| domain.to_string());
        self.read(|connection| {
            let sql = "SELECT coalesce(max(id), 0) FROM event WHERE ?1 IS NULL OR domain_uuid = ?1";
            Ok(connection.query_row(sql, [domain], |row| row.get(0))?)
        })
    }

    /// The guest that had this name last, as far back as the history goes.
    pub fn domain_uuid_by_name(&self, name: &str) -> Result<Option<DomainUuid>, StoreError> {
        let newest = self.history(EventFilter::Name(name), 1)?;
        Ok(newest.first().map(|row| row.domain_uuid))
    }
}

/// The event of this number.
pub(super) fn by_id(connection: &Connection, id: i64) -> Result<Option<EventRow>, Failure> {
    let mut query = connection.prepare("SELECT * FROM event WHERE id = ?1")?;
    let mut rows = query.query_map([id], event_row)?;
    Ok(rows.next().transpose()?.flatten())
}

/// The name that a guest had last, as far back as the history goes.
pub(super) fn last_name(
    connection: &Connection,
    domain: DomainUuid,
) -> Result<Option<String>, Failure> {
    let mut query = connection.prepare_cached(
        "SELECT domain_name FROM event WHERE domain_uuid = ?1 ORDER BY at DESC, id DESC LIMIT 1",
    )?;
    let mut rows = query.query([domain.to_string()])?;
    match rows.next()? {
        Some(found) => Ok(columns::full_text(found, "domain_name")?),
        None => Ok(None),
    }
}

/// Records an event of a start, in the start's row.
pub(super) fn record_start(transaction: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
    let Some(row) = StartRow::of(transaction, event)? else {
        return insert(transaction, event);
    };
    if row.is_allowed {
        transaction.execute(
            "UPDATE event SET operation = ?2, decision = ?3, code = ?4, message = ?5
             WHERE id = ?1",
            params![
                row.id,
                event.origin.as_str(),
                event.decision(),
                event.code.map(Code::as_str),
                beginning(&event.message, MAX_MESSAGE),
            ],
        )?;
    }
    transaction.execute(
        "UPDATE event SET repairs = ?2 WHERE id = ?1",
        params![row.id, both(&row.repairs_json, &event.repairs_json)],
    )?;
    Ok(())
}

/// The row that the history has of a start.
struct StartRow {
    id: i64,
    is_allowed: bool,
    repairs_json: String,
}

impl StartRow {
    /// The row of the start that an event is about.
    fn of(transaction: &Transaction<'_>, event: &Event) -> Result<Option<Self>, Failure> {
        let mut query = transaction.prepare(
            "SELECT id, decision = 'allow' AS is_allowed, repairs FROM event
             WHERE domain_uuid = ?1 AND at = ?2 AND operation IN (?3, ?4)
             ORDER BY id DESC LIMIT 1",
        )?;
        let domain = event.domain_uuid.to_string();
        let (start, own) = (Origin::Prepare.as_str(), event.origin.as_str());
        let mut rows = query.query(params![domain, event.at.0, start, own])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            id: row.get("id")?,
            is_allowed: row.get("is_allowed")?,
            repairs_json: columns::full_text(row, "repairs")?.unwrap_or_default(),
        }))
    }
}

/// Both lists of repairs in one. What is no list, by another tool, counts as none.
fn both(earlier: &str, later: &str) -> String {
    let list = |json| serde_json::from_str::<Vec<serde_json::Value>>(json).unwrap_or_default();
    let (mut all, later) = (list(earlier), list(later));
    all.extend(later);
    serde_json::Value::from(all).to_string()
}

pub(super) fn insert(transaction: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
    transaction.execute(
        "INSERT INTO event
             (at, domain_uuid, domain_name, operation, decision, code, message, repairs)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            event.at.0,
            event.domain_uuid.to_string(),
            event.domain_name,
            event.origin.as_str(),
            event.decision(),
            event.code.map(Code::as_str),
            beginning(&event.message, MAX_MESSAGE),
            event.repairs_json,
        ],
    )?;
    delete_oldest(transaction, transaction.last_insert_rowid())
}

/// Deletes at most two events: enough to limit their number, and too few to lose the history
/// because of one row that another program wrote with a huge id.
fn delete_oldest(transaction: &Transaction<'_>, newest: i64) -> Result<(), Failure> {
    transaction.execute(
        "DELETE FROM event WHERE id IN
             (SELECT id FROM event WHERE id <= ?1 ORDER BY id LIMIT 2)",
        [newest.saturating_sub(EVENTS_KEPT)],
    )?;
    Ok(())
}

fn event_row(row: &Row<'_>) -> rusqlite::Result<Option<EventRow>> {
    let Some(domain_uuid) =
        columns::parsed(row, "domain_uuid", |text| DomainUuid::parse(text).ok())?
    else {
        return Ok(None);
    };
    Ok(Some(EventRow {
        id: row.get("id")?,
        at: columns::time(row, "at")?.unwrap_or(Timestamp(0)),
        domain_uuid,
        domain_name: columns::text(row, "domain_name")?.unwrap_or_default(),
        operation: columns::text(row, "operation")?.unwrap_or_default(),
        allowed: columns::text(row, "decision")?.as_deref() == Some("allow"),
        code: columns::parsed(row, "code", Code::parse)?,
        message: columns::text(row, "message")?.unwrap_or_default(),
        repairs_json: columns::full_text(row, "repairs")?.unwrap_or_else(|| "[]".to_owned()),
    }))
}
