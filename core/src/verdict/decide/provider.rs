//! Which provider a row belongs to.

use crate::key::id::KeyId;
use crate::verdict::facts::{KeyRef, NotOpened, Provider, References};
use crate::verdict::refusal::Refusal;

/// How a row leads to its provider; the nearer ties come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tie {
    /// The row names it by UUID.
    Uuid,
    /// It bears the name that the row gives.
    Name,
    /// It has the KEK that wrapped the row's DEK.
    KeyId,
}

/// The provider that `row` names: by UUID, else by name.
pub(super) fn named<'a>(row: &KeyRef, references: &'a References) -> Option<(Tie, &'a Provider)> {
    let providers = references.providers.iter();
    let by_uuid = providers
        .clone()
        .find(|provider| Some(provider.uuid) == row.provider_uuid);
    let by_name = || {
        providers
            .clone()
            .find(|provider| provider.name == row.provider_name)
    };
    by_uuid
        .map(|provider| (Tie::Uuid, provider))
        .or_else(|| by_name().map(|provider| (Tie::Name, provider)))
}

/// The provider that owns the DEK of `row`, which the KEK `key_id` has opened: the one that
/// the row names by UUID, else by name, else the only one with that key. A provider of the
/// right name with another key does not count: never by name alone.
pub(super) fn owner<'a>(
    row: &KeyRef,
    key_id: KeyId,
    references: &'a References,
) -> Result<(Tie, &'a Provider), Refusal> {
    let holders: Vec<_> = references
        .providers
        .iter()
        .filter(|provider| provider.key_id == key_id)
        .collect();
    let by_uuid = holders
        .iter()
        .find(|provider| Some(provider.uuid) == row.provider_uuid);
    let by_name = holders
        .iter()
        .find(|provider| provider.name == row.provider_name);
    match (by_uuid, by_name, holders.as_slice()) {
        (Some(provider), _, _) => Ok((Tie::Uuid, provider)),
        (None, Some(provider), _) => Ok((Tie::Name, provider)),
        (None, None, [provider]) => Ok((Tie::KeyId, provider)),
        (None, None, []) => Err(not_owned(row, key_id, references)),
        (None, None, _) => Err(Refusal::ProviderAmbiguous {
            provider: row.provider_name.clone(),
            key_id,
            candidates: holders
                .iter()
                .map(|provider| provider.name.clone())
                .collect(),
        }),
    }
}

/// The refusal that a row which did not open stands for.
pub(super) fn why_closed(row: &KeyRef, not_opened: &NotOpened, references: &References) -> Refusal {
    match not_opened {
        NotOpened::NoProvider { key_id } => not_owned(row, *key_id, references),
        NotOpened::Sealed { key_id, reason } => Refusal::ProviderSealed {
            provider: owner_name(row, *key_id, references),
            reason: reason.clone(),
        },
        NotOpened::NotInTime { key_id } => Refusal::ProviderNotInTime {
            provider: owner_name(row, *key_id, references),
        },
        NotOpened::Corrupt { reason } => Refusal::KeyCorrupt {
            key_ref: row.id,
            reason: reason.clone(),
        },
    }
}

fn owner_name(row: &KeyRef, key_id: KeyId, references: &References) -> String {
    let owner = owner(row, key_id, references);
    owner.map_or_else(
        |_| row.provider_name.clone(),
        |(_, provider)| provider.name.clone(),
    )
}

fn not_owned(row: &KeyRef, key_id: KeyId, references: &References) -> Refusal {
    match named(row, references) {
        Some((_, provider)) => Refusal::ProviderKeyMismatch {
            provider: provider.name.clone(),
            has: provider.key_id,
            wrapped_with: key_id,
        },
        None => Refusal::ProviderMissing {
            provider: row.provider_name.clone(),
            key_id: Some(key_id),
        },
    }
}
