//! Which provider a guest is bound to, and which guests depend on a provider.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::error::Failure;
use super::key_rows::{self, NewRow};
use super::schema::{LIVE, is_uuid, provider_uuid};
use super::{Store, StoreError, columns, events, provider_rows};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid};
use crate::verdict::facts::{KeyRef, Provider, kek_ref};

/// What binding a guest changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingChange {
    /// Nothing: this row already binds it to that provider.
    Unchanged(KeyRefId),
    /// This placeholder was added.
    Added(KeyRefId),
    /// A placeholder that named another provider was bound to this one.
    Moved {
        /// The placeholder.
        key_ref: KeyRefId,
        /// The provider that it named before.
        from: String,
    },
}

/// What unbinding a guest changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnbindCounts {
    /// How many placeholders were deleted.
    pub placeholders: usize,
    /// How many keyed rows were retired.
    pub retired: usize,
}

/// A guest that does not start without a certain provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DependentDomain {
    /// Its UUID.
    pub uuid: DomainUuid,
    /// Its name, if the history knows it.
    pub name: Option<String>,
}

impl Store {
    /// Binds a guest to a provider: adds a placeholder, unless it is already bound to it. `HasKey`
    /// if the guest has a key under another provider.
    pub fn bind(
        &mut self,
        domain: DomainUuid,
        provider: ProviderUuid,
        now: Timestamp,
    ) -> Result<BindingChange, StoreError> {
        self.write(|transaction| {
            let all = provider_rows::all(transaction)?;
            let provider = provider_rows::by_uuid(transaction, provider)?;
            let rows = key_rows::in_use(transaction, domain)?;
            let (keyed, placeholders): (Vec<_>, Vec<_>) =
                rows.iter().partition(|row| row.wrapped_dek.is_some());
            let candidates = if keyed.is_empty() {
                &placeholders
            } else {
                &keyed
            };
            if let Some(row) = candidates
                .iter()
                .find(|row| is_bound_to(row, &provider, &all))
            {
                return Ok(BindingChange::Unchanged(row.id));
            }
            if let Some(row) = keyed.first() {
                let (key_ref, provider) = (row.id, row.provider_name.clone());
                return Err(StoreError::HasKey { key_ref, provider }.into());
            }
            let Some(row) = placeholders.first() else {
                let row = NewRow {
                    domain,
                    provider: (provider.uuid, &provider.name),
                    secret_uuid: None,
                    key: None,
                    first_used_at: None,
                    retired_at: None,
                    now,
                };
                return key_rows::insert(transaction, &row).map(BindingChange::Added);
            };
            let sql = format!(
                "UPDATE OR ABORT key_ref SET provider_uuid = {}, provider_name = ?3, updated_at = ?4
                 WHERE id = ?1",
                provider_uuid("?2")
            );
            transaction.execute(
                &sql,
                params![row.id.0, provider.uuid.to_string(), provider.name, now.0],
            )?;
            Ok(BindingChange::Moved {
                key_ref: row.id,
                from: row.provider_name.clone(),
            })
        })
    }

    /// Stops managing a guest: deletes its placeholders and retires its keys.
    pub fn unbind(
        &mut self,
        domain: DomainUuid,
        now: Timestamp,
    ) -> Result<UnbindCounts, StoreError> {
        self.write(|transaction| {
            Ok(UnbindCounts {
                placeholders: key_rows::delete_placeholders(transaction, domain)?,
                retired: key_rows::retire_keyed(transaction, domain, None, now)?.len(),
            })
        })
    }

    /// The guests that would not start if this provider were deleted, by UUID: those with a
    /// key under its KEK, unless another provider has the same KEK, and those without a key
    /// that are bound to it.
    pub fn dependent_domains(
        &self,
        provider: &Provider,
    ) -> Result<Vec<DependentDomain>, StoreError> {
        self.read(|connection| {
            let locked = locked_without(connection, provider, &BTreeSet::new())?.into_iter();
            let named = locked.map(|uuid| {
                let name = events::last_name(connection, uuid)?;
                Ok(DependentDomain { uuid, name })
            });
            named.collect()
        })
    }
}

/// The guests of [`Store::dependent_domains`] that are not among these.
pub(super) fn locked_without(
    connection: &Connection,
    provider: &Provider,
    seen: &BTreeSet<DomainUuid>,
) -> Result<Vec<DomainUuid>, Failure> {
    let all = provider_rows::all(connection)?;
    let mut locked = Vec::new();
    for uuid in domains_near(connection, provider)? {
        if seen.contains(&uuid) {
            continue;
        }
        let rows = key_rows::in_use(connection, uuid)?;
        if is_locked_without(&rows, provider, &all) {
            locked.push(uuid);
        }
    }
    Ok(locked)
}

/// The guests with a row in use that may refer to this provider.
fn domains_near(connection: &Connection, provider: &Provider) -> Result<Vec<DomainUuid>, Failure> {
    let bound = is_uuid("provider_uuid", "?1");
    let sql = format!(
        "SELECT DISTINCT resource_uuid FROM key_ref
         WHERE {LIVE} AND ({bound} OR provider_name = ?2 OR kek_ref = ?3
                           OR instr(wrapped_dek, ?4) > 0)"
    );
    let mut query = connection.prepare(&sql)?;
    let values = params![
        provider.uuid.to_string(),
        provider.name,
        kek_ref(provider.key_id),
        provider.key_id.as_bytes()
    ];
    let texts = query
        .query_map(values, |row| columns::text(row, "resource_uuid"))?
        .collect::<Result<Vec<_>, _>>()?;
    let parse = |text: &String| DomainUuid::parse(text).ok();
    let mut domains: Vec<_> = texts.iter().flatten().filter_map(parse).collect();
    domains.sort();
    domains.dedup();
    Ok(domains)
}

fn is_locked_without(rows: &[KeyRef], provider: &Provider, all: &[Provider]) -> bool {
    let is_twin = |other: &Provider| other.uuid != provider.uuid && other.key_id == provider.key_id;
    let has_twin = all.iter().any(is_twin);
    let is_keyed = |row: &&KeyRef| row.wrapped_dek.is_some();
    if rows.iter().any(|row| is_keyed(&row)) {
        rows.iter()
            .filter(is_keyed)
            .any(|row| match key_rows::kek_of(row) {
                Some(key_id) => key_id == provider.key_id && !has_twin,
                None => is_bound_to(row, provider, all),
            })
    } else {
        rows.iter().any(|row| is_bound_to(row, provider, all))
    }
}

/// Whether a row names this provider: by UUID, or, if no provider has that UUID, by name.
fn is_bound_to(row: &KeyRef, provider: &Provider, all: &[Provider]) -> bool {
    match row.provider_uuid {
        Some(uuid) if all.iter().any(|known| known.uuid == uuid) => uuid == provider.uuid,
        _ => row.provider_name == provider.name,
    }
}
