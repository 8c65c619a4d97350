//! Applying a verdict's repairs: all of them in one transaction, and only to the rows that
//! the verdict saw.

use rusqlite::{ToSql, Transaction, params};

use super::error::Failure;
use super::schema::{KEYED, LIVE, PLACEHOLDER, is_uuid};
use super::{Event, Store, StoreError, events, keys, load, start};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::verdict::facts::{Provider, References};
use crate::verdict::repair::Repair;

/// The value of `kek_ref` for a KEK of a native provider.
pub(super) fn kek_ref(key_id: KeyId) -> String {
    format!("native:{key_id}")
}

/// A verdict's changes, applied together or not at all.
#[derive(Debug)]
pub struct Change<'a> {
    /// The domain.
    pub domain: DomainUuid,
    /// What the verdict saw; if the store differs by now, nothing is changed.
    pub seen: &'a References,
    /// The repairs, in order.
    pub repairs: &'a [Repair],
    /// Whether this start goes by a key that its client brought; `None` where there is none.
    pub clients_key: Option<bool>,
    /// The key of a `CreateKey` or a `KeepHostValue` among them.
    pub new_key: Option<&'a NewKey>,
    /// The secret that the domain XML names, for rows that the repairs make.
    pub secret_uuid: Option<SecretUuid>,
    /// The event to record with them.
    pub event: Option<&'a Event>,
    /// The time that goes into `created_at`, `updated_at`, `retired_at`.
    pub now: Timestamp,
}

impl Store {
    /// Applies a verdict's changes in one transaction. Gives the id of the row that a
    /// `BindProvider` made. `Changed` says that nothing was applied, for the rows are not
    /// (or no longer) what the verdict saw: read and decide again.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<Option<KeyRefId>, StoreError> {
        self.write(|transaction| {
            let found = load::references(transaction, change.domain, change.now)?;
            if !found.decides_as(change.seen) {
                return Err(StoreError::Changed.into());
            }
            let mut repairs = Repairs {
                transaction,
                change,
                made: None,
            };
            change
                .repairs
                .iter()
                .try_for_each(|repair| repairs.apply(repair))?;
            let made = repairs.made;
            if let Some(is_clients) = change.clients_key
                && is_clients != change.seen.clients_key
            {
                start::note_clients_key(transaction, change.domain, is_clients, change.now)?;
            }
            if let Some(event) = change.event {
                events::insert(transaction, event)?;
            }
            Ok(made)
        })
    }
}

struct Repairs<'a> {
    transaction: &'a Transaction<'a>,
    change: &'a Change<'a>,
    /// The row that a `BindProvider` made.
    made: Option<KeyRefId>,
}

impl Repairs<'_> {
    fn apply(&mut self, repair: &Repair) -> Result<(), Failure> {
        match repair {
            Repair::DeletePlaceholder { key_ref } => self.delete(*key_ref, PLACEHOLDER),
            Repair::RebindProvider {
                key_ref,
                provider,
                provider_name,
            } => self.bind(*key_ref, *provider, provider_name, KEYED),
            Repair::DeleteDuplicate { key_ref, kept } => self.merge(*key_ref, *kept),
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
            // Done with files, before the rows change.
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
                self.made = Some(insert_placeholder(
                    self.transaction,
                    self.change.domain,
                    self.change.secret_uuid,
                    (*provider, provider_name),
                    self.change.now,
                )?);
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
        // The provider's UUID as its row spells it, else the two would not be tied.
        let uuid = is_uuid("uuid", "?4");
        let set = format!(
            "provider_uuid = (SELECT uuid FROM key_provider WHERE {uuid}), provider_name = ?5"
        );
        self.update(key_ref, &set, only_if, &[&provider.to_string(), &name])
    }

    /// The provider that a repair names must be one that the verdict saw, and so one that is
    /// there now.
    fn saw(&self, is_it: impl FnMut(&Provider) -> bool) -> Result<(), Failure> {
        if self.change.seen.providers.iter().any(is_it) {
            Ok(())
        } else {
            Err(StoreError::Changed.into())
        }
    }

    /// Deletes a duplicate. The row that holds the same DEK must be there to keep it.
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
        read_back(self.transaction, key_ref, domain, key)?;
        start::forget_spare(self.transaction, key_ref, domain, key)?;
        start::note_fresh_key(self.transaction, key_ref, self.change.now)
    }

    /// Adds the key of this change as a row that is retired already.
    fn add_retired(&self, provider: ProviderUuid) -> Result<(), Failure> {
        let key = self.change.new_key.ok_or(StoreError::NoNewKey)?;
        self.saw(|seen| seen.uuid == provider && seen.key_id == key.key_id)?;
        let named = is_uuid("uuid", "?3");
        let sql = format!(
            "INSERT OR ABORT INTO key_ref
                                 (resource_type, resource_uuid, secret_uuid, provider_uuid,
                                  provider_name, wrapped_dek, kek_ref, key_version, algorithm,
                                  retired_at, created_at, updated_at)
             SELECT 'tpm', ?1, ?2, uuid, name, ?4, ?5, ?6, ?7, ?8, ?8, ?8 FROM key_provider
             WHERE {named}"
        );
        exactly_one(self.transaction.execute(
            &sql,
            params![
                self.change.domain.to_string(),
                self.change.secret_uuid.map(|uuid| uuid.to_string()),
                provider.to_string(),
                key.wrapped_dek.as_bytes(),
                kek_ref(key.key_id),
                key.key_version,
                key.algorithm,
                self.change.now.0,
            ],
        )?)?;
        let key_ref = KeyRefId(self.transaction.last_insert_rowid());
        let domain = self.change.domain;
        read_back(self.transaction, key_ref, domain, key)?;
        start::forget_spare(self.transaction, key_ref, domain, key)
    }

    /// Changes one live row of the domain. `values` are `?4` and following.
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

/// A change that was planned for one row and met none, or several, was planned for other rows.
pub(super) fn exactly_one(rows: usize) -> Result<(), Failure> {
    match rows {
        1 => Ok(()),
        _ => Err(StoreError::Changed.into()),
    }
}

/// Reads a key back that was written to a row, before anything is committed. The table may be
/// another tool's: what its schema makes of a value is not for this program to know.
pub(super) fn read_back(
    transaction: &Transaction<'_>,
    key_ref: KeyRefId,
    domain: DomainUuid,
    key: &NewKey,
) -> Result<(), Failure> {
    let found = keys::record(transaction, key_ref)?;
    let row = &found.key_ref;
    let is_kept = found.domain == domain
        && row.wrapped_dek.as_ref() == Some(&key.wrapped_dek)
        && row.kek_ref == Some(kek_ref(key.key_id));
    if is_kept {
        Ok(())
    } else {
        Err(StoreError::NotAsWritten("a key reads back as another one").into())
    }
}

/// Makes a row without a key, bound to a provider.
pub(super) fn insert_placeholder(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
    secret_uuid: Option<SecretUuid>,
    (provider, name): (ProviderUuid, &str),
    now: Timestamp,
) -> Result<KeyRefId, Failure> {
    let named = is_uuid("uuid", "?3");
    let sql = format!(
        "INSERT OR ABORT INTO key_ref (resource_type, resource_uuid, secret_uuid, provider_uuid,
                              provider_name, created_at, updated_at)
         SELECT 'tpm', ?1, ?2, uuid, ?4, ?5, ?5 FROM key_provider WHERE {named}"
    );
    let rows = transaction.execute(
        &sql,
        params![
            domain.to_string(),
            secret_uuid.map(|uuid| uuid.to_string()),
            provider.to_string(),
            name,
            now.0
        ],
    )?;
    exactly_one(rows)?;
    Ok(KeyRefId(transaction.last_insert_rowid()))
}
