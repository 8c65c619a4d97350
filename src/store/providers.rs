//! The key providers' rows.

use rusqlite::{Connection, Transaction, params};

use super::apply::{NewKey, exactly_one};
use super::error::Failure;
use super::schema::is_uuid;
use super::{Store, StoreError, keys, load};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::Provider;

/// A provider to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProvider {
    /// Its UUID.
    pub uuid: ProviderUuid,
    /// Its name.
    pub name: String,
    /// The identity of its KEK's bytes.
    pub key_id: KeyId,
    /// The version of its KEK.
    pub key_version: i64,
    /// Whether it becomes the default.
    pub is_default: bool,
}

/// One key reference whose DEK was wrapped anew.
#[derive(Debug, Clone)]
pub struct Rewrapped {
    /// The row.
    pub key_ref: KeyRefId,
    /// The wrapped DEK that was opened.
    pub seen: WrappedDek,
    /// The same DEK under the new KEK.
    pub key: NewKey,
}

/// A provider gets a new KEK.
#[derive(Debug)]
pub struct Rotation<'a> {
    /// The provider, as it was when the rows were wrapped anew.
    pub provider: &'a Provider,
    /// The new KEK's id.
    pub key_id: KeyId,
    /// The new KEK's version.
    pub key_version: i64,
    /// The rows that go with it: those of [`Store::key_refs_under`], retired ones too.
    pub rewrapped: &'a [Rewrapped],
    /// The rows under the old KEK that do not open, and so stay as they are.
    pub given_up: &'a [KeyRefId],
    /// The time that goes into `updated_at`.
    pub now: Timestamp,
}

impl Store {
    /// The provider of this name, else of this UUID.
    pub fn provider(&self, name_or_uuid: &str) -> Result<Provider, StoreError> {
        let providers = self.providers()?;
        let uuid = ProviderUuid::parse(name_or_uuid).ok();
        let by_name = providers
            .iter()
            .find(|provider| provider.name == name_or_uuid);
        by_name
            .or_else(|| {
                providers
                    .iter()
                    .find(|provider| Some(provider.uuid) == uuid)
            })
            .cloned()
            .ok_or_else(|| StoreError::NoProvider(name_or_uuid.to_owned()))
    }

    /// Makes a provider's row. Its KEK must be in the keyring before.
    pub fn create_provider(
        &mut self,
        provider: &NewProvider,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            name_is_free(transaction, &provider.name)?;
            transaction.execute(
                "INSERT INTO key_provider
                     (uuid, name, kind, key_id, key_version, is_default, created_at, updated_at)
                 VALUES (?1, ?2, 'native', ?3, ?4, 0, ?5, ?5)",
                params![
                    provider.uuid.to_string(),
                    provider.name,
                    provider.key_id.to_string(),
                    provider.key_version,
                    now.0
                ],
            )?;
            if provider.is_default {
                make_default(transaction, provider.uuid, now)?;
            }
            Ok(())
        })
    }

    /// Gives a provider, and the key references that are bound to it, another name.
    pub fn rename_provider(
        &mut self,
        provider: ProviderUuid,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            let found = by_uuid(transaction, provider)?;
            if found.name == name {
                return Ok(());
            }
            name_is_free(transaction, name)?;
            for (table, column, uuid) in [
                ("key_provider", "name", "uuid"),
                ("key_ref", "provider_name", "provider_uuid"),
            ] {
                let is_it = is_uuid(uuid, "?1");
                transaction.execute(
                    &format!("UPDATE {table} SET {column} = ?2, updated_at = ?3 WHERE {is_it}"),
                    params![provider.to_string(), name, now.0],
                )?;
            }
            Ok(())
        })
    }

    /// Makes this provider the default, and no other.
    pub fn set_default_provider(
        &mut self,
        provider: ProviderUuid,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| make_default(transaction, provider, now))
    }

    /// Notes that the provider's KEK is in a recovery file.
    pub fn mark_exported(
        &mut self,
        provider: ProviderUuid,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            by_uuid(transaction, provider)?;
            let is_it = is_uuid("uuid", "?1");
            let sql =
                format!("UPDATE key_provider SET exported_at = ?2, updated_at = ?2 WHERE {is_it}");
            exactly_one(transaction.execute(&sql, params![provider.to_string(), now.0])?)
        })
    }

    /// Deletes a provider's row. Its key references lose their provider's UUID and keep its
    /// name. [`Store::domains_locked_without`] says whom that locks out.
    pub fn delete_provider(&mut self, provider: ProviderUuid) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = format!("DELETE FROM key_provider WHERE {}", is_uuid("uuid", "?1"));
            match transaction.execute(&sql, [provider.to_string()])? {
                0 => Err(StoreError::NoProvider(provider.to_string()).into()),
                _ => Ok(()),
            }
        })
    }

    /// Gives a provider its new KEK together with the rows that were wrapped anew with it.
    /// `Changed` if any row under the old KEK would be left behind that was not given up:
    /// somebody made it meanwhile.
    pub fn rotate_provider(&mut self, rotation: &Rotation<'_>) -> Result<(), StoreError> {
        let Rotation { provider, now, .. } = rotation;
        self.write(|transaction| {
            if by_uuid(transaction, provider.uuid)?.key_id != provider.key_id {
                return Err(StoreError::Changed.into());
            }
            for Rewrapped { key_ref, seen, key } in rotation.rewrapped {
                exactly_one(transaction.execute(
                    "UPDATE key_ref SET wrapped_dek = ?3, kek_ref = ?4, key_version = ?5,
                                        algorithm = ?6, updated_at = ?7
                     WHERE id = ?1 AND wrapped_dek = ?2",
                    params![
                        key_ref.0,
                        seen.as_bytes(),
                        key.wrapped_dek.as_bytes(),
                        key.kek_ref(),
                        key.key_version,
                        key.algorithm,
                        now.0
                    ],
                )?)?;
            }
            let left = keys::under_kek(transaction, provider.key_id)?;
            if left
                .iter()
                .any(|row| !rotation.given_up.contains(&row.key_ref.id))
            {
                return Err(StoreError::Changed.into());
            }
            let is_it = is_uuid("uuid", "?1");
            let sql = format!(
                "UPDATE key_provider SET key_id = ?2, key_version = ?3, exported_at = NULL,
                                         updated_at = ?4
                 WHERE {is_it}"
            );
            exactly_one(transaction.execute(
                &sql,
                params![
                    provider.uuid.to_string(),
                    rotation.key_id.to_string(),
                    rotation.key_version,
                    now.0
                ],
            )?)
        })
    }
}

pub(super) fn by_uuid(connection: &Connection, uuid: ProviderUuid) -> Result<Provider, Failure> {
    let providers = load::providers(connection)?;
    let found = providers.into_iter().find(|provider| provider.uuid == uuid);
    found.ok_or_else(|| StoreError::NoProvider(uuid.to_string()).into())
}

fn name_is_free(transaction: &Transaction<'_>, name: &str) -> Result<(), Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM key_provider WHERE name = ?1)";
    if transaction.query_row(sql, [name], |row| row.get(0))? {
        return Err(StoreError::NameTaken(name.to_owned()).into());
    }
    Ok(())
}

fn make_default(
    transaction: &Transaction<'_>,
    provider: ProviderUuid,
    now: Timestamp,
) -> Result<(), Failure> {
    by_uuid(transaction, provider)?;
    let is_it = is_uuid("uuid", "?1");
    let sql = format!(
        "UPDATE key_provider SET is_default = ({is_it}), updated_at = ?2
         WHERE is_default IS NOT ({is_it})"
    );
    transaction.execute(&sql, params![provider.to_string(), now.0])?;
    Ok(())
}
