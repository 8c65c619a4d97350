//! Reading what a verdict rests on.

use rusqlite::{Connection, Row, params};

use super::error::Failure;
use super::schema::{LIVE, is_uuid};
use super::{Store, StoreError, announced, row, seen, start};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::{KeyRef, Provider, References};

/// The columns that [`key_ref`] reads.
pub(super) const KEY_REF_COLUMNS: &str = "id, secret_uuid, provider_uuid, provider_name, \
     key_version, kek_ref, wrapped_dek, first_used_at, created_at";

impl Store {
    /// Everything that concerns one domain, in one read.
    pub fn references(&self, domain: DomainUuid, now: Timestamp) -> Result<References, StoreError> {
        self.read(|connection| references(connection, domain, now))
    }

    /// All providers, by name.
    ///
    /// A row without a UUID or a key id is left out, with a word in the log: nothing can be
    /// bound to it, and no key opens with it. [`Store::check`] lists such rows.
    pub fn providers(&self) -> Result<Vec<Provider>, StoreError> {
        self.read(|connection| providers(connection))
    }

    /// Whether the domain has key references that are not retired.
    pub fn has_key_refs(&self, domain: DomainUuid) -> Result<bool, StoreError> {
        self.read(|connection| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let sql = format!("SELECT EXISTS (SELECT 1 FROM key_ref WHERE {LIVE} AND {of_domain})");
            Ok(connection.query_row(&sql, [domain.to_string()], |row| row.get(0))?)
        })
    }
}

pub(super) fn references(
    connection: &Connection,
    domain: DomainUuid,
    now: Timestamp,
) -> Result<References, Failure> {
    let announced = announced::for_domain(connection, domain, now)?;
    let (key_refs, mut retired) = rows(connection, domain)?;
    retired.retain(|row| row.wrapped_dek.is_some());
    Ok(References {
        key_refs,
        retired,
        providers: providers(connection)?,
        state_arrives: announced.is_some(),
        announced,
        seen_state: seen::state_of(connection, domain)?,
        clients_key: start::is_started_with_a_clients_key(connection, domain)?,
    })
}

/// The domain's rows that are not retired, by id.
pub(super) fn key_refs(
    connection: &Connection,
    domain: DomainUuid,
) -> Result<Vec<KeyRef>, Failure> {
    Ok(rows(connection, domain)?.0)
}

/// The domain's rows that are in use, and those that are retired, by id.
fn rows(
    connection: &Connection,
    domain: DomainUuid,
) -> Result<(Vec<KeyRef>, Vec<KeyRef>), Failure> {
    let mut query = connection.prepare(&rows_sql())?;
    let mut found = query.query(params![domain.to_string()])?;
    let (mut key_refs, mut retired) = (Vec::new(), Vec::new());
    while let Some(row) = found.next()? {
        let is_retired: bool = row.get("is_retired")?;
        let rows = if is_retired {
            &mut retired
        } else {
            &mut key_refs
        };
        rows.push(key_ref(row)?);
    }
    key_refs.sort_by_key(|row| row.id);
    retired.sort_by_key(|row| row.id);
    Ok((key_refs, retired))
}

/// The query on the path of every start.
pub(super) fn rows_sql() -> String {
    let of_domain = is_uuid("resource_uuid", "?1");
    format!(
        "SELECT {KEY_REF_COLUMNS}, retired_at IS NOT NULL AS is_retired FROM key_ref
         WHERE resource_type = 'tpm' AND {of_domain}"
    )
}

pub(super) fn key_ref(row: &Row<'_>) -> rusqlite::Result<KeyRef> {
    Ok(KeyRef {
        id: KeyRefId(row.get("id")?),
        secret_uuid: row::parsed(row, "secret_uuid", |text| SecretUuid::parse(text).ok())?,
        provider_uuid: row::parsed(row, "provider_uuid", |text| ProviderUuid::parse(text).ok())?,
        provider_name: row::text(row, "provider_name")?.unwrap_or_default(),
        key_version: row::integer(row, "key_version")?,
        kek_ref: row::full_text(row, "kek_ref")?,
        wrapped_dek: row::bytes(row, "wrapped_dek")?.map(WrappedDek::from_stored),
        first_used_at: row::happened(row, "first_used_at")?,
        created_at: row::time(row, "created_at")?.unwrap_or(Timestamp(0)),
    })
}

pub(super) fn providers(connection: &Connection) -> Result<Vec<Provider>, Failure> {
    let mut query = connection.prepare(
        "SELECT uuid, name, key_id, key_version, is_default, exported_at, created_at
         FROM key_provider ORDER BY name",
    )?;
    let rows = query.query_map([], provider)?;
    Ok(rows
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?)
}

/// A provider; `None` where its UUID or its key id cannot be read.
fn provider(row: &Row<'_>) -> rusqlite::Result<Option<Provider>> {
    let name = row::text(row, "name")?.unwrap_or_default();
    let uuid = row::parsed(row, "uuid", |text| ProviderUuid::parse(text).ok())?;
    let key_id = row::parsed(row, "key_id", KeyId::parse)?;
    let (Some(uuid), Some(key_id)) = (uuid, key_id) else {
        tracing::warn!(
            provider = name,
            "ignored: its UUID or its key id cannot be read"
        );
        return Ok(None);
    };
    Ok(Some(Provider {
        uuid,
        name,
        key_id,
        key_version: row::integer(row, "key_version")?.unwrap_or(1),
        is_default: row::integer(row, "is_default")?.unwrap_or(0) != 0,
        exported_at: row::time(row, "exported_at")?,
        created_at: row::time(row, "created_at")?.unwrap_or(Timestamp(0)),
    }))
}
