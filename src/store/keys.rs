//! Key references, as the administrator lists, adds, chooses and retires them.

use rusqlite::params;

use super::key_rows::{self, KeyRefRecord, NewRow};
use super::schema::{LIVE, is_uuid};
use super::{Store, StoreError, provider_rows};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::verdict::facts::KeyRef;

/// A key to be added to a guest.
#[derive(Debug)]
pub struct AddKey<'a> {
    /// The guest.
    pub domain: DomainUuid,
    /// The provider whose KEK wraps it.
    pub provider: ProviderUuid,
    /// The key.
    pub key: &'a NewKey,
    /// The libvirt secret that it belongs to.
    pub secret_uuid: Option<SecretUuid>,
    /// When a guest first ran with it, if one did.
    pub first_used_at: Option<Timestamp>,
    /// What happens to keys that the guest already has.
    pub others: OtherKeys<'a>,
    /// The time that goes into `created_at`, `updated_at`, `retired_at`.
    pub now: Timestamp,
}

/// What happens to the keys of a guest that gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherKeys<'a> {
    /// There must be none, or else the new key is refused.
    Refuse,
    /// These are retired, and there must be no other.
    Retire(&'a [KeyRefId]),
    /// They stay in use, until the TPM's state shows which one is right.
    Keep,
}

/// A key of a guest that was chosen, wrapped once more.
#[derive(Debug)]
pub struct Rewrapped<'a> {
    /// The row of which it is.
    pub of: &'a KeyRef,
    /// The provider whose KEK wraps it.
    pub provider: ProviderUuid,
    /// The same DEK.
    pub key: &'a NewKey,
    /// The time that goes into `created_at`, `updated_at`, `retired_at`.
    pub now: Timestamp,
}

/// The result of choosing a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseKeyResult {
    /// The guest whose key it is.
    pub domain: DomainUuid,
    /// The row that holds it.
    pub key_ref: KeyRefId,
    /// The other keys, which were retired.
    pub retired: Vec<KeyRefId>,
}

impl Store {
    /// The key references of one guest, or of all, by id. A row without the UUID of a guest is left
    /// out; [`Store::check`] lists it.
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
        self.read(|connection| key_rows::select(connection, &condition, [domain]))
    }

    /// The key references, including retired ones, whose DEK this KEK wraps.
    pub fn key_refs_under(&self, key_id: KeyId) -> Result<Vec<KeyRefRecord>, StoreError> {
        self.read(|connection| key_rows::under_kek(connection, key_id))
    }

    /// One key reference.
    pub fn key_ref(&self, id: KeyRefId) -> Result<KeyRefRecord, StoreError> {
        self.read(|connection| key_rows::by_id(connection, id))
    }

    /// Whether the guest has key references that are not retired.
    pub fn has_key_refs(&self, domain: DomainUuid) -> Result<bool, StoreError> {
        self.read(|connection| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let sql = format!("SELECT EXISTS (SELECT 1 FROM key_ref WHERE {LIVE} AND {of_domain})");
            Ok(connection.query_row(&sql, [domain.to_string()], |row| row.get(0))?)
        })
    }

    /// Adds a key to a guest. Its placeholders are deleted: no start would fill them. `Changed` if
    /// another KEK than the provider's wraps the key, `HasKey` as [`OtherKeys`] says.
    pub fn add_key(&mut self, add: &AddKey<'_>) -> Result<KeyRefId, StoreError> {
        self.write(|transaction| {
            let provider = provider_rows::by_uuid(transaction, add.provider)?;
            if provider.key_id != add.key.key_id {
                return Err(StoreError::Changed.into());
            }
            let rows = key_rows::in_use(transaction, add.domain)?;
            let mut keyed = rows.iter().filter(|row| row.wrapped_dek.is_some());
            let unexpected = match add.others {
                OtherKeys::Refuse => keyed.next(),
                OtherKeys::Retire(known) => keyed.find(|row| !known.contains(&row.id)),
                OtherKeys::Keep => None,
            };
            if let Some(row) = unexpected {
                let (key_ref, provider) = (row.id, row.provider_name.clone());
                return Err(StoreError::HasKey { key_ref, provider }.into());
            }
            key_rows::delete_placeholders(transaction, add.domain)?;
            if let OtherKeys::Retire(_) = add.others {
                key_rows::retire_keyed(transaction, add.domain, None, add.now)?;
            }
            let row = NewRow {
                domain: add.domain,
                provider: (provider.uuid, &provider.name),
                secret_uuid: add.secret_uuid,
                key: Some(add.key),
                first_used_at: add.first_used_at,
                retired_at: None,
                now: add.now,
            };
            key_rows::insert(transaction, &row)
        })
    }

    /// Retires a key reference; its wrapped DEK is kept. Returns whether it was in use. `NotKeyed` for a
    /// placeholder: retired, it could never be used again.
    pub fn retire(&mut self, id: KeyRefId, now: Timestamp) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let found = key_rows::by_id(transaction, id)?;
            if found.key_ref.wrapped_dek.is_none() && found.retired_at.is_none() {
                return Err(StoreError::NotKeyed(id).into());
            }
            let sql = "UPDATE OR ABORT key_ref SET retired_at = ?2, updated_at = ?2
                       WHERE id = ?1 AND retired_at IS NULL";
            Ok(transaction.execute(sql, params![id.0, now.0])? == 1)
        })
    }

    /// Makes this the guest's key: puts it back into use, and retires the guest's others.
    pub fn use_key(&mut self, id: KeyRefId, now: Timestamp) -> Result<UseKeyResult, StoreError> {
        self.write(|transaction| {
            let chosen = key_rows::by_id(transaction, id)?;
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
                key_ref: id,
                retired: key_rows::retire_keyed(transaction, chosen.domain, Some(id), now)?,
            })
        })
    }

    /// The same with a key that was wrapped once more: it gets a row of its own, and that of which it
    /// is keeps what it has, retired. `Changed` if that row holds something else by now, or the
    /// provider has another KEK.
    pub fn use_rewrapped(&mut self, chosen: &Rewrapped<'_>) -> Result<UseKeyResult, StoreError> {
        self.write(|transaction| {
            let provider = provider_rows::by_uuid(transaction, chosen.provider)?;
            let found = key_rows::by_id(transaction, chosen.of.id)?;
            let is_same = found.key_ref.wrapped_dek == chosen.of.wrapped_dek;
            if provider.key_id != chosen.key.key_id || !is_same {
                return Err(StoreError::Changed.into());
            }
            let retired = key_rows::retire_keyed(transaction, found.domain, None, chosen.now)?;
            let row = NewRow {
                domain: found.domain,
                provider: (provider.uuid, &provider.name),
                secret_uuid: found.key_ref.secret_uuid,
                key: Some(chosen.key),
                first_used_at: found.key_ref.first_used_at,
                retired_at: None,
                now: chosen.now,
            };
            Ok(UseKeyResult {
                domain: found.domain,
                key_ref: key_rows::insert(transaction, &row)?,
                retired,
            })
        })
    }

    /// Clears the mark that the guest's keys have been used, so that its next start may create a new
    /// TPM: of those in use, and of the retired ones where none is in use. Returns the number of keys
    /// that were marked.
    pub fn reset_first_used(
        &mut self,
        domain: DomainUuid,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        self.write(|transaction| {
            let of_domain = is_uuid("resource_uuid", "?1");
            let in_use = key_rows::in_use(transaction, domain)?;
            let has_key = in_use.iter().any(|row| row.wrapped_dek.is_some());
            let deciding = if has_key {
                LIVE
            } else {
                "resource_type = 'tpm'"
            };
            let sql = format!(
                "UPDATE OR ABORT key_ref SET first_used_at = NULL, updated_at = ?2
                 WHERE {of_domain} AND {deciding} AND first_used_at IS NOT NULL"
            );
            Ok(transaction.execute(&sql, params![domain.to_string(), now.0])?)
        })
    }
}
