//! Which provider a domain is bound to, and which domains depend on a provider.

use rusqlite::{Connection, params};

use super::apply::{insert_placeholder, kek_ref};
use super::error::Failure;
use super::schema::{LIVE, is_uuid};
use super::{Store, StoreError, events, keys, load, providers};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid};
use crate::verdict::facts::{KeyRef, Provider};

/// What binding a domain did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingChange {
    /// Nothing: this row binds it to that provider already.
    Unchanged(KeyRefId),
    /// This placeholder was made.
    Added(KeyRefId),
    /// A placeholder that named another provider was bound to this one.
    Moved {
        /// The placeholder.
        key_ref: KeyRefId,
        /// The provider that it named before.
        from: String,
    },
}

/// What unbinding a domain did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnbindCounts {
    /// How many placeholders were deleted.
    pub placeholders: usize,
    /// How many keyed rows were retired.
    pub retired: usize,
}

/// A domain that does not start without a certain provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DependentDomain {
    /// Its UUID.
    pub uuid: DomainUuid,
    /// Its name, where the history knows it.
    pub name: Option<String>,
}

impl Store {
    /// Binds a domain to a provider: makes a placeholder, unless it is bound to it already.
    /// A domain that has a key under another provider is not bound anew: `HasKey`.
    pub fn bind(
        &mut self,
        domain: DomainUuid,
        provider: ProviderUuid,
        now: Timestamp,
    ) -> Result<BindingChange, StoreError> {
        self.write(|transaction| {
            let all = load::providers(transaction)?;
            let provider = providers::by_uuid(transaction, provider)?;
            let rows = load::key_refs(transaction, domain)?;
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
                let to = (provider.uuid, provider.name.as_str());
                return insert_placeholder(transaction, domain, None, to, now).map(BindingChange::Added);
            };
            let named = is_uuid("uuid", "?2");
            let sql = format!(
                "UPDATE OR ABORT key_ref SET provider_uuid = (SELECT uuid FROM key_provider WHERE {named}),
                                    provider_name = ?3, updated_at = ?4
                 WHERE id = ?1"
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

    /// Takes a domain out of the guard's hands: its placeholders are deleted, its keys retired.
    pub fn unbind(
        &mut self,
        domain: DomainUuid,
        now: Timestamp,
    ) -> Result<UnbindCounts, StoreError> {
        self.write(|transaction| {
            Ok(UnbindCounts {
                placeholders: keys::delete_placeholders(transaction, domain)?,
                retired: keys::retire_keyed(transaction, domain, None, now)?.len(),
            })
        })
    }

    /// The domains that would not start if this provider were deleted, by UUID: those with a
    /// key under its KEK, unless another provider has the same KEK, and those without a key
    /// that are bound to it.
    pub fn dependent_domains(
        &self,
        provider: &Provider,
    ) -> Result<Vec<DependentDomain>, StoreError> {
        self.read(|connection| {
            let all = load::providers(connection)?;
            let mut locked = Vec::new();
            for uuid in domains_near(connection, provider)? {
                let rows = load::key_refs(connection, uuid)?;
                if is_locked_without(&rows, provider, &all) {
                    let name = events::last_name(connection, uuid)?;
                    locked.push(DependentDomain { uuid, name });
                }
            }
            Ok(locked)
        })
    }
}

/// The domains with a live row that has anything to do with this provider.
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
        .query_map(values, |row| super::row::text(row, "resource_uuid"))?
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
            .any(|row| match keys::kek_of(row) {
                Some(key_id) => key_id == provider.key_id && !has_twin,
                None => is_bound_to(row, provider, all),
            })
    } else {
        rows.iter().any(|row| is_bound_to(row, provider, all))
    }
}

/// Whether a row names this provider: by UUID, or, where its UUID is nobody's, by name.
fn is_bound_to(row: &KeyRef, provider: &Provider, all: &[Provider]) -> bool {
    match row.provider_uuid {
        Some(uuid) if all.iter().any(|known| known.uuid == uuid) => uuid == provider.uuid,
        _ => row.provider_name == provider.name,
    }
}
