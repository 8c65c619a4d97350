//! The rows of `key_ref`: what reads and writes them one by one.

use rusqlite::{Connection, Row, Transaction, params};

use super::error::Failure;
use super::schema::{KEYED, LIVE, PLACEHOLDER, is_uuid};
use super::{StoreError, columns};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::{KeyRef, kek_ref};

/// A key reference with what only the administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRefRecord {
    /// The guest that it belongs to.
    pub domain: DomainUuid,
    /// The row, as a start sees it.
    pub key_ref: KeyRef,
    /// When it was retired; `None` while it is in use.
    pub retired_at: Option<Timestamp>,
    /// How the DEK is wrapped.
    pub algorithm: Option<String>,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A row to be inserted.
pub(super) struct NewRow<'a> {
    /// The guest.
    pub(super) domain: DomainUuid,
    /// The provider's UUID and name.
    pub(super) provider: (ProviderUuid, &'a str),
    /// The libvirt secret that it belongs to.
    pub(super) secret_uuid: Option<SecretUuid>,
    /// The key; `None` for a placeholder.
    pub(super) key: Option<&'a NewKey>,
    /// When a guest first ran with the key.
    pub(super) first_used_at: Option<Timestamp>,
    /// When it was retired.
    pub(super) retired_at: Option<Timestamp>,
    /// The time that goes into `created_at` and `updated_at`.
    pub(super) now: Timestamp,
}

/// The columns that [`key_ref`] reads.
const KEY_REF_COLUMNS: &str = "id, secret_uuid, provider_uuid, provider_name, key_version, \
     kek_ref, wrapped_dek, first_used_at, created_at";

/// The guest's rows that are in use, by id.
pub(super) fn in_use(connection: &Connection, domain: DomainUuid) -> Result<Vec<KeyRef>, Failure> {
    Ok(of_domain(connection, domain)?.0)
}

/// The guest's rows that are in use, and those that are retired, by id.
pub(super) fn of_domain(
    connection: &Connection,
    domain: DomainUuid,
) -> Result<(Vec<KeyRef>, Vec<KeyRef>), Failure> {
    let mut query = connection.prepare_cached(&of_domain_sql())?;
    let mut rows = query.query(params![domain.to_string()])?;
    let (mut key_refs, mut retired) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let is_retired: bool = row.get("is_retired")?;
        let list = if is_retired {
            &mut retired
        } else {
            &mut key_refs
        };
        list.push(key_ref(row)?);
    }
    key_refs.sort_by_key(|row| row.id);
    retired.sort_by_key(|row| row.id);
    Ok((key_refs, retired))
}

/// The query that every start makes.
pub(super) fn of_domain_sql() -> String {
    let of_domain = is_uuid("resource_uuid", "?1");
    format!(
        "SELECT {KEY_REF_COLUMNS}, retired_at IS NOT NULL AS is_retired FROM key_ref
         WHERE resource_type = 'tpm' AND {of_domain}"
    )
}

fn key_ref(row: &Row<'_>) -> rusqlite::Result<KeyRef> {
    let provider_uuid = |text: &str| ProviderUuid::parse(text).ok();
    Ok(KeyRef {
        id: KeyRefId(row.get("id")?),
        secret_uuid: columns::parsed(row, "secret_uuid", |text| SecretUuid::parse(text).ok())?,
        provider_uuid: columns::parsed(row, "provider_uuid", provider_uuid)?,
        provider_name: columns::text(row, "provider_name")?.unwrap_or_default(),
        key_version: columns::integer(row, "key_version")?,
        kek_ref: columns::full_text(row, "kek_ref")?,
        wrapped_dek: columns::bytes(row, "wrapped_dek")?.map(WrappedDek::from_stored),
        first_used_at: columns::happened(row, "first_used_at")?,
        created_at: columns::time(row, "created_at")?.unwrap_or(Timestamp(0)),
    })
}

/// The key reference of this id.
pub(super) fn by_id(connection: &Connection, id: KeyRefId) -> Result<KeyRefRecord, Failure> {
    let mut found = select(connection, "resource_type = 'tpm' AND id = ?1", [id.0])?;
    found.pop().ok_or_else(|| StoreError::NoKeyRef(id).into())
}

/// Whether a row of the guest, in use or retired, holds this very wrapped DEK.
pub(super) fn is_held(
    connection: &Connection,
    domain: DomainUuid,
    wrapped: &WrappedDek,
) -> Result<bool, Failure> {
    let of_domain = is_uuid("resource_uuid", "?1");
    let condition = format!("resource_type = 'tpm' AND {of_domain} AND wrapped_dek = ?2");
    let values = params![domain.to_string(), wrapped.as_bytes()];
    Ok(!select(connection, &condition, values)?.is_empty())
}

/// The key references that a condition selects, by id.
pub(super) fn select(
    connection: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<KeyRefRecord>, Failure> {
    select_in_order(connection, &format!("{condition} ORDER BY id"), values)
}

/// The key references that a condition selects, in the order that the condition ends with.
pub(super) fn select_in_order(
    connection: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<KeyRefRecord>, Failure> {
    let sql = format!(
        "SELECT {KEY_REF_COLUMNS}, resource_uuid, retired_at, algorithm, updated_at
         FROM key_ref WHERE {condition}"
    );
    // Kept: a rotation, or an exchange with the fleet, asks the same for thousands of rows.
    let mut query = connection.prepare_cached(&sql)?;
    let rows = query.query_map(values, record)?;
    Ok(rows
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?)
}

/// A key reference; `None` where the UUID of its guest cannot be read.
fn record(row: &Row<'_>) -> rusqlite::Result<Option<KeyRefRecord>> {
    let domain = columns::parsed(row, "resource_uuid", |text| DomainUuid::parse(text).ok())?;
    let Some(domain) = domain else {
        return Ok(None);
    };
    Ok(Some(KeyRefRecord {
        domain,
        key_ref: key_ref(row)?,
        retired_at: columns::happened(row, "retired_at")?,
        algorithm: columns::full_text(row, "algorithm")?,
        updated_at: columns::time(row, "updated_at")?.unwrap_or(Timestamp(0)),
    }))
}

/// The key references, including retired ones, whose DEK this KEK wraps.
pub(super) fn under_kek(
    connection: &Connection,
    key_id: KeyId,
) -> Result<Vec<KeyRefRecord>, Failure> {
    let condition = format!(
        "resource_type = 'tpm' AND {KEYED} AND (kek_ref = ?1 OR instr(wrapped_dek, ?2) > 0)"
    );
    let values = params![kek_ref(key_id), key_id.as_bytes()];
    let mut candidates = select(connection, &condition, values)?;
    candidates.retain(|row| kek_of(&row.key_ref) == Some(key_id));
    Ok(candidates)
}

/// The KEK that wraps the row's DEK: the one that its blob names, or, where the blob cannot be
/// read, the one that the row names.
pub(super) fn kek_of(key_ref: &KeyRef) -> Option<KeyId> {
    let blob = key_ref.wrapped_dek.as_ref()?;
    let named = || KeyId::parse(key_ref.kek_ref.as_deref()?.strip_prefix("native:")?);
    blob.key_id().ok().or_else(named)
}

/// Inserts a row. `Changed` if the provider is not there. A key is read back.
pub(super) fn insert(transaction: &Transaction<'_>, row: &NewRow<'_>) -> Result<KeyRefId, Failure> {
    let (provider, provider_name) = row.provider;
    // The provider's UUID as its own row spells it, or else a foreign key would not match.
    let is_provider = is_uuid("uuid", "?3");
    let sql = format!(
        "INSERT OR ABORT INTO key_ref
             (resource_type, resource_uuid, secret_uuid, provider_uuid, provider_name,
              wrapped_dek, kek_ref, key_version, algorithm, first_used_at, retired_at,
              created_at, updated_at)
         SELECT 'tpm', ?1, ?2, uuid, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11
         FROM key_provider WHERE {is_provider}"
    );
    let inserted = transaction.prepare_cached(&sql)?.execute(params![
        row.domain.to_string(),
        row.secret_uuid.map(|uuid| uuid.to_string()),
        provider.to_string(),
        provider_name,
        row.key.map(|key| key.wrapped_dek.as_bytes()),
        row.key.map(|key| kek_ref(key.key_id)),
        row.key.map(|key| key.key_version),
        row.key.map(|key| key.algorithm),
        row.first_used_at.map(|at| at.0),
        row.retired_at.map(|at| at.0),
        row.now.0
    ])?;
    exactly_one(inserted)?;
    let id = KeyRefId(transaction.last_insert_rowid());
    if let Some(key) = row.key {
        read_back(transaction, id, row.domain, key)?;
    }
    Ok(id)
}

/// Reads back a key that was written to a row, before the transaction is committed. Another tool
/// may have made the table, so what its schema does to a value is not known.
pub(super) fn read_back(
    transaction: &Transaction<'_>,
    key_ref: KeyRefId,
    domain: DomainUuid,
    key: &NewKey,
) -> Result<(), Failure> {
    let found = by_id(transaction, key_ref)?;
    let row = &found.key_ref;
    let is_same = found.domain == domain
        && row.wrapped_dek.as_ref() == Some(&key.wrapped_dek)
        && row.kek_ref == Some(kek_ref(key.key_id));
    if is_same {
        Ok(())
    } else {
        Err(StoreError::NotAsWritten("a key reads back differently").into())
    }
}

/// Retires the guest's keyed rows except `kept`, and returns their ids.
pub(super) fn retire_keyed(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
    kept: Option<KeyRefId>,
    now: Timestamp,
) -> Result<Vec<KeyRefId>, Failure> {
    let of_domain = is_uuid("resource_uuid", "?1");
    let sql = format!(
        "UPDATE OR ABORT key_ref SET retired_at = ?2, updated_at = ?2
         WHERE {of_domain} AND {LIVE} AND {KEYED} AND id IS NOT ?3 RETURNING id"
    );
    let mut update = transaction.prepare(&sql)?;
    let values = params![domain.to_string(), now.0, kept.map(|id| id.0)];
    let ids = update.query_map(values, |row| row.get(0).map(KeyRefId))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Deletes the guest's placeholders and returns their number.
pub(super) fn delete_placeholders(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
) -> Result<usize, Failure> {
    let of_domain = is_uuid("resource_uuid", "?1");
    let sql = format!("DELETE FROM key_ref WHERE {of_domain} AND {LIVE} AND {PLACEHOLDER}");
    Ok(transaction.execute(&sql, [domain.to_string()])?)
}

/// A change that was planned for one row, and that affects none or several, is not made.
pub(super) fn exactly_one(rows: usize) -> Result<(), Failure> {
    match rows {
        1 => Ok(()),
        _ => Err(StoreError::Changed.into()),
    }
}
