//! The schema: its tables, the version that this program knows, and how a database is identified
//! and migrated to it.

use rusqlite::{Connection, Transaction};

use super::error::{Failure, StoreError, UnavailableReason};

/// `PRAGMA application_id` of a store: "vTPM" in ASCII.
pub(super) const APPLICATION_ID: i64 = 0x7654_504D;

/// One step forward: the schema version that it leads to, and the SQL that leads there.
pub(super) struct Migration {
    pub(super) version: i64,
    pub(super) sql: &'static str,
}

/// Every step from an empty database to the current schema. A released step is never edited; a
/// change of the schema is a new step.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        sql: include_str!("schema_v1.sql"),
    },
    Migration {
        version: 2,
        sql: include_str!("schema_v2.sql"),
    },
    Migration {
        version: 3,
        sql: include_str!("schema_v3.sql"),
    },
    Migration {
        version: 4,
        sql: include_str!("schema_v4.sql"),
    },
    Migration {
        version: 5,
        sql: include_str!("schema_v5.sql"),
    },
];

/// The newest schema version that this program knows.
pub(super) const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The tables that other tools know. They identify a store without this program's
/// `application_id`, which another tool made.
const SHARED_TABLES: &str = "'key_provider', 'key_ref', 'event'";

/// The rows that a start reads.
pub(super) const LIVE: &str = "resource_type = 'tpm' AND retired_at IS NULL";
/// The rows that hold a wrapped DEK: an empty one, or a number, counts as missing, as it does
/// in [`super::columns::bytes`]. The length in bytes, because that of a text ends at its first NUL.
pub(super) const KEYED: &str =
    "(typeof(wrapped_dek) IN ('blob', 'text') AND length(CAST(wrapped_dek AS BLOB)) > 0)";
/// The rows that do not hold one.
pub(super) const PLACEHOLDER: &str =
    "NOT (typeof(wrapped_dek) IN ('blob', 'text') AND length(CAST(wrapped_dek AS BLOB)) > 0)";

/// Whether a column holds the UUID of a parameter (`?1`), which is in lower case and with
/// hyphens, in any spelling that is read: other tools write upper case, or omit the hyphens,
/// and their tables may compare case-sensitively. It can use an index.
pub(super) fn is_uuid(column: &str, parameter: &str) -> String {
    format!("{column} COLLATE NOCASE IN ({parameter}, replace({parameter}, '-', ''))")
}

/// The UUID of the provider that a parameter (`?1`) names, as the provider's own row spells it, or else a foreign
/// key would not match. NULL where there is no such provider, as if it had just been deleted.
pub(super) fn provider_uuid(parameter: &str) -> String {
    format!(
        "(SELECT uuid FROM key_provider WHERE {})",
        is_uuid("uuid", parameter)
    )
}

/// What kind of database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// No tables at all: not a store yet. A creation that was killed leaves this.
    Empty,
    /// A store that this program made, of this schema version.
    Ours(i64),
    /// A store that another tool made: the shared tables, perhaps without this program's own, and
    /// a schema version, perhaps 0.
    Adoptable(i64),
}

/// The schema version of a store that this program made or adopted; `None` if another tool made it.
pub(super) fn own_version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let is_own = pragma(connection, "application_id")? == APPLICATION_ID;
    is_own
        .then(|| pragma(connection, "user_version"))
        .transpose()
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Identifies a database. One of another program, or with a newer schema, is an error.
pub(super) fn identify(
    connection: &Connection,
    path: &std::path::Path,
) -> Result<Identity, Failure> {
    let application_id = pragma(connection, "application_id")?;
    let version = pragma(connection, "user_version")?;
    let identity = if application_id == APPLICATION_ID {
        Identity::Ours(version)
    } else {
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE type = 'table' AND name IN ({SHARED_TABLES}))
             FROM sqlite_schema"
        );
        let (objects, shared): (i64, i64) =
            connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        match (application_id, objects, shared) {
            (0, 0, _) => Identity::Empty,
            (0, _, 3) => Identity::Adoptable(version),
            _ => return Err(StoreError::unavailable(path, UnavailableReason::NotAStore).into()),
        }
    };
    match identity {
        Identity::Ours(found) | Identity::Adoptable(found) if found > KNOWN => {
            Err(StoreError::TooNew {
                found,
                known: KNOWN,
            }
            .into())
        }
        identity => Ok(identity),
    }
}

/// Migrates a database to the last of `migrations`, inside a transaction of the caller's.
pub(super) fn migrate(
    transaction: &Transaction<'_>,
    identity: Identity,
    migrations: &[Migration],
) -> Result<(), Failure> {
    let is_due = |step: &&Migration| match identity {
        Identity::Ours(version) => step.version > version,
        // A step creates only what is missing: another tool may have left out indexes, and tables
        // that it does not know.
        Identity::Empty | Identity::Adoptable(_) => true,
    };
    for step in migrations.iter().filter(is_due) {
        transaction.execute_batch(step.sql)?;
        transaction.pragma_update(None, "user_version", step.version)?;
    }
    if !matches!(identity, Identity::Ours(_)) {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    Ok(())
}

/// The tables that an older store may lack, beside those of a fleet, and their columns.
const LATER_TABLES: &[(&str, &str)] = &[
    (
        "arriving",
        "domain_uuid TEXT, domain_name TEXT, operation TEXT, daemon TEXT, at INTEGER",
    ),
    (
        "seen_state",
        "domain_uuid TEXT, domain_name TEXT, secret_uuid TEXT, path TEXT, at INTEGER",
    ),
    ("clients_key", "domain_uuid TEXT, at INTEGER"),
    (
        "written_key",
        "domain_uuid TEXT, wrapped_dek BLOB, at INTEGER",
    ),
    (
        "kek_slot",
        "slot_uuid TEXT, key_id TEXT, kind TEXT, label TEXT, kms TEXT, remote_key TEXT,
         remote_version TEXT, blob BLOB, verified_at INTEGER, created_at INTEGER",
    ),
];

/// For reading a store that is older, or that another tool made, without a migration: gives this
/// connection empty temporary tables in place of the missing ones.
pub(super) fn stand_in_tables(connection: &Connection) -> rusqlite::Result<()> {
    for (table, columns) in later_tables() {
        let there: bool = connection.query_row(
            "SELECT count(*) > 0 FROM sqlite_schema WHERE name = ?1",
            [table],
            |row| row.get(0),
        )?;
        // A temporary table hides one of the database that has the same name.
        if !there {
            connection.execute_batch(&format!("CREATE TEMP TABLE {table} ({columns})"))?;
        }
    }
    Ok(())
}

/// Before a migration makes the tables that they stood for, which they would hide.
pub(super) fn drop_stand_ins(connection: &Connection) -> rusqlite::Result<()> {
    for (table, _) in later_tables() {
        connection.execute_batch(&format!("DROP TABLE IF EXISTS temp.{table}"))?;
    }
    Ok(())
}

fn later_tables() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    LATER_TABLES.iter().chain(super::fleet::TABLES)
}
