//! The key providers' rows.

use rusqlite::{Connection, Transaction, params};

use super::apply::exactly_one;
use super::error::Failure;
use super::schema::is_uuid;
use super::{Store, StoreError, load, rotation};
use crate::clock::Timestamp;
use crate::ids::ProviderUuid;
use crate::key::id::KeyId;
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

impl Store {
    /// The provider of this name or UUID.
    pub fn provider(&self, name_or_uuid: &str) -> Result<Provider, StoreError> {
        let providers = self.providers()?;
        let uuid = ProviderUuid::parse(name_or_uuid).ok();
        let is_meant =
            |provider: &&Provider| provider.name == name_or_uuid || Some(provider.uuid) == uuid;
        let mut meant = providers.iter().filter(is_meant);
        match (meant.next(), meant.next()) {
            (Some(provider), None) => Ok(provider.clone()),
            (None, _) => Err(StoreError::NoProvider(name_or_uuid.to_owned())),
            // Another program gave one provider the UUID of the other as its name.
            (Some(_), Some(_)) => Err(StoreError::AmbiguousProvider(name_or_uuid.to_owned())),
        }
    }

    /// The provider of this UUID.
    pub fn provider_by_uuid(&self, uuid: ProviderUuid) -> Result<Provider, StoreError> {
        let mut providers = self.providers()?.into_iter();
        providers
            .find(|provider| provider.uuid == uuid)
            .ok_or_else(|| StoreError::NoProvider(uuid.to_string()))
    }

    /// Makes a provider's row. Its KEK must be in the keyring before.
    pub fn create_provider(
        &mut self,
        provider: &NewProvider,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            take_name(transaction, &provider.name)?;
            transaction.execute(
                "INSERT OR ABORT INTO key_provider
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

    /// Gives a provider, and the key references that are bound to it, another name. Its former
    /// KEKs go by the new name too.
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
            for former in rotation::formers(transaction, &found)? {
                let previous_key_name = rotation::previous_key_name(name, former.key_id);
                give_name(transaction, former.uuid, &previous_key_name, now)?;
            }
            give_name(transaction, provider, name, now)
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

    /// Notes that the provider's KEK is in a recovery file. `Changed` if it has another KEK by
    /// now: that one is in no file.
    pub fn mark_exported(
        &mut self,
        provider: ProviderUuid,
        key_id: KeyId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if by_uuid(transaction, provider)?.key_id != key_id {
                return Err(StoreError::Changed.into());
            }
            let is_it = is_uuid("uuid", "?1");
            let sql = format!(
                "UPDATE OR ABORT key_provider SET exported_at = ?2, updated_at = ?2 WHERE {is_it}"
            );
            exactly_one(transaction.execute(&sql, params![provider.to_string(), now.0])?)
        })
    }

    /// Deletes a provider's row. Its key references lose their provider's UUID and keep its
    /// name. [`Store::dependent_domains`] says whom that locks out.
    pub fn delete_provider(&mut self, provider: ProviderUuid) -> Result<(), StoreError> {
        self.write(|transaction| {
            match delete(transaction, &is_uuid("uuid", "?1"), &provider.to_string())? {
                0 => Err(StoreError::NoProvider(provider.to_string()).into()),
                _ => Ok(()),
            }
        })
    }
}

pub(super) fn by_uuid(connection: &Connection, uuid: ProviderUuid) -> Result<Provider, Failure> {
    let providers = load::providers(connection)?;
    let found = providers.into_iter().find(|provider| provider.uuid == uuid);
    found.ok_or_else(|| StoreError::NoProvider(uuid.to_string()).into())
}

/// Refuses a name that another provider bears. A row that cannot be read bears it in vain:
/// nothing can be bound to it, and no command could show, rename or delete it. So it goes, and
/// key references that name it find the provider that takes its name.
pub(super) fn take_name(transaction: &Transaction<'_>, name: &str) -> Result<(), Failure> {
    let providers = load::providers(transaction)?;
    if providers.iter().any(|provider| provider.name == name) {
        return Err(StoreError::NameTaken(name.to_owned()).into());
    }
    delete(transaction, "name = ?1", name)?;
    Ok(())
}

/// Deletes the providers that a condition on ?1 selects. Their key references stay, whatever the
/// foreign keys of a table that another tool made are to do.
pub(super) fn delete(
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
        Err(StoreError::NotAsWritten("key references would go with their provider").into())
    }
}

fn give_name(
    transaction: &Transaction<'_>,
    provider: ProviderUuid,
    name: &str,
    now: Timestamp,
) -> Result<(), Failure> {
    take_name(transaction, name)?;
    for (table, column, uuid) in [
        ("key_provider", "name", "uuid"),
        ("key_ref", "provider_name", "provider_uuid"),
    ] {
        let is_it = is_uuid(uuid, "?1");
        transaction.execute(
            &format!("UPDATE OR ABORT {table} SET {column} = ?2, updated_at = ?3 WHERE {is_it}"),
            params![provider.to_string(), name, now.0],
        )?;
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
        "UPDATE OR ABORT key_provider SET is_default = ({is_it}), updated_at = ?2
         WHERE is_default IS NOT ({is_it})"
    );
    transaction.execute(&sql, params![provider.to_string(), now.0])?;
    Ok(())
}
