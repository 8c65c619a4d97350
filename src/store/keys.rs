//! Key references as the administrator lists, adds, chooses and retires them.

use rusqlite::{Connection, Row, Transaction, params};

use super::apply::{kek_ref, read_back};
use super::error::Failure;
use super::load::{self, KEY_REF_COLUMNS};
use super::schema::{KEYED, LIVE, PLACEHOLDER, is_uuid};
use super::{Store, StoreError, providers, row};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::verdict::facts::KeyRef;

/// A key reference with what only the administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRefRecord {
    /// The domain that it belongs to.
    pub domain: DomainUuid,
    /// The row, as a start sees it.
    pub key_ref: KeyRef,
    /// Since when it is out of use.
    pub retired_at: Option<Timestamp>,
    /// How the DEK is wrapped.
    pub algorithm: Option<String>,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A key that was made elsewhere, for a domain.
#[derive(Debug)]
pub struct AddKey<'a> {
    /// The domain.
    pub domain: DomainUuid,
    /// The provider whose KEK wraps it.
    pub provider: ProviderUuid,
    /// The key.
    pub key: &'a NewKey,
    /// The libvirt secret that it belongs to.
    pub secret_uuid: Option<SecretUuid>,
    /// When a guest first ran with it, if one did.
    pub first_used_at: Option<Timestamp>,
    /// What becomes of keys that the domain has already.
    pub others: OtherKeys,
    /// The time that goes into `created_at`, `updated_at`, `retired_at`.
    pub now: Timestamp,
}

/// What becomes of the keys that a domain has when it gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherKeys {
    /// There must be none.
    Refuse,
    /// They are retired.
    Retire,
    /// They stay in use, until the TPM's state tells which of them is right.
    Keep,
}

/// What choosing a key did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseKeyResult {
    /// The domain whose key it is.
    pub domain: DomainUuid,
    /// The rows that were retired for it.
    pub retired: Vec<KeyRefId>,
}

impl Store {
    /// The key references of one domain, or of all, by id. A row that names no domain by
    /// UUID is left out; [`Store::check`] lists it.
    pub fn all_key_refs(
        &self,
        domain: Option<DomainUuid>,
        include_retired: bool,
    ) -> Result<Vec<KeyRefRecord>, StoreError> {
        let of_domain = match domain {
            Some(_) => is_uuid("resource_uuid", "?1"),
            None => "?1 IS NULL".to_owned(),
        };
        let retired = if include_retired {
            ""
        } else {
            "AND retired_at IS NULL"
        };
        let condition = format!("resource_type = 'tpm' AND {of_domain} {retired}");
        let domain = domain.map(|uuid| uuid.to_string());
        self.read(|connection| records(connection, &condition, [domain]))
    }

    /// The key references, retired ones too, whose DEK this KEK wraps.
    pub fn key_refs_under(&self, key_id: KeyId) -> Result<Vec<KeyRefRecord>, StoreError> {
        self.read(|connection| under_kek(connection, key_id))
    }

    /// One key reference.
    pub fn key_ref(&self, id: KeyRefId) -> Result<KeyRefRecord, StoreError> {
        self.read(|connection| record(connection, id))
    }

    /// Adds a key to a domain. Its placeholders go: they would be filled at no start.
    pub fn add_key(&mut self, add: &AddKey<'_>) -> Result<KeyRefId, StoreError> {
        self.write(|transaction| {
            let provider = providers::by_uuid(transaction, add.provider)?;
            if provider.key_id != add.key.key_id {
                return Err(StoreError::Changed.into());
            }
            let rows = load::key_refs(transaction, add.domain)?;
            let keyed = rows.iter().find(|row| row.wrapped_dek.is_some());
            if let (Some(row), OtherKeys::Refuse) = (keyed, add.others) {
                let (key_ref, provider) = (row.id, row.provider_name.clone());
                return Err(StoreError::HasKey { key_ref, provider }.into());
            }
            delete_placeholders(transaction, add.domain)?;
            if add.others == OtherKeys::Retire {
                retire_keyed(transaction, add.domain, None, add.now)?;
            }
            transaction.execute(
                "INSERT OR ABORT INTO key_ref
                     (resource_type, resource_uuid, secret_uuid, provider_uuid, provider_name,
                      key_version, kek_ref, wrapped_dek, algorithm, first_used_at,
                      created_at, updated_at)
                 VALUES ('tpm', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)",
                params![
                    add.domain.to_string(),
                    add.secret_uuid.map(|uuid| uuid.to_string()),
                    provider.uuid.to_string(),
                    provider.name,
                    add.key.key_version,
                    kek_ref(add.key.key_id),
                    add.key.wrapped_dek.as_bytes(),
                    add.key.algorithm,
                    add.first_used_at.map(|time| time.0),
                    add.now.0
                ],
            )?;
            let id = KeyRefId(transaction.last_insert_rowid());
            read_back(transaction, id, add.domain, add.key)?;
            Ok(id)
        })
    }

    /// Takes a key reference out of use; it keeps its wrapped DEK. Says whether it was in use.
    pub fn retire(&mut self, id: KeyRefId, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|transaction| {
            record(transaction, id)?;
            let sql = "UPDATE OR ABORT key_ref SET retired_at = ?2, updated_at = ?2
                       WHERE id = ?1 AND retired_at IS NULL";
            Ok(transaction.execute(sql, params![id.0, now.0])? == 1)
        })
    }

    /// Makes this the domain's key: takes it back into use, and retires the domain's others.
    pub fn use_key(&mut self, id: KeyRefId, now: Timestamp) -> Result<UseKeyResult, StoreError> {
        self.write(|transaction| {
            let chosen = record(transaction, id)?;
            if chosen.key_ref.wrapped_dek.is_none() {
                return Err(StoreError::NotKeyed(id).into());
            }
            transaction.execute(
                "UPDATE OR ABORT key_ref SET retired_at = NULL, updated_at = ?2
                 WHERE id = ?1 AND retired_at IS NOT NULL",
                params![id.0, now.0],
            )?;
            Ok(UseKeyResult {
                domain: chosen.domain,
                retired: retire_keyed(transaction, chosen.domain, Some(id), now)?,
            })
        })
    }

    /// Forgets that the domain's keys have been used, so that its next start may make a new
    /// TPM. Gives the number of keys that had been.
    pub fn reset_first_used(
        &mut self,
        domain: DomainUuid,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        self.write(|transaction| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let sql = format!(
                "UPDATE OR ABORT key_ref SET first_used_at = NULL, updated_at = ?2
                 WHERE {of_domain} AND {LIVE} AND first_used_at IS NOT NULL"
            );
            Ok(transaction.execute(&sql, params![domain.to_string(), now.0])?)
        })
    }
}

/// The KEK that wraps the row's DEK, as its blob says; where that cannot be read, as the row
/// says.
pub(super) fn kek_of(key_ref: &KeyRef) -> Option<KeyId> {
    let blob = key_ref.wrapped_dek.as_ref()?;
    let named = || KeyId::parse(key_ref.kek_ref.as_deref()?.strip_prefix("native:")?);
    blob.key_id().ok().or_else(named)
}

pub(super) fn under_kek(
    connection: &Connection,
    key_id: KeyId,
) -> Result<Vec<KeyRefRecord>, Failure> {
    let condition = format!(
        "resource_type = 'tpm' AND {KEYED} AND (kek_ref = ?1 OR instr(wrapped_dek, ?2) > 0)"
    );
    let values = params![kek_ref(key_id), key_id.as_bytes()];
    let mut candidates = records(connection, &condition, values)?;
    candidates.retain(|row| kek_of(&row.key_ref) == Some(key_id));
    Ok(candidates)
}

pub(super) fn record(connection: &Connection, id: KeyRefId) -> Result<KeyRefRecord, Failure> {
    let mut found = records(connection, "resource_type = 'tpm' AND id = ?1", [id.0])?;
    found.pop().ok_or_else(|| StoreError::NoKeyRef(id).into())
}

/// The key references that a condition selects, by id.
pub(super) fn records(
    connection: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<KeyRefRecord>, Failure> {
    records_in_order(connection, &format!("{condition} ORDER BY id"), values)
}

/// The key references that a condition selects, in the order that stands behind it.
pub(super) fn records_in_order(
    connection: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<KeyRefRecord>, Failure> {
    let sql = format!(
        "SELECT {KEY_REF_COLUMNS}, resource_uuid, retired_at, algorithm, updated_at
         FROM key_ref WHERE {condition}"
    );
    let mut query = connection.prepare(&sql)?;
    let rows = query.query_map(values, key_ref_record)?;
    Ok(rows
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?)
}

fn key_ref_record(row: &Row<'_>) -> rusqlite::Result<Option<KeyRefRecord>> {
    let Some(domain) = row::parsed(row, "resource_uuid", |text| DomainUuid::parse(text).ok())?
    else {
        return Ok(None);
    };
    Ok(Some(KeyRefRecord {
        domain,
        key_ref: load::key_ref(row)?,
        retired_at: row::happened(row, "retired_at")?,
        algorithm: row::full_text(row, "algorithm")?,
        updated_at: row::time(row, "updated_at")?.unwrap_or(Timestamp(0)),
    }))
}

/// Retires the domain's keyed rows but `kept`.
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

/// Deletes the domain's placeholders and gives their number.
pub(super) fn delete_placeholders(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
) -> Result<usize, Failure> {
    let of_domain = is_uuid("resource_uuid", "?1");
    let sql = format!("DELETE FROM key_ref WHERE {of_domain} AND {LIVE} AND {PLACEHOLDER}");
    Ok(transaction.execute(&sql, [domain.to_string()])?)
}
