//! The rows of `key_provider`: what reads and writes them one by one.
//!
//! A provider's previous KEK stays on the host as a provider of its own, `NAME/KEY` (`KEY`: the
//! first eight digits of its key id; nobody can give a provider such a name).

use rusqlite::{Connection, Row, Transaction, params};

use super::error::Failure;
use super::key_rows::exactly_one;
use super::schema::is_uuid;
use super::{StoreError, columns, slots};
use crate::clock::Timestamp;
use crate::ids::ProviderUuid;
use crate::key::id::KeyId;
use crate::verdict::facts::{KmsSlots, Provider};

/// The name under which a previous KEK of the provider `name` is kept.
#[must_use]
pub fn previous_key_name(name: &str, key_id: KeyId) -> String {
    format!("{name}/{}", key_id.short())
}

/// Records when a provider's KEK was written to a recovery file.
pub(super) fn set_exported(
    transaction: &Transaction<'_>,
    provider: ProviderUuid,
    at: Timestamp,
    now: Timestamp,
) -> Result<(), Failure> {
    let is_it = is_uuid("uuid", "?1");
    let sql =
        format!("UPDATE OR ABORT key_provider SET exported_at = ?2, updated_at = ?3 WHERE {is_it}");
    exactly_one(transaction.execute(&sql, params![provider.to_string(), at.0, now.0])?)
}

/// All providers that can be read, by name.
pub(super) fn all(connection: &Connection) -> Result<Vec<Provider>, Failure> {
    let mut query = connection.prepare(
        "SELECT uuid, name, key_id, key_version, is_default, exported_at, created_at
         FROM key_provider ORDER BY name",
    )?;
    let rows = query.query_map([], provider)?;
    let mut providers = rows
        .filter_map(Result::transpose)
        .collect::<Result<Vec<_>, _>>()?;
    let slots = slots::by_key(connection)?;
    for provider in &mut providers {
        // Cloned: two providers may have the same KEK.
        provider.kms = slots.get(&provider.key_id).cloned().unwrap_or_default();
    }
    Ok(providers)
}

/// A provider; `None` where its UUID or its key id cannot be read.
fn provider(row: &Row<'_>) -> rusqlite::Result<Option<Provider>> {
    let name = columns::text(row, "name")?.unwrap_or_default();
    let uuid = columns::parsed(row, "uuid", |text| ProviderUuid::parse(text).ok())?;
    let key_id = columns::parsed(row, "key_id", KeyId::parse)?;
    let (Some(uuid), Some(key_id)) = (uuid, key_id) else {
        tracing::warn!(
            provider = name,
            "a provider in the store is ignored: its UUID or its key ID cannot be read"
        );
        return Ok(None);
    };
    Ok(Some(Provider {
        uuid,
        name,
        key_id,
        key_version: columns::integer(row, "key_version")?.unwrap_or(1),
        is_default: columns::integer(row, "is_default")?.unwrap_or(0) != 0,
        exported_at: columns::time(row, "exported_at")?,
        created_at: columns::time(row, "created_at")?.unwrap_or(Timestamp(0)),
        kms: KmsSlots::default(),
    }))
}

/// The provider of this UUID.
pub(super) fn by_uuid(connection: &Connection, uuid: ProviderUuid) -> Result<Provider, Failure> {
    let found = all(connection)?.into_iter().find(|it| it.uuid == uuid);
    found.ok_or_else(|| StoreError::NoProvider(uuid.to_string()).into())
}

/// `Changed` if the provider has another KEK or name by now.
pub(super) fn as_seen(connection: &Connection, seen: &Provider) -> Result<(), Failure> {
    let now = by_uuid(connection, seen.uuid)?;
    if (now.key_id, &now.name) != (seen.key_id, &seen.name) {
        return Err(StoreError::Changed.into());
    }
    Ok(())
}

/// The previous KEKs of a provider, by name.
pub(super) fn previous(
    connection: &Connection,
    provider: &Provider,
) -> Result<Vec<Provider>, Failure> {
    let mut all = all(connection)?;
    all.retain(|other| other.previous_key_of() == Some(&provider.name));
    Ok(all)
}

/// Inserts a provider, which does not become the default.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    provider: &Provider,
    now: Timestamp,
) -> Result<(), Failure> {
    free_name(transaction, &provider.name)?;
    transaction.execute(
        "INSERT OR ABORT INTO key_provider
             (uuid, name, kind, key_id, key_version, is_default, exported_at, created_at,
              updated_at)
         VALUES (?1, ?2, 'native', ?3, ?4, 0, ?5, ?6, ?7)",
        params![
            provider.uuid.to_string(),
            provider.name,
            provider.key_id.to_string(),
            provider.key_version,
            provider.exported_at.map(|at| at.0),
            provider.created_at.0,
            now.0
        ],
    )?;
    Ok(())
}

/// Gives a provider, and the key references that are bound to it, another name.
pub(super) fn rename(
    transaction: &Transaction<'_>,
    provider: ProviderUuid,
    name: &str,
    now: Timestamp,
) -> Result<(), Failure> {
    free_name(transaction, name)?;
    for (table, column, uuid) in [
        ("key_provider", "name", "uuid"),
        ("key_ref", "provider_name", "provider_uuid"),
    ] {
        let is_it = is_uuid(uuid, "?1");
        transaction.execute(
            &format!(
                "UPDATE OR ABORT {table} SET {column} = ?2, updated_at = ?3
                 WHERE {is_it} AND {column} IS NOT ?2"
            ),
            params![provider.to_string(), name, now.0],
        )?;
    }
    Ok(())
}

/// Gives a provider another KEK, which counts as never exported.
pub(super) fn set_key(
    transaction: &Transaction<'_>,
    provider: ProviderUuid,
    (key_id, key_version): (KeyId, i64),
    now: Timestamp,
) -> Result<(), Failure> {
    let is_it = is_uuid("uuid", "?1");
    let sql = format!(
        "UPDATE OR ABORT key_provider SET key_id = ?2, key_version = ?3, exported_at = NULL,
                                 updated_at = ?4
         WHERE {is_it}"
    );
    let values = params![provider.to_string(), key_id.to_string(), key_version, now.0];
    exactly_one(transaction.execute(&sql, values)?)
}

/// Makes this provider the default, and no other.
pub(super) fn set_default(
    transaction: &Transaction<'_>,
    provider: ProviderUuid,
    now: Timestamp,
) -> Result<(), Failure> {
    by_uuid(transaction, provider)?;
    let is_it = is_uuid("uuid", "?1");
    let sql = format!(
        "UPDATE OR ABORT key_provider SET is_default = ({is_it}), updated_at = ?2
         WHERE is_default IS NOT ({is_it})"
    );
    transaction.execute(&sql, params![provider.to_string(), now.0])?;
    Ok(())
}

/// Deletes the provider of this UUID. Returns whether it was there.
pub(super) fn delete(
    transaction: &Transaction<'_>,
    provider: ProviderUuid,
) -> Result<bool, Failure> {
    let deleted = delete_where(transaction, &is_uuid("uuid", "?1"), &provider.to_string())?;
    Ok(deleted > 0)
}

/// Refuses a name that another provider has. A row that cannot be read does not count: nothing
/// can be bound to it, and no command could show, rename or delete it. So it is deleted, and key
/// references with this name then find the provider that gets it.
fn free_name(transaction: &Transaction<'_>, name: &str) -> Result<(), Failure> {
    if all(transaction)?.iter().any(|other| other.name == name) {
        return Err(StoreError::NameTaken(name.to_owned()).into());
    }
    delete_where(transaction, "name = ?1", name)?;
    Ok(())
}

/// Deletes the providers that a condition on ?1 selects. Their key references stay, whatever the
/// foreign keys of a table that another tool made would do.
fn delete_where(
    transaction: &Transaction<'_>,
    condition: &str,
    value: &str,
) -> Result<usize, Failure> {
    let key_refs = || -> rusqlite::Result<i64> {
        transaction.query_row("SELECT count(*) FROM key_ref", [], |row| row.get(0))
    };
    let before = key_refs()?;
    let sql = format!("DELETE FROM key_provider WHERE {condition}");
    let deleted = transaction.execute(&sql, [value])?;
    if key_refs()? == before {
        Ok(deleted)
    } else {
        Err(StoreError::NotAsWritten("key references would be deleted with their provider").into())
    }
}
