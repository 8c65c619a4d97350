//! Key providers, as the administrator creates, renames, finds and deletes them.

use std::collections::BTreeSet;

use rusqlite::{Connection, ToSql};

use super::error::Failure;
use super::many_rows::ManyRows;
use super::schema::{PLACEHOLDER, is_uuid, provider_uuid};
use super::{Slot, Store, StoreError, bindings, fleet, previous_key_name, provider_rows, slots};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, ProviderUuid};
use crate::key::id::KeyId;
use crate::verdict::facts::{KmsSlots, Provider, kek_ref};

/// A provider to be created.
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
    /// When its key was exported, if it comes from a recovery file.
    pub exported_at: Option<Timestamp>,
}

impl Store {
    /// All providers, by name.
    ///
    /// A row without a UUID or a key id is left out, and the log says so: nothing can be bound to
    /// it, and no key opens with it. [`Store::check`] lists such rows.
    pub fn providers(&self) -> Result<Vec<Provider>, StoreError> {
        self.read(|connection| provider_rows::all(connection))
    }

    /// The provider of this name or UUID: the one look-up of a provider that somebody names.
    /// `NoProvider` if there is none, `AmbiguousProvider` if it is the name of one and the UUID
    /// of another.
    pub fn provider(&self, name_or_uuid: &str) -> Result<Provider, StoreError> {
        let uuid = ProviderUuid::parse(name_or_uuid).ok();
        let mut found = self.providers()?;
        found.retain(|it| it.name == name_or_uuid || Some(it.uuid) == uuid);
        let first = found.pop();
        match (first, found.is_empty()) {
            (Some(provider), true) => Ok(provider),
            (None, _) => Err(StoreError::NoProvider(name_or_uuid.to_owned())),
            // Another program gave one provider the UUID of the other as its name.
            (Some(_), false) => Err(StoreError::AmbiguousProvider(name_or_uuid.to_owned())),
        }
    }

    /// The provider of this UUID.
    pub fn provider_by_uuid(&self, uuid: ProviderUuid) -> Result<Provider, StoreError> {
        self.read(|connection| provider_rows::by_uuid(connection, uuid))
    }

    /// Creates a provider's row, and slots of its KEK, which must already be in the keyring. `NameTaken` if another
    /// provider has its name.
    pub fn create_provider(
        &mut self,
        provider: &NewProvider,
        slots: &[Slot],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let row = Provider {
            uuid: provider.uuid,
            name: provider.name.clone(),
            key_id: provider.key_id,
            key_version: provider.key_version,
            is_default: false,
            exported_at: provider.exported_at,
            created_at: now,
            kms: KmsSlots::default(),
        };
        self.write(|transaction| {
            provider_rows::insert(transaction, &row, now)?;
            fleet::accept_key(transaction, row.key_id)?;
            for slot in slots {
                slots::insert(transaction, slot.clone())?;
            }
            if provider.is_default {
                provider_rows::set_default(transaction, provider.uuid, now)?;
            }
            Ok(())
        })?;
        // Of one that was deleted, and is here again, the fleet may have told meanwhile.
        if let Err(error) = self.reconsider_keys(provider.key_id) {
            tracing::warn!(
                provider = provider.name,
                %error,
                "keys of which the fleet has told before may have to be imported"
            );
        }
        Ok(())
    }

    /// Gives a provider, and the key references that are bound to it, another name. Its previous
    /// KEKs get the new name too. Bound are also those that only name it, as [`Store::delete_provider`]
    /// leaves them when it is interrupted.
    pub fn rename_provider(
        &mut self,
        provider: ProviderUuid,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let uuid = provider.to_string();
        let all = self.providers()?;
        if let Some(found) = all.iter().find(|it| it.uuid == provider)
            && all.iter().all(|it| it.name != name)
        {
            let kek = kek_ref(found.key_id);
            let names_it = [&uuid, &found.name, &kek];
            self.write_some_at_a_time(&bind_by_name(), &that_name(names_it, &now.0))?;
            // They find it by its UUID meanwhile.
            let rename = ManyRows {
                table: "key_ref",
                condition: format!(
                    "{} AND provider_name IS NOT :name",
                    is_uuid("provider_uuid", ":uuid")
                ),
                change:
                    "UPDATE OR ABORT key_ref SET provider_name = :name, updated_at = :now WHERE {}"
                        .to_owned(),
            };
            let values: [(&str, &dyn ToSql); 3] =
                [(":name", &name), (":now", &now.0), (":uuid", &uuid)];
            self.write_some_at_a_time(&rename, &values)?;
        }
        self.write(|transaction| {
            let found = provider_rows::by_uuid(transaction, provider)?;
            if found.name == name {
                return Ok(());
            }
            let kek = kek_ref(found.key_id);
            let names_it = [&uuid, &found.name, &kek];
            bind_by_name().change(transaction, &that_name(names_it, &now.0), None)?;
            for previous in provider_rows::previous(transaction, &found)? {
                let previous_name = previous_key_name(name, previous.key_id);
                provider_rows::rename(transaction, previous.uuid, &previous_name, now)?;
            }
            provider_rows::rename(transaction, provider, name, now)
        })
    }

    /// Makes this provider the default, and no other.
    pub fn set_default_provider(
        &mut self,
        provider: ProviderUuid,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| provider_rows::set_default(transaction, provider, now))
    }

    /// Records that the provider's KEK is in a recovery file. `Changed` if it has another KEK by
    /// now, which is in no file.
    pub fn mark_exported(
        &mut self,
        provider: ProviderUuid,
        key_id: KeyId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if provider_rows::by_uuid(transaction, provider)?.key_id != key_id {
                return Err(StoreError::Changed.into());
            }
            provider_rows::set_exported(transaction, provider, now, now)
        })
    }

    /// Deletes a provider's row, and the slots of its KEK unless another provider has that. Its key references lose
    /// their provider's UUID and keep its name. If the host is in a fleet, the key is not opened again because others
    /// announce it. `Changed` if that locks out a guest which is not among these; [`Store::dependent_domains`] lists them.
    pub fn delete_provider(
        &mut self,
        provider: ProviderUuid,
        locked: &BTreeSet<DomainUuid>,
    ) -> Result<(), StoreError> {
        // They find it by its name meanwhile. With the provider they would lose its UUID in one step.
        let found = self.provider_by_uuid(provider)?;
        self.read(|connection| locks_out_no_other(connection, &found, locked))?;
        let uuid = provider.to_string();
        let values: [(&str, &dyn ToSql); 2] = [(":uuid", &uuid), (":name", &found.name)];
        self.write_some_at_a_time(&unbind(), &values)?;
        self.write(|transaction| {
            let found = provider_rows::by_uuid(transaction, provider)?;
            locks_out_no_other(transaction, &found, locked)?;
            let Provider { key_id, name, .. } = found;
            unbind().change(transaction, &[(":uuid", &uuid), (":name", &name)], None)?;
            provider_rows::delete(transaction, provider)?;
            fleet::decline_key(transaction, key_id)?;
            slots::delete_unless_held(transaction, key_id)
        })
    }
}

/// `Changed` if the deletion of a provider would lock out a guest that is not among these.
fn locks_out_no_other(
    connection: &Connection,
    provider: &Provider,
    locked: &BTreeSet<DomainUuid>,
) -> Result<(), Failure> {
    match bindings::locked_without(connection, provider, locked)?[..] {
        [] => Ok(()),
        _ => Err(StoreError::Changed.into()),
    }
}

/// Binds key references to a provider that name it, and no other one by UUID: of those with a key, those under its KEK.
fn bind_by_name() -> ManyRows {
    // Both in any spelling.
    let plain = |column| format!("replace(lower({column}), '-', '')");
    let is_known = format!(
        "{} = {}",
        plain("known.uuid"),
        plain("key_ref.provider_uuid")
    );
    ManyRows {
        table: "key_ref",
        condition: format!(
            "provider_name = :old AND ({PLACEHOLDER} OR kek_ref = :kek)
             AND NOT EXISTS (SELECT 1 FROM key_provider AS known WHERE {is_known})"
        ),
        change: format!(
            "UPDATE OR ABORT key_ref SET provider_uuid = {}, updated_at = :now WHERE {{}}",
            provider_uuid(":uuid")
        ),
    }
}

/// The values of [`bind_by_name`].
fn that_name<'a>(
    [uuid, name, kek]: [&'a String; 3],
    now: &'a i64,
) -> [(&'static str, &'a dyn ToSql); 4] {
    [
        (":uuid", uuid),
        (":old", name),
        (":kek", kek),
        (":now", now),
    ]
}

/// Has the key references of a provider name it, and no longer by its UUID: also those that a renaming which was
/// interrupted had given another name.
fn unbind() -> ManyRows {
    ManyRows {
        table: "key_ref",
        condition: is_uuid("provider_uuid", ":uuid"),
        change: "UPDATE OR ABORT key_ref SET provider_uuid = NULL, provider_name = :name WHERE {}"
            .to_owned(),
    }
}
