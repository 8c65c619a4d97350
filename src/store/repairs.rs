//! The repairs of a verdict, one by one, as changes to the rows that the verdict saw.

use rusqlite::{ToSql, Transaction, params};

use super::error::Failure;
use super::key_rows::{self, NewRow, exactly_one};
use super::schema::{KEYED, LIVE, PLACEHOLDER, is_uuid, provider_uuid};
use super::{Event, StoreError, fresh_keys};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::new_key::NewKey;
use crate::verdict::facts::{KeyRef, Provider, References, kek_ref};
use crate::verdict::repair::Repair;

/// A verdict's changes, applied together or not at all.
#[derive(Debug)]
pub struct Change<'a> {
    /// The guest.
    pub domain: DomainUuid,
    /// What the verdict saw; if the store differs now, nothing is changed.
    pub seen: &'a References,
    /// The repairs, in order.
    pub repairs: &'a [Repair],
    /// Whether this start uses a key that its client provided; `None` if nothing starts.
    pub clients_key: Option<bool>,
    /// The key of a `CreateKey` or a `KeepHostValue` among them.
    pub new_key: Option<&'a NewKey>,
    /// The secret that the domain XML names, for rows that the repairs add.
    pub secret_uuid: Option<SecretUuid>,
    /// The event to record with them.
    pub event: Option<&'a Event>,
    /// The time that goes into `created_at`, `updated_at`, `retired_at`.
    pub now: Timestamp,
}

pub(super) struct Repairs<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) change: &'a Change<'a>,
    /// The row that a `BindProvider` or a `LearnKey` added.
    pub(super) made: Option<KeyRefId>,
}

impl Repairs<'_> {
    pub(super) fn apply(&mut self, repair: &Repair) -> Result<(), Failure> {
        match repair {
            Repair::DeletePlaceholder { key_ref } => self.delete(*key_ref, PLACEHOLDER),
            Repair::RebindProvider {
                key_ref,
                provider,
                provider_name,
            } => self.bind(*key_ref, *provider, provider_name, KEYED),
            Repair::DeleteDuplicate { key_ref, kept } => {
                let kept = kept.or(self.made).ok_or(StoreError::Changed)?;
                self.merge(*key_ref, kept)
            }
            Repair::RetireKey { key_ref } => {
                self.update(*key_ref, "retired_at = ?4", "TRUE", &[&self.change.now.0])
            }
            Repair::CreateKey {
                key_ref, provider, ..
            } => {
                let key_ref = key_ref.or(self.made).ok_or(StoreError::Changed)?;
                self.create_key(key_ref, *provider)
            }
            Repair::FillKeyVersion {
                key_ref,
                key_version,
            } => self.update(*key_ref, "key_version = ?4", "TRUE", &[key_version]),
            Repair::FillKekRef { key_ref, kek_ref } => {
                self.update(*key_ref, "kek_ref = ?4", KEYED, &[kek_ref])
            }
            Repair::SetSecretUuid {
                key_ref,
                secret_uuid,
            } => {
                let secret_uuid = secret_uuid.to_string();
                self.update(*key_ref, "secret_uuid = ?4", "TRUE", &[&secret_uuid])
            }
            Repair::KeepHostValue { provider } => self.add_retired(*provider),
            Repair::LearnKey { key } => self.learn(key),
            // Carried out on files, before the rows change.
            Repair::RestoreTpmState { .. } => Ok(()),
            Repair::BindProvider {
                key_ref: Some(key_ref),
                provider,
                provider_name,
            } => self.bind(*key_ref, *provider, provider_name, PLACEHOLDER),
            Repair::BindProvider {
                key_ref: None,
                provider,
                provider_name,
            } => {
                let row = self.new_row((*provider, provider_name), None);
                self.made = Some(key_rows::insert(self.transaction, &row)?);
                Ok(())
            }
        }
    }

    fn bind(
        &self,
        key_ref: KeyRefId,
        provider: ProviderUuid,
        name: &str,
        only_if: &str,
    ) -> Result<(), Failure> {
        self.saw(|seen| seen.uuid == provider && seen.name == name)?;
        let set = format!(
            "provider_uuid = {}, provider_name = ?5",
            provider_uuid("?4")
        );
        self.update(key_ref, &set, only_if, &[&provider.to_string(), &name])
    }

    /// The provider that a repair names must be one that the verdict saw, and so exists now.
    fn saw(&self, is_it: impl FnMut(&Provider) -> bool) -> Result<(), Failure> {
        if self.change.seen.providers.iter().any(is_it) {
            Ok(())
        } else {
            Err(StoreError::Changed.into())
        }
    }

    /// Deletes a duplicate. The row that keeps the same DEK must exist.
    fn merge(&self, key_ref: KeyRefId, kept: KeyRefId) -> Result<(), Failure> {
        let set = "first_used_at = (SELECT min(first_used_at) FROM key_ref WHERE id IN (?1, ?4))";
        let only_if = format!("{KEYED} AND id <> ?4");
        self.update(kept, set, &only_if, &[&key_ref.0])?;
        self.delete(key_ref, KEYED)
    }

    fn create_key(&self, key_ref: KeyRefId, provider: ProviderUuid) -> Result<(), Failure> {
        let key = self.change.new_key.ok_or(StoreError::NoNewKey)?;
        self.saw(|seen| seen.uuid == provider && seen.key_id == key.key_id)?;
        let set = "wrapped_dek = ?4, kek_ref = ?5, key_version = ?6, algorithm = ?7,
                   secret_uuid = coalesce(?8, secret_uuid), first_used_at = NULL";
        let values: [&dyn ToSql; 5] = [
            &key.wrapped_dek.as_bytes(),
            &kek_ref(key.key_id),
            &key.key_version,
            &key.algorithm,
            &self.change.secret_uuid.map(|uuid| uuid.to_string()),
        ];
        self.update(key_ref, set, PLACEHOLDER, &values)?;
        let domain = self.change.domain;
        key_rows::read_back(self.transaction, key_ref, domain, key)?;
        fresh_keys::delete_spare(self.transaction, key_ref, domain, key)?;
        fresh_keys::note(self.transaction, key_ref, self.change.now)
    }

    /// Adds a key that the domain XML has. The provider must be one that the verdict saw, and no row
    /// of the guest may hold it: one that was retired meanwhile stays so.
    fn learn(&mut self, key: &KeyRef) -> Result<(), Failure> {
        let seen = &self.change.seen.providers;
        let provider = seen.iter().find(|seen| key.is_bound_to(seen));
        let wrapped = key.wrapped_dek.clone();
        let (Some(provider), Some(wrapped)) = (provider, wrapped) else {
            return Err(StoreError::Changed.into());
        };
        if key_rows::is_held(self.transaction, self.change.domain, &wrapped)? {
            return Err(StoreError::Changed.into());
        }
        let key = NewKey::new(wrapped, provider.key_id, provider.key_version);
        let row = NewRow {
            first_used_at: Some(self.change.now),
            ..self.new_row((provider.uuid, &provider.name), Some(&key))
        };
        self.made = Some(key_rows::insert(self.transaction, &row)?);
        Ok(())
    }

    /// Adds the key of this change as a retired row.
    fn add_retired(&self, provider: ProviderUuid) -> Result<(), Failure> {
        let key = self.change.new_key.ok_or(StoreError::NoNewKey)?;
        let is_it = |seen: &&Provider| seen.uuid == provider && seen.key_id == key.key_id;
        let mut seen = self.change.seen.providers.iter();
        let provider = seen.find(is_it).ok_or(StoreError::Changed)?;
        let row = NewRow {
            retired_at: Some(self.change.now),
            ..self.new_row((provider.uuid, &provider.name), Some(key))
        };
        let key_ref = key_rows::insert(self.transaction, &row)?;
        fresh_keys::delete_spare(self.transaction, key_ref, self.change.domain, key)
    }

    /// A row of the guest, not used yet.
    fn new_row<'b>(
        &self,
        provider: (ProviderUuid, &'b str),
        key: Option<&'b NewKey>,
    ) -> NewRow<'b> {
        NewRow {
            domain: self.change.domain,
            provider,
            secret_uuid: self.change.secret_uuid,
            key,
            first_used_at: None,
            retired_at: None,
            now: self.change.now,
        }
    }

    /// Changes one row in use of the guest. `values` are `?4` and following.
    fn update(
        &self,
        key_ref: KeyRefId,
        set: &str,
        only_if: &str,
        values: &[&dyn ToSql],
    ) -> Result<(), Failure> {
        let of_domain = is_uuid("resource_uuid", "?2");
        let sql = format!(
            "UPDATE OR ABORT key_ref SET {set}, updated_at = ?3
             WHERE id = ?1 AND {of_domain} AND {LIVE} AND {only_if}"
        );
        let domain = self.change.domain.to_string();
        let mut all: Vec<&dyn ToSql> = vec![&key_ref.0, &domain, &self.change.now.0];
        all.extend(values);
        exactly_one(self.transaction.execute(&sql, all.as_slice())?)
    }

    fn delete(&self, key_ref: KeyRefId, only_if: &str) -> Result<(), Failure> {
        let of_domain = is_uuid("resource_uuid", "?2");
        let sql =
            format!("DELETE FROM key_ref WHERE id = ?1 AND {of_domain} AND {LIVE} AND {only_if}");
        let domain = self.change.domain.to_string();
        exactly_one(self.transaction.execute(&sql, params![key_ref.0, domain])?)
    }
}
