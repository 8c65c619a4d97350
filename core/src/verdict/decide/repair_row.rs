//! Repairs the row that stays, so that it agrees with its provider, its provider key and the
//! domain XML.

use super::Case;
use crate::verdict::facts::{KeyRef, Provider, for_new_keys, kek_ref};
use crate::verdict::repair::Repair;
use crate::verdict::{Finding, Verdict};

/// Plans what `row` lacks. `owner` is its provider, and has the KEK that wrapped its DEK; a
/// placeholder gets the columns of its key with the key. A row that names a provider whose previous KEK
/// `owner` is stays bound to that one: a rotation re-wraps it soon. So does a row that names a provider which is about to
/// get the key of `owner`, as it was announced: its rows are bound before.
pub(super) fn repair_row(verdict: &mut Verdict, case: &Case<'_>, row: &KeyRef, owner: &Provider) {
    let key_ref = row.id;
    let keyed = row.wrapped_dek.is_some();
    let mut lacks = Vec::new();

    let providers = &case.references.providers;
    let gets_it = |other: &&Provider| owner.announced_as() == Some(&other.name);
    let promoted = || providers.iter().find(gets_it);
    // In this order: nearly each row is bound to its provider, and nothing else is asked then.
    let is_settled = row.is_bound_to(owner)
        || row.is_bound_to(for_new_keys(owner, providers))
        || promoted().is_some_and(|it| row.is_bound_to(it));
    let lost = !is_settled && row.provider_uuid != Some(owner.uuid);
    if !is_settled {
        let provider = owner.uuid;
        let provider_name = owner.name.clone();
        lacks.push(if keyed {
            Repair::RebindProvider {
                key_ref,
                provider,
                provider_name,
            }
        } else {
            Repair::BindProvider {
                key_ref: Some(key_ref),
                provider,
                provider_name,
            }
        });
    }
    if keyed && row.key_version.is_none() {
        lacks.push(Repair::FillKeyVersion {
            key_ref,
            key_version: owner.key_version,
        });
    }
    let kek = kek_ref(owner.key_id);
    if keyed && row.kek_ref.as_ref() != Some(&kek) {
        lacks.push(Repair::FillKekRef {
            key_ref,
            kek_ref: kek,
        });
    }
    // A new key brings the secret's UUID along; only a wrong one is worth a word.
    let names_right_secret = match row.secret_uuid {
        Some(uuid) => uuid == case.secret_uuid,
        None => !keyed,
    };
    if !names_right_secret {
        lacks.push(Repair::SetSecretUuid {
            key_ref,
            secret_uuid: case.secret_uuid,
        });
    }

    if lost {
        verdict.note(Finding::ProviderLost {
            key_ref,
            provider: row.provider_name.clone(),
        });
    }
    // A lost provider accounts for the first repair.
    if lacks.len() > usize::from(lost) {
        verdict.note(Finding::IncompleteRow(key_ref));
    }
    verdict.repairs.append(&mut lacks);
}
