//! Placeholders without any keyed row: a binding whose key is yet to be made.

use std::ops::ControlFlow::{self, Break, Continue};

use super::Case;
use super::host_secret::{Carries, ChosenKey, carried, degrade_or_deny, give};
use super::provider;
use super::repair_row::repair_row;
use crate::verdict::facts::{
    HostSecret, HostValue, KekState, KeyRef, KeySource, Permission, Provider, provider_of,
};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::{KeyOrigin, Repair};
use crate::verdict::{Answer, Finding, Over, ProvideSecret, Reason, Verdict};

pub(super) fn decide(case: &Case<'_>) -> Answer {
    if !case.would_be_a_new_tpm() {
        return existing_tpm(case);
    }
    // The guest has a TPM somewhere: the key of its XML says so.
    if let Some(refusal) = case.xml_key_out_of_reach() {
        return if case.facts.policy.missing_state == Permission::Deny {
            Verdict::deny(refusal).into()
        } else {
            degrade_or_deny(case, refusal)
        };
    }
    let rows = &case.references.key_refs;
    let providers = &case.references.providers;
    // The one to keep: one whose provider key opens, then the closest binding, then the oldest.
    let best = rows
        .iter()
        .filter_map(|row| provider_of(row, providers).map(|owner| (row, owner)))
        .min_by_key(|(row, owner)| {
            let is_sealed = sealed(case, owner).is_some();
            (is_sealed, owner.named_by(row), row.created_at, row.id)
        });
    let Some((kept, owner)) = best else {
        return degrade_or_deny(case, provider_missing(rows));
    };
    if let Some(refusal) = sealed(case, owner) {
        return degrade_or_deny(case, refusal);
    }
    let origin = match origin_of_a_new_key(case) {
        Continue(origin) => origin,
        Break(answer) => return answer,
    };
    let mut verdict = Verdict::allow(Reason::NewKey);
    for key_ref in rows.iter().map(|row| row.id).filter(|id| *id != kept.id) {
        verdict.plan(
            Finding::OrphanPlaceholder(key_ref),
            Repair::DeletePlaceholder { key_ref },
        );
    }
    repair_row(&mut verdict, case, kept, owner);
    make_key(case, verdict, Some(kept), owner, origin)
}

/// Makes a row, and its key, for a guest without any: `policy.auto_bind`.
pub(super) fn bind_and_make_key(case: &Case<'_>, provider_name: &str) -> Answer {
    let mut providers = case.references.providers.iter();
    let Some(owner) = providers.find(|provider| provider.name == provider_name) else {
        let provider = provider_name.to_owned();
        return Verdict::deny(Refusal::AutoBindMissing { provider }).into();
    };
    if let Some(refusal) = sealed(case, owner) {
        return Verdict::deny(refusal).into();
    }
    let mut verdict = Verdict::allow(Reason::NewKey);
    verdict.findings.extend(case.used_tpm_replaced());
    verdict.repairs.push(Repair::BindProvider {
        key_ref: None,
        provider: owner.uuid,
        provider_name: owner.name.clone(),
    });
    make_key(case, verdict, None, owner, KeyOrigin::Random)
}

/// A key must never be made over existing state, nor over state that is on its way.
fn existing_tpm(case: &Case<'_>) -> Answer {
    if let Some(refusal) = case.host_secret_refusal() {
        return Verdict::deny(refusal).into();
    }
    match case.carries() {
        Carries::Ask => Answer::AskHostSecret,
        Carries::Yes(finding) => carried(finding).into(),
        Carries::Refuted => Verdict::deny(case.host_value_does_not_open()).into(),
        Carries::No => Verdict::deny(case.key_lost()).into(),
    }
}

/// A value that a client gave libvirt for a guest without state is that guest's key, and no
/// other is ever made beside it: it becomes the row's where root can read it, and otherwise
/// the start uses it as it is.
fn origin_of_a_new_key(case: &Case<'_>) -> ControlFlow<Answer, KeyOrigin> {
    let foreign = match &case.facts.host_secret {
        None => return Break(Answer::AskHostSecret),
        Some(HostSecret::Foreign(foreign)) => foreign,
        Some(_) => return Continue(KeyOrigin::Random),
    };
    match foreign.value {
        HostValue::None => Continue(KeyOrigin::Random),
        // It may be the key of that guest's TPM.
        _ if !foreign.named_by.is_empty() => {
            let (secret, guests) = (case.secret_uuid, foreign.named_by.clone());
            Break(Verdict::deny(Refusal::SecretOfGuest { secret, guests }).into())
        }
        HostValue::Known { .. } => Continue(KeyOrigin::HostSecret),
        HostValue::Hidden => Break(carried(foreign.finding()).into()),
    }
}

fn make_key(
    case: &Case<'_>,
    mut verdict: Verdict,
    row: Option<&KeyRef>,
    owner: &Provider,
    origin: KeyOrigin,
) -> Answer {
    verdict.repairs.push(Repair::CreateKey {
        key_ref: row.map(|row| row.id),
        provider: owner.uuid,
        origin,
    });
    if origin == KeyOrigin::HostSecret {
        // libvirt has it already, and it stays there until `adopt` takes it away.
        let (key, over) = (KeySource::Created, Over::TheSame);
        let verdict = verdict.with_finding(Finding::Unmanaged);
        return verdict.with_secret(ProvideSecret { key, over }).into();
    }
    let chosen = ChosenKey {
        source: KeySource::Created,
        dek: None,
        is_proven: false,
        owner,
    };
    give(case, verdict, &chosen)
}

fn sealed(case: &Case<'_>, owner: &Provider) -> Option<Refusal> {
    let reason = match case.facts.keks.get(&owner.key_id) {
        Some(KekState::Opens) => return None,
        Some(KekState::TimedOut) => {
            let provider = owner.name.clone();
            return Some(Refusal::ProviderTimedOut { provider });
        }
        Some(KekState::NotHere) => return Some(provider::not_here(owner)),
        Some(KekState::Expired) => return Some(provider::expired(owner)),
        Some(KekState::Sealed(reason)) => reason.clone(),
        None => "its key was not tried".to_owned(),
    };
    Some(provider::sealed(owner, reason))
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
