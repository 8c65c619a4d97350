//! The outbox: what was changed here and the fleet does not know yet, noted in the transaction of the change.
//!
//! It names subjects, not messages: what the fleet is told of one is what is true of it when it is told. So a
//! message that is sent twice, or late, says the same thing. The notes are made by triggers, so that no writer can
//! forget them. They are temporary triggers of this program's own connections: those in the file never run
//! (`connect::distrust_schema`). What another tool writes is found when everything is compared.

use rusqlite::{Connection, Row, Transaction, params};

use super::super::error::Failure;
use super::super::schema::{KEYED, is_uuid};
use super::super::{EventRow, ROWS_AT_ONCE, Store, StoreError, columns, events};
use super::facts;
use crate::fleet::Kind;
use crate::fleet::claim::Claim;
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;

/// A note of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its number. A subject that changes again gets a new note.
    pub seq: i64,
    /// What has changed.
    pub subject: Subject,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A wrapped key of a guest: a row holds it now, or holds it no more, or was retired.
    Key(DomainUuid, WrappedDek),
    /// A row holds this key, perhaps since long ago. If the fleet knows it, that is no news.
    Row(DomainUuid, WrappedDek),
    /// This row of the history.
    Event(i64),
    /// Where this guest is.
    Placement(DomainUuid),
    /// Providers or slots.
    Providers,
    /// What no fact can be made of: a row that cannot be read.
    Unreadable,
}

/// Whether a row (`NEW` or `OLD`) of `key_ref` holds a wrapped key.
fn is_keyed(row: &str) -> String {
    let keyed = KEYED.replace("wrapped_dek", &format!("{row}.wrapped_dek"));
    format!("{row}.resource_type = 'tpm' AND {keyed}")
}

/// Notes the key that a row of `key_ref` holds. No `OR REPLACE`: the statement that fires a trigger would
/// override it.
fn note_key(row: &str) -> String {
    format!(
        "DELETE FROM fleet_outbox WHERE what = 'key' AND domain_uuid = {row}.resource_uuid
             AND wrapped_dek = CAST({row}.wrapped_dek AS BLOB);
         INSERT INTO fleet_outbox (what, domain_uuid, wrapped_dek)
             VALUES ('key', {row}.resource_uuid, CAST({row}.wrapped_dek AS BLOB));"
    )
}

const NOTE_PROVIDERS: &str = "DELETE FROM fleet_outbox WHERE what = 'providers';
     INSERT INTO fleet_outbox (what) VALUES ('providers');";

// The columns that a note of an event leaves empty are named, or each start would look through all such notes.
const NOTE_EVENT: &str = "DELETE FROM fleet_outbox
         WHERE what = 'event' AND domain_uuid = '' AND wrapped_dek = x'' AND event_id = NEW.id;
     INSERT INTO fleet_outbox (what, event_id) VALUES ('event', NEW.id);";

/// The triggers: name, event, condition, what is done.
fn triggers() -> Vec<(String, String, String, String)> {
    let mut all = vec![
        (
            "key_added".to_owned(),
            "AFTER INSERT ON key_ref".to_owned(),
            is_keyed("NEW"),
            note_key("NEW"),
        ),
        (
            "key_changed".to_owned(),
            "AFTER UPDATE OF wrapped_dek, retired_at ON key_ref".to_owned(),
            is_keyed("NEW"),
            note_key("NEW"),
        ),
        (
            "key_replaced".to_owned(),
            "AFTER UPDATE OF wrapped_dek ON key_ref".to_owned(),
            format!(
                "{} AND OLD.wrapped_dek IS NOT NEW.wrapped_dek",
                is_keyed("OLD")
            ),
            note_key("OLD"),
        ),
        (
            "key_deleted".to_owned(),
            "AFTER DELETE ON key_ref".to_owned(),
            is_keyed("OLD"),
            note_key("OLD"),
        ),
    ];
    for what in ["INSERT", "UPDATE"] {
        all.push((
            format!("event_{what}"),
            format!("AFTER {what} ON event"),
            "TRUE".to_owned(),
            NOTE_EVENT.to_owned(),
        ));
    }
    for table in ["key_provider", "kek_slot"] {
        for what in ["INSERT", "UPDATE", "DELETE"] {
            all.push((
                format!("{table}_{what}"),
                format!("AFTER {what} ON {table}"),
                "TRUE".to_owned(),
                NOTE_PROVIDERS.to_owned(),
            ));
        }
    }
    all
}

/// Makes the triggers on this connection, if this host is in a fleet. Others pay for one question.
pub(in crate::store) fn watch(connection: &Connection) -> rusqlite::Result<()> {
    make_triggers(connection, |_| true)
}

/// Makes those of the history alone, for a start that repairs nothing: all of them would cost it more than its own row.
pub(in crate::store) fn watch_history(connection: &Connection) -> rusqlite::Result<()> {
    make_triggers(connection, |name| name.starts_with("event_"))
}

fn make_triggers(
    connection: &Connection,
    is_needed: impl Fn(&str) -> bool,
) -> rusqlite::Result<()> {
    let is_member: bool =
        connection.query_row("SELECT EXISTS (SELECT 1 FROM fleet)", [], |row| row.get(0))?;
    if !is_member {
        return Ok(());
    }
    for (name, event, condition, note) in triggers() {
        if !is_needed(&name) {
            continue;
        }
        connection.execute_batch(&format!(
            "CREATE TEMP TRIGGER IF NOT EXISTS fleet_{name} {event} WHEN {condition} BEGIN {note} END"
        ))?;
    }
    Ok(())
}

/// Removes them, for changes that the fleet has said itself.
pub(in crate::store) fn unwatch(connection: &Connection) -> rusqlite::Result<()> {
    for (name, ..) in triggers() {
        connection.execute_batch(&format!("DROP TRIGGER IF EXISTS temp.fleet_{name}"))?;
    }
    Ok(())
}

/// Notes a key of a guest; without one, where the guest is.
pub(super) fn note(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
    key: Option<&WrappedDek>,
) -> Result<(), Failure> {
    let what = if key.is_some() { "key" } else { "placement" };
    let key = key.map(WrappedDek::as_bytes).unwrap_or_default();
    transaction.execute(
        "INSERT OR REPLACE INTO fleet_outbox (what, domain_uuid, wrapped_dek) VALUES (?1, ?2, ?3)",
        params![what, domain.to_string(), key],
    )?;
    Ok(())
}

/// Notes all keys of a guest that are known, in each form: no row holds any of them now.
pub(in crate::store) fn note_known_keys(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
) -> Result<(), Failure> {
    for fact in facts::about(transaction, domain, Kind::Key)? {
        if let Ok(Claim::Key(key)) = Claim::read(&fact) {
            note(transaction, domain, Some(&key.wrapped))?;
        }
    }
    Ok(())
}

/// Notes the keys of rows. The `+` keeps SQLite from the index by guests, in which each step would go through all rows.
fn note_rows() -> String {
    format!(
        "INSERT OR IGNORE INTO fleet_outbox (what, domain_uuid, wrapped_dek)
         SELECT 'row', resource_uuid, CAST(wrapped_dek AS BLOB) FROM key_ref
         WHERE +resource_type = 'tpm' AND {KEYED}"
    )
}

/// Notes events of this host.
const NOTE_EVENTS: &str =
    "INSERT OR IGNORE INTO fleet_outbox (what, event_id) SELECT 'event', id FROM event WHERE TRUE";

/// Notes where this host has guests.
const NOTE_PLACEMENTS: &str = "INSERT OR IGNORE INTO fleet_outbox (what, domain_uuid)
     SELECT 'placement', domain_uuid FROM fleet_placement
     WHERE host_uuid = (SELECT host_uuid FROM fleet)";

impl Store {
    /// The oldest notes after this one.
    pub fn outbox(&self, after: i64, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT * FROM fleet_outbox WHERE seq > ?2 ORDER BY seq LIMIT ?1";
            let mut query = connection.prepare(sql)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = query.query_map([limit, after], outgoing)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// How many notes there are, and how many TPM states wait.
    pub fn outbox_len(&self) -> Result<usize, StoreError> {
        Ok(self.notes_len()? + self.count("SELECT count(*) FROM fleet_state")?)
    }

    /// How many notes there are.
    pub fn notes_len(&self) -> Result<usize, StoreError> {
        self.count("SELECT count(*) FROM fleet_outbox")
    }

    fn count(&self, sql: &str) -> Result<usize, StoreError> {
        self.read(|connection| {
            let number: i64 = connection.query_row(sql, [], |row| row.get(0))?;
            Ok(usize::try_from(number).unwrap_or_default())
        })
    }

    /// Notes every key and the providers: another tool may have written some, and notes nothing; or the fleet knows
    /// nothing yet of this host.
    pub fn announce_rows(&mut self) -> Result<(), StoreError> {
        self.note_all("key_ref", &note_rows(), i64::MIN)?;
        self.write_quietly(|transaction| {
            let sql = "INSERT OR IGNORE INTO fleet_outbox (what) VALUES ('providers')";
            transaction.execute(sql, [])?;
            Ok(())
        })
    }

    /// Notes that the fleet is to be told of every key and provider again, of where guests are, and
    /// of the history after this event.
    pub fn announce_again(&mut self, after_event: i64) -> Result<(), StoreError> {
        if self.membership()?.is_none() {
            return Ok(());
        }
        self.announce_rows()?;
        let newest = self.read(|connection| {
            let sql = "SELECT max(id) FROM event";
            Ok(connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))?)
        })?;
        let is_of_another_store = newest.is_some_and(|newest| after_event > newest);
        let after = if is_of_another_store {
            i64::MIN
        } else {
            after_event
        };
        self.note_all("event", NOTE_EVENTS, after)?;
        self.note_all("fleet_placement", NOTE_PLACEMENTS, i64::MIN)
    }

    /// Makes notes of the rows of a table after this one, some at a time: a start waits for each transaction. What was
    /// noted before a kill is noted once.
    fn note_all(&mut self, table: &str, insert: &str, after: i64) -> Result<(), StoreError> {
        let last = format!(
            "SELECT max(id) FROM (SELECT rowid AS id FROM {table} WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)"
        );
        let insert = format!("{insert} AND rowid > ?1 AND rowid <= ?2");
        let mut after = after;
        loop {
            let noted = self.write_quietly(|transaction| {
                let at_once = params![after, ROWS_AT_ONCE];
                let last = transaction.query_row(&last, at_once, |row| row.get(0))?;
                if let Some(last) = last {
                    transaction.execute(&insert, [after, last])?;
                }
                Ok(last)
            })?;
            match noted {
                Some(last) => after = last,
                None => return Ok(()),
            }
            Self::let_others_in();
        }
    }

    /// A row of the history; `None` if it is not there any more.
    pub fn event(&self, id: i64) -> Result<Option<EventRow>, StoreError> {
        self.read(|connection| events::by_id(connection, id))
    }

    /// Whether rows of the guest hold this key: of those in use and of those that are retired one each.
    pub fn key_rows_of(
        &self,
        domain: DomainUuid,
        wrapped: &WrappedDek,
    ) -> Result<Vec<super::super::KeyRefRecord>, StoreError> {
        let of_domain = is_uuid("resource_uuid", "?1");
        let condition = format!("resource_type = 'tpm' AND {of_domain} AND wrapped_dek = ?2");
        let values = params![domain.to_string(), wrapped.as_bytes()];
        self.read(|connection| super::super::key_rows::select(connection, &condition, values))
    }
}

fn outgoing(row: &Row<'_>) -> rusqlite::Result<Outgoing> {
    let domain = columns::parsed(row, "domain_uuid", |text| DomainUuid::parse(text).ok())?;
    let what: String = row.get("what")?;
    let subject = match (what.as_str(), domain) {
        ("key" | "row", Some(domain)) => {
            let wrapped = columns::bytes(row, "wrapped_dek")?.map(WrappedDek::from_stored);
            match (what.as_str(), wrapped) {
                ("key", Some(wrapped)) => Subject::Key(domain, wrapped),
                (_, Some(wrapped)) => Subject::Row(domain, wrapped),
                (_, None) => Subject::Unreadable,
            }
        }
        ("event", _) => Subject::Event(row.get("event_id")?),
        ("placement", Some(domain)) => Subject::Placement(domain),
        ("providers", _) => Subject::Providers,
        _ => Subject::Unreadable,
    };
    Ok(Outgoing {
        seq: row.get("seq")?,
        subject,
    })
}
