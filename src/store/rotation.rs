//! A provider's new KEK, and what becomes of its former one.
//!
//! The former KEK stays on the host as a provider of its own, `NAME/KEY` (`KEY`: the first
//! eight digits of its key id; nobody can give a provider such a name). So a key reference
//! that was missed, or that another tool brings back, still opens, by the rules that hold for
//! any provider; and the former KEK goes only when nothing needs it.

use rusqlite::{Connection, Transaction, params};

use super::apply::{exactly_one, kek_ref, read_back};
use super::error::Failure;
use super::schema::is_uuid;
use super::{Store, StoreError, keys, load, providers};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::Provider;

/// One key reference whose DEK was wrapped anew.
#[derive(Debug, Clone)]
pub struct RewrappedRow {
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
    pub rewrapped: &'a [RewrappedRow],
    /// The rows under the old KEK that do not open, and so stay as they are.
    pub given_up: &'a [KeyRefId],
    /// The time that goes into `updated_at`.
    pub now: Timestamp,
}

/// The name under which a former KEK of the provider `name` is kept.
#[must_use]
pub fn previous_key_name(name: &str, key_id: KeyId) -> String {
    format!("{name}/{}", key_id.short())
}

/// The name of the provider whose former KEK this is; `None` where it is no former KEK.
#[must_use]
pub fn previous_key_of(provider: &Provider) -> Option<&str> {
    let key = provider.key_id.short();
    provider.name.strip_suffix(&key)?.strip_suffix('/')
}

impl Store {
    /// The former KEKs of a provider, by name.
    pub fn previous_keys(&self, provider: &Provider) -> Result<Vec<Provider>, StoreError> {
        self.read(|connection| formers(connection, provider))
    }

    /// Gives a provider its new KEK together with the rows that were wrapped anew with it, and
    /// keeps the former KEK, unless another provider has it too. The new one counts as never
    /// exported.
    ///
    /// `Changed` if any row under the old KEK would be left behind that was not given up:
    /// somebody made it meanwhile.
    pub fn rotate_provider(&mut self, rotation: &Rotation<'_>) -> Result<(), StoreError> {
        let Rotation { provider, now, .. } = rotation;
        self.write(|transaction| {
            if providers::by_uuid(transaction, provider.uuid)?.key_id != provider.key_id {
                return Err(StoreError::Changed.into());
            }
            rewrap(transaction, provider, rotation.rewrapped, *now)?;
            let left = keys::under_kek(transaction, provider.key_id)?;
            if left
                .iter()
                .any(|row| !rotation.given_up.contains(&row.key_ref.id))
            {
                return Err(StoreError::Changed.into());
            }
            let is_it = is_uuid("uuid", "?1");
            let sql = format!(
                "UPDATE OR ABORT key_provider SET key_id = ?2, key_version = ?3, exported_at = NULL,
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
            )?)?;
            keep_former(transaction, provider, *now)
        })
    }

    /// Writes rows that were wrapped anew with the KEK that the provider has already, and binds
    /// them to it: what a rotation of before has missed. `Changed` if it has another KEK, or a row was changed.
    pub fn rewrap(
        &mut self,
        provider: &Provider,
        rewrapped: &[RewrappedRow],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if providers::by_uuid(transaction, provider.uuid)?.key_id != provider.key_id {
                return Err(StoreError::Changed.into());
            }
            rewrap(transaction, provider, rewrapped, now)
        })
    }

    /// Deletes the row of a former KEK that no key reference needs, retired ones included.
    /// Says whether it is gone.
    pub fn delete_previous_key(&mut self, former: &Provider) -> Result<bool, StoreError> {
        self.write(|transaction| {
            let is_its = is_uuid("provider_uuid", "?1");
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM key_ref WHERE {is_its} OR provider_name = ?2)"
            );
            let bound: bool = transaction.query_row(
                &sql,
                params![former.uuid.to_string(), former.name],
                |row| row.get(0),
            )?;
            if bound || !keys::under_kek(transaction, former.key_id)?.is_empty() {
                return Ok(false);
            }
            let is_it = is_uuid("uuid", "?1");
            Ok(providers::delete(transaction, &is_it, &former.uuid.to_string())? == 1)
        })
    }
}

pub(super) fn formers(
    connection: &Connection,
    provider: &Provider,
) -> Result<Vec<Provider>, Failure> {
    let mut all = load::providers(connection)?;
    all.retain(|other| previous_key_of(other) == Some(&provider.name));
    Ok(all)
}

/// Rows that were bound to a former KEK are the provider's now, or that one would be needed
/// for ever.
fn rewrap(
    transaction: &Transaction<'_>,
    provider: &Provider,
    rewrapped: &[RewrappedRow],
    now: Timestamp,
) -> Result<(), Failure> {
    for RewrappedRow { key_ref, seen, key } in rewrapped {
        exactly_one(transaction.execute(
            "UPDATE OR ABORT key_ref SET wrapped_dek = ?3, kek_ref = ?4, key_version = ?5,
                                algorithm = ?6, provider_uuid = ?7, provider_name = ?8,
                                updated_at = ?9
             WHERE id = ?1 AND wrapped_dek = ?2",
            params![
                key_ref.0,
                seen.as_bytes(),
                key.wrapped_dek.as_bytes(),
                kek_ref(key.key_id),
                key.key_version,
                key.algorithm,
                provider.uuid.to_string(),
                provider.name,
                now.0
            ],
        )?)?;
        let domain = keys::record(transaction, *key_ref)?.domain;
        read_back(transaction, *key_ref, domain, key)?;
    }
    Ok(())
}

/// Makes a provider of the KEK that `provider` had. Where another one has it too, that one
/// keeps it: a second would be ambiguous.
fn keep_former(
    transaction: &Transaction<'_>,
    provider: &Provider,
    now: Timestamp,
) -> Result<(), Failure> {
    let all = load::providers(transaction)?;
    if all.iter().any(|other| other.key_id == provider.key_id) {
        return Ok(());
    }
    let name = previous_key_name(&provider.name, provider.key_id);
    providers::take_name(transaction, &name)?;
    transaction.execute(
        "INSERT OR ABORT INTO key_provider (uuid, name, kind, key_id, key_version, is_default,
                                   exported_at, created_at, updated_at)
         VALUES (?1, ?2, 'native', ?3, ?4, 0, ?5, ?6, ?7)",
        params![
            ProviderUuid::random().to_string(),
            name,
            provider.key_id.to_string(),
            provider.key_version,
            provider.exported_at.map(|at| at.0),
            provider.created_at.0,
            now.0
        ],
    )?;
    Ok(())
}
