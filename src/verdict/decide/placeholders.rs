//! Placeholders without any keyed row: a binding whose key is yet to be made.

use super::host_secret::degrade_or_deny;
use super::mend::mend;
use super::{Case, allow, deny, provider};
use crate::verdict::facts::{HostSecret, KekState, KeyRef, KeySource, Provider};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Finding, ProvideSecret, Reason, Verdict};

pub(super) fn decide(case: &Case<'_>) -> Answer {
    if !case.would_be_a_new_tpm() {
        return existing_tpm(case);
    }
    let rows = &case.references.key_refs;
    // The first to be kept: one whose KEK opens, then the nearest tie, then the oldest.
    let best = rows
        .iter()
        .filter_map(|row| {
            provider::named(row, case.references).map(|(tie, owner)| (row, tie, owner))
        })
        .min_by_key(|(row, tie, owner)| {
            (sealed(case, owner).is_some(), *tie, row.created_at, row.id)
        });
    let Some((kept, _, owner)) = best else {
        return degrade_or_deny(case, provider_missing(rows));
    };
    if let Some(refusal) = sealed(case, owner) {
        return degrade_or_deny(case, refusal);
    }
    let mut verdict = allow(Reason::NewKey);
    for key_ref in rows.iter().map(|row| row.id).filter(|id| *id != kept.id) {
        verdict.plan(
            Finding::OrphanPlaceholder(key_ref),
            Repair::DeletePlaceholder { key_ref },
        );
    }
    mend(&mut verdict, case, kept, owner);
    make_key(verdict, Some(kept), owner).into()
}

/// Makes a row, and its key, for a guest without any: `policy.auto_bind`.
pub(super) fn bind_and_make_key(case: &Case<'_>, provider_name: &str) -> Answer {
    let mut providers = case.references.providers.iter();
    let Some(owner) = providers.find(|provider| provider.name == provider_name) else {
        let provider = provider_name.to_owned();
        return deny(Refusal::ProviderMissing {
            provider,
            key_id: None,
        })
        .into();
    };
    if let Some(refusal) = sealed(case, owner) {
        return deny(refusal).into();
    }
    let mut verdict = allow(Reason::NewKey);
    verdict.repairs.push(Repair::BindProvider {
        key_ref: None,
        provider: owner.uuid,
        provider_name: owner.name.clone(),
    });
    make_key(verdict, None, owner).into()
}

/// A key must never be made over existing state, nor over state that is on its way.
fn existing_tpm(case: &Case<'_>) -> Answer {
    match &case.facts.host_secret {
        None => Answer::AskHostSecret,
        Some(HostSecret::HasValue) => allow(Reason::HostSecret).noting(Finding::Unmanaged).into(),
        Some(HostSecret::Conflict(reason)) => deny(case.conflict(reason)).into(),
        Some(HostSecret::Unreachable(reason)) => deny(Refusal::LibvirtUnreachable {
            reason: reason.clone(),
        })
        .into(),
        Some(HostSecret::Absent | HostSecret::NoValue) => deny(Refusal::KeyLost).into(),
    }
}

fn make_key(mut verdict: Verdict, row: Option<&KeyRef>, owner: &Provider) -> Verdict {
    verdict.repairs.push(Repair::CreateKey {
        key_ref: row.map(|row| row.id),
        provider: owner.uuid,
    });
    // There is no state that could contradict the new key.
    verdict.providing(ProvideSecret {
        key: KeySource::Created,
        replace_foreign: true,
    })
}

fn sealed(case: &Case<'_>, owner: &Provider) -> Option<Refusal> {
    let reason = match case.facts.keks.get(&owner.key_id) {
        Some(KekState::Opens) => return None,
        Some(KekState::NotInTime) => {
            let provider = owner.name.clone();
            return Some(Refusal::ProviderNotInTime { provider });
        }
        Some(KekState::Sealed(reason)) => reason.clone(),
        None => "its key was not tried".to_owned(),
    };
    Some(Refusal::ProviderSealed {
        provider: owner.name.clone(),
        reason,
    })
}

fn provider_missing(rows: &[KeyRef]) -> Refusal {
    let oldest = rows.iter().min_by_key(|row| (row.created_at, row.id));
    Refusal::ProviderMissing {
        provider: oldest
            .map(|row| row.provider_name.clone())
            .unwrap_or_default(),
        key_id: None,
    }
}
