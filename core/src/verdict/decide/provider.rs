//! Which provider a row belongs to.

use crate::key::id::KeyId;
use crate::verdict::facts::{Binding, KeyRef, NotOpened, Provider, References, provider_of};
use crate::verdict::refusal::Refusal;

/// The provider that owns the DEK of `row`, which the provider key `key_id` has opened: the one
/// that the row names by UUID, else by name, else the only one with that key. A provider of the
/// right name with another key does not count: never by name alone.
pub(super) fn owner<'a>(
    row: &KeyRef,
    key_id: KeyId,
    references: &'a References,
) -> Result<(Binding, &'a Provider), Refusal> {
    let holders: Vec<_> = references
        .providers
        .iter()
        .filter(|provider| provider.key_id == key_id)
        .collect();
    let named = holders
        .iter()
        .filter_map(|provider| Some((provider.named_by(row)?, *provider)))
        .min_by_key(|(binding, _)| *binding);
    match (named, holders.as_slice()) {
        (Some(found), _) => Ok(found),
        (None, [provider]) => Ok((Binding::KeyId, provider)),
        (None, []) => Err(not_owned(row, key_id, references)),
        (None, _) => Err(Refusal::ProviderAmbiguous {
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
pub(super) fn why_not_opened(
    row: &KeyRef,
    not_opened: &NotOpened,
    references: &References,
) -> Refusal {
    match not_opened {
        NotOpened::NoProvider { key_id } => not_owned(row, *key_id, references),
        NotOpened::Sealed { key_id, reason } => of_holder(row, *key_id, references, |owner| {
            sealed(owner, reason.clone())
        }),
        NotOpened::NotHere { key_id } => of_holder(row, *key_id, references, not_here),
        NotOpened::Expired { key_id } => of_holder(row, *key_id, references, expired),
        NotOpened::TimedOut { key_id } => Refusal::ProviderTimedOut {
            provider: owner_name(row, *key_id, references),
        },
        NotOpened::Corrupt { reason, is_newer } => Refusal::KeyCorrupt {
            key_ref: row.id,
            reason: reason.clone(),
            is_newer: *is_newer,
        },
    }
}

/// The refusal where this host does not hold the KEK of `owner`. One that no key manager opens was sealed here, and
/// is gone.
pub(super) fn not_here(owner: &Provider) -> Refusal {
    let key_id = owner.key_id;
    if owner.kms.names.is_empty() {
        return sealed(owner, format!("this host holds no key {key_id}"));
    }
    Refusal::KekNotHere {
        provider: owner.name.clone(),
        key_id,
        kms: owner.kms.names.clone(),
    }
}

/// The refusal where the KEK of `owner` is sealed so that it does not open here.
pub(super) fn sealed(owner: &Provider, reason: String) -> Refusal {
    Refusal::ProviderSealed {
        provider: owner.name.clone(),
        reason,
        kms: owner.kms.names.clone(),
    }
}

/// The refusal where a key manager has opened the KEK of `owner` too long ago.
pub(super) fn expired(owner: &Provider) -> Refusal {
    Refusal::KekExpired {
        provider: owner.name.clone(),
        kms: owner.kms.names.clone(),
        opened_at: owner.kms.opened_at,
    }
}

/// The refusal about the provider that has this KEK: the one that `row` names, else the first by name.
fn of_holder(
    row: &KeyRef,
    key_id: KeyId,
    references: &References,
    refusal: impl FnOnce(&Provider) -> Refusal,
) -> Refusal {
    let owner = owner(row, key_id, references).map(|(_, owner)| owner);
    let holders = references.providers.iter();
    let holders = holders.filter(|it| it.key_id == key_id);
    let holder = owner.ok().or_else(|| holders.min_by_key(|it| &it.name));
    holder.map_or_else(|| not_owned(row, key_id, references), refusal)
}

fn owner_name(row: &KeyRef, key_id: KeyId, references: &References) -> String {
    let owner = owner(row, key_id, references);
    owner.map_or_else(
        |_| row.provider_name.clone(),
        |(_, provider)| provider.name.clone(),
    )
}

fn not_owned(row: &KeyRef, key_id: KeyId, references: &References) -> Refusal {
    match provider_of(row, &references.providers) {
        Some(provider) => Refusal::ProviderKeyMismatch {
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
