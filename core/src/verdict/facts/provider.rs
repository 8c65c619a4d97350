//! Key providers, and which of them a key reference names.

use super::key_ref::KeyRef;
use crate::clock::Timestamp;
use crate::ids::ProviderUuid;
use crate::key::id::KeyId;

/// One row of `key_provider`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its UUID.
    pub uuid: ProviderUuid,
    /// Its name, unique on this host.
    pub name: String,
    /// The identity of its KEK's bytes.
    pub key_id: KeyId,
    /// The version of its KEK.
    pub key_version: i64,
    /// Whether `key bind` and `auto_bind` prefer it.
    pub is_default: bool,
    /// When it was last exported.
    pub exported_at: Option<Timestamp>,
    /// When it was made here.
    pub created_at: Timestamp,
    /// Which key managers open its KEK.
    pub kms: KmsSlots,
}

/// What the names of keys begin with that other hosts of a fleet announced: each is kept like a previous key of a
/// provider that nobody can make, for the names of providers have no slash.
pub const ANNOUNCED: &str = "fleet/";

/// The key managers that have a slot of a KEK.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KmsSlots {
    /// The sections of the configuration that say where they are.
    pub names: Vec<String>,
    /// When one of them last opened it.
    pub opened_at: Option<Timestamp>,
}

impl KmsSlots {
    /// Whether it has been longer than `max_age` (milliseconds) since one of them opened the KEK. A KEK that
    /// no key manager has does not expire. A time that the clock has not reached counts as none: the clock was wrong.
    #[must_use]
    pub fn is_older_than(&self, max_age: i64, now: Timestamp) -> bool {
        let opened = self.opened_at.filter(|at| !at.is_ahead_of(now));
        let opened = opened.map_or(i64::MIN, |at| at.0);
        !self.names.is_empty() && now.0.saturating_sub(opened) > max_age
    }
}

/// How a key reference leads to its provider; the closest binding comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Binding {
    /// The row names it by UUID.
    Uuid,
    /// The row names it by name.
    Name,
    /// It has the provider key that wrapped the row's DEK.
    KeyId,
}

impl KeyRef {
    /// Whether it names this provider by UUID and by its present name.
    #[must_use]
    pub fn is_bound_to(&self, provider: &Provider) -> bool {
        self.provider_uuid == Some(provider.uuid) && self.provider_name == provider.name
    }
}

impl Provider {
    /// How `row` names this provider, by UUID or by name; `None` if it does not name it.
    #[must_use]
    pub fn named_by(&self, row: &KeyRef) -> Option<Binding> {
        if row.provider_uuid == Some(self.uuid) {
            Some(Binding::Uuid)
        } else if row.provider_name == self.name {
            Some(Binding::Name)
        } else {
            None
        }
    }

    /// The name of the provider whose previous key this is. `provider rotate` keeps a previous
    /// key as a provider `NAME/KEY` (`KEY`: the first digits of its key id).
    #[must_use]
    pub fn previous_key_of(&self) -> Option<&str> {
        let key = self.key_id.short();
        self.name.strip_suffix(&key)?.strip_suffix('/')
    }

    /// The name of the provider under which other hosts of a fleet announced this key; `None` if they did not. It
    /// may become the key of that provider.
    #[must_use]
    pub fn announced_as(&self) -> Option<&str> {
        self.previous_key_of()?.strip_prefix(ANNOUNCED)
    }
}

/// The provider that `row` names: by UUID or, where no provider has that UUID, by name. Whether
/// it can unwrap the row's DEK is another question: see [`provider_of_key`].
#[must_use]
pub fn provider_of<'a>(row: &KeyRef, providers: &'a [Provider]) -> Option<&'a Provider> {
    closest(row, providers.iter())
}

/// The provider that has the provider key which wrapped the DEK of `row`: of several the one
/// that `row` names, else the first. For a placeholder, and for a wrapped DEK of no known format,
/// the provider that `row` names.
#[must_use]
pub fn provider_of_key<'a>(row: &KeyRef, providers: &'a [Provider]) -> Option<&'a Provider> {
    let Some(key_id) = row.key_id() else {
        return provider_of(row, providers);
    };
    let holders = providers
        .iter()
        .filter(|provider| provider.key_id == key_id);
    closest(row, holders.clone()).or(holders.into_iter().next())
}

/// The provider that wraps new keys in place of `provider`: itself, or, if it is the previous key
/// of another provider, that one.
#[must_use]
pub fn for_new_keys<'a>(provider: &'a Provider, providers: &'a [Provider]) -> &'a Provider {
    let current = |name| providers.iter().find(|other| other.name == name);
    provider
        .previous_key_of()
        .and_then(current)
        .unwrap_or(provider)
}

fn closest<'a>(
    row: &KeyRef,
    providers: impl Iterator<Item = &'a Provider>,
) -> Option<&'a Provider> {
    providers
        .filter_map(|provider| Some((provider.named_by(row)?, provider)))
        .min_by_key(|(binding, _)| *binding)
        .map(|(_, provider)| provider)
}

#[cfg(test)]
mod tests;
