//! `store check`: whether the file is whole, the schema is the known one, and every row can be
//! read.

use std::collections::BTreeMap;
use std::fmt;

use rusqlite::{Connection, ErrorCode};

use super::error::Failure;
use super::schema::{self, MIGRATIONS, Migration};
use super::{Store, StoreError, columns};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;

/// A problem that `store check` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFinding {
    /// What SQLite's integrity check reports.
    Damaged(String),
    /// A table or index of the schema is missing.
    SchemaMissing(String),
    /// A table or index differs from what this program creates.
    SchemaDiffers(String),
    /// A table, index, view or trigger that another program made.
    SchemaForeign(String),
    /// Rows of this table refer to missing rows.
    Dangling {
        /// The table.
        table: String,
        /// How many rows.
        rows: i64,
    },
    /// A provider's row cannot be read, so nothing can be bound to it.
    ProviderUnreadable {
        /// Its name.
        name: String,
        /// The column.
        column: &'static str,
    },
    /// A column of a key reference cannot be read, so it counts as missing.
    KeyRefUnreadable {
        /// The row.
        key_ref: KeyRefId,
        /// The column.
        column: &'static str,
    },
    /// A key reference in use names no provider of this host, neither by UUID nor by name.
    ProviderUnknown {
        /// The row.
        key_ref: KeyRefId,
        /// The name that it gives its provider.
        provider: String,
    },
}

impl StoreFinding {
    /// What findings have in common that are alike: all key references without a provider of one name, say.
    fn group(&self) -> (u8, &str) {
        match self {
            Self::Damaged(_) => (0, ""),
            Self::SchemaMissing(name) => (1, name),
            Self::SchemaDiffers(name) => (2, name),
            Self::SchemaForeign(_) => (3, ""),
            Self::Dangling { table, .. } => (4, table),
            Self::ProviderUnreadable { column, .. } => (5, column),
            Self::KeyRefUnreadable { column, .. } => (6, column),
            Self::ProviderUnknown { provider, .. } => (7, provider),
        }
    }

    /// Whether the file itself is damaged, not only a row.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::SchemaMissing(_))
    }
}

/// Findings that are alike: for people, who cannot use a line for each of a hundred thousand rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlikeFindings {
    /// The first, at most so many as were asked for.
    pub first: Vec<StoreFinding>,
    /// How many there are beside those.
    pub others: usize,
}

impl AlikeFindings {
    /// The groups of these findings, in the order of their first ones.
    #[must_use]
    pub fn of<'a>(findings: impl IntoIterator<Item = &'a StoreFinding>, most: usize) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        let mut known = BTreeMap::new();
        for finding in findings {
            let at = *known.entry(finding.group()).or_insert(groups.len());
            if at == groups.len() {
                let (first, others) = (Vec::new(), 0);
                groups.push(Self { first, others });
            }
            let group = &mut groups[at];
            if group.first.len() < most {
                group.first.push(finding.clone());
            } else {
                group.others += 1;
            }
        }
        groups
    }
}

impl fmt::Display for StoreFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(detail) => write!(f, "the file is damaged: {detail}"),
            Self::SchemaMissing(name) => write!(f, "{name} is missing"),
            Self::SchemaDiffers(name) => write!(f, "{name} differs from what this program creates"),
            Self::SchemaForeign(name) => write!(f, "{name} was not created by this program"),
            Self::Dangling { table, rows: 1 } => {
                write!(f, "1 row of {table} refers to a row that is not there")
            }
            Self::Dangling { table, rows } => {
                write!(f, "{rows} rows of {table} refer to rows that are not there")
            }
            Self::ProviderUnreadable { name, column } => {
                write!(
                    f,
                    "provider \"{name}\": its {column} cannot be read; importing a provider under \
                     this name replaces it"
                )
            }
            Self::KeyRefUnreadable { key_ref, column } => {
                write!(f, "key reference {key_ref}: its {column} cannot be read")
            }
            Self::ProviderUnknown { key_ref, provider } => {
                write!(
                    f,
                    "key reference {key_ref}: provider \"{provider}\" not found"
                )
            }
        }
    }
}

impl Store {
    /// Checks the whole store. The time it takes grows with the number of rows.
    pub fn check(&self) -> Result<Vec<StoreFinding>, StoreError> {
        let look = |look: fn(&Connection) -> Result<Vec<StoreFinding>, Failure>| {
            match self.read(|connection| look(connection)) {
                // Damage that stops a check is a finding, not a failure of the check.
                Err(StoreError::Corrupt { detail, .. }) => Ok(vec![StoreFinding::Damaged(detail)]),
                other => other,
            }
        };
        let checks = [damage, differences, dangling, providers, key_refs];
        let findings = checks
            .into_iter()
            .map(look)
            .collect::<Result<Vec<_>, _>>()?;
        let mut findings = findings.concat();
        findings.dedup();
        Ok(findings)
    }
}

/// What SQLite's own integrity check reports; nothing if the file is whole.
pub(super) fn damage(connection: &Connection) -> Result<Vec<StoreFinding>, Failure> {
    let mut query = connection.prepare("PRAGMA integrity_check")?;
    let lines = query.query_map([], |row| row.get::<_, String>(0))?;
    let lines = match lines.collect::<Result<Vec<_>, _>>() {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            vec![error.to_string()]
        }
        lines => lines?,
    };
    let reports = lines.into_iter().filter(|line| line != "ok");
    Ok(reports.map(StoreFinding::Damaged).collect())
}

/// Compares the schema with the one that this program creates: with that of its own version, as it may be older and is
/// read as it is. What another tool made and this program has not adopted yet lacks what the next change adds.
fn differences(connection: &Connection) -> Result<Vec<StoreFinding>, Failure> {
    let own_version = schema::own_version(connection)?;
    let model = Connection::open_in_memory()?;
    let is_done = |step: &&Migration| own_version.is_none_or(|version| step.version <= version);
    for step in MIGRATIONS.iter().filter(is_done) {
        model.execute_batch(step.sql)?;
    }
    let mut found = objects(connection)?;
    let mut findings = Vec::new();
    for (name, sql) in objects(&model)? {
        match found.remove(&name) {
            None if own_version.is_none() => {}
            None => findings.push(StoreFinding::SchemaMissing(name)),
            Some(other) if other != sql => findings.push(StoreFinding::SchemaDiffers(name)),
            Some(_) => {}
        }
    }
    findings.extend(found.into_keys().map(StoreFinding::SchemaForeign));
    Ok(findings)
}

/// The schema's objects (`table key_ref`) and the SQL that makes them, with normalised white space.
fn objects(connection: &Connection) -> Result<BTreeMap<String, String>, Failure> {
    let mut query = connection.prepare(
        "SELECT type || ' ' || name, sql FROM sqlite_schema
         WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let normalised = |sql: String| sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let rows = query.query_map([], |row| Ok((row.get(0)?, normalised(row.get(1)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn dangling(connection: &Connection) -> Result<Vec<StoreFinding>, Failure> {
    let mut query = connection.prepare(
        "SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1 ORDER BY 1",
    )?;
    let rows = query.query_map([], |row| {
        Ok(StoreFinding::Dangling {
            table: row.get(0)?,
            rows: row.get(1)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn providers(connection: &Connection) -> Result<Vec<StoreFinding>, Failure> {
    let mut query =
        connection.prepare("SELECT name, uuid, key_id FROM key_provider ORDER BY name")?;
    let mut rows = query.query([])?;
    let mut findings = Vec::new();
    while let Some(provider) = rows.next()? {
        let name = columns::text(provider, "name")?.unwrap_or_default();
        let uuid = columns::parsed(provider, "uuid", |text| ProviderUuid::parse(text).ok())?;
        let key_id = columns::parsed(provider, "key_id", KeyId::parse)?;
        for (column, is_readable) in [("uuid", uuid.is_some()), ("key_id", key_id.is_some())] {
            if !is_readable {
                let name = name.clone();
                findings.push(StoreFinding::ProviderUnreadable { name, column });
            }
        }
    }
    Ok(findings)
}

fn key_refs(connection: &Connection) -> Result<Vec<StoreFinding>, Failure> {
    let live = schema::LIVE;
    let sql = format!(
        "SELECT id, resource_uuid, secret_uuid, provider_uuid, provider_name,
                {live} AND NOT EXISTS (SELECT 1 FROM key_provider AS provider
                                       WHERE provider.uuid = key_ref.provider_uuid
                                          OR provider.name = key_ref.provider_name) AS is_lost
         FROM key_ref WHERE resource_type = 'tpm' ORDER BY id"
    );
    let mut query = connection.prepare(&sql)?;
    let mut rows = query.query([])?;
    let mut findings = Vec::new();
    while let Some(found) = rows.next()? {
        let key_ref = KeyRefId(found.get("id")?);
        let readable = |column, parse: fn(&str) -> bool| -> rusqlite::Result<bool> {
            Ok(columns::full_text(found, column)?.is_none_or(|text| parse(&text)))
        };
        let columns = [
            (
                "resource_uuid",
                readable("resource_uuid", |text| DomainUuid::parse(text).is_ok())?,
            ),
            (
                "secret_uuid",
                readable("secret_uuid", |text| SecretUuid::parse(text).is_ok())?,
            ),
            (
                "provider_uuid",
                readable("provider_uuid", |text| ProviderUuid::parse(text).is_ok())?,
            ),
        ];
        for (column, _) in columns.into_iter().filter(|(_, is_readable)| !is_readable) {
            findings.push(StoreFinding::KeyRefUnreadable { key_ref, column });
        }
        if found.get("is_lost")? {
            let provider = columns::text(found, "provider_name")?.unwrap_or_default();
            findings.push(StoreFinding::ProviderUnknown { key_ref, provider });
        }
    }
    Ok(findings)
}
