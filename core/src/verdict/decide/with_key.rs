//! The guest has rows that hold a key: which key is this TPM's, or why none is.

use std::collections::BTreeSet;

use super::Case;
use super::host_secret::{carry_or_deny, degrade_or_deny};
use super::tried::{OpenedRow, UnopenedRow};
use super::use_key::use_key;
use crate::verdict::facts::{DekNumber, Proof, TpmState};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Answer, Verdict};

pub(super) fn decide(case: &Case<'_>) -> Answer {
    let (opened, unopened) = case.tried_rows();
    if let Some(proven) = opened.iter().find(|row| row.proof == Proof::Proven) {
        // Another state is on its way: what this one says against the other keys may be outdated.
        let unopened = if case.references.state_arrives {
            &[]
        } else {
            &unopened[..]
        };
        return use_key(case, proven.dek, &opened, unopened);
    }
    let refuted =
        *case.facts.effective_state() == TpmState::Encrypted && !case.references.state_arrives;
    let deks: BTreeSet<DekNumber> = opened.iter().map(|row| row.dek).collect();
    let mut deks = deks.into_iter();
    match (deks.next(), deks.next()) {
        (None, _) => degrade_or_deny(case, most_helpful(unopened)),
        (Some(_), _) if refuted => none_opens(case, &opened, unopened),
        (Some(dek), None) if unopened.is_empty() => use_unproven(case, dek, &opened),
        _ => Verdict::deny(Refusal::KeyAmbiguous {
            key_refs: case.keyed_rows().map(|row| row.id).collect(),
        })
        .into(),
    }
}

/// The TPM's state refutes every key that opens. Should another one be out of reach only
/// because its provider is, that provider is what the administrator must bring back.
fn none_opens(case: &Case<'_>, opened: &[OpenedRow<'_>], unopened: Vec<UnopenedRow<'_>>) -> Answer {
    let out_of_reach: Vec<_> = unopened
        .into_iter()
        .filter(|row| !is_damaged(&row.why))
        .collect();
    if out_of_reach.is_empty() {
        // Of a used TPM not even the right copy is there.
        if case.facts.copy_to_restore().is_some() && case.is_used() {
            return Verdict::deny(Refusal::TpmStateMissing).into();
        }
        let key_refs = opened.iter().map(|row| row.row.id).collect();
        return carry_or_deny(case, Refusal::KeyDoesNotOpenTpm { key_refs });
    }
    degrade_or_deny(case, most_helpful(out_of_reach))
}

fn use_unproven(case: &Case<'_>, dek: DekNumber, opened: &[OpenedRow<'_>]) -> Answer {
    if case.refuses_new_tpm() {
        return Verdict::deny(Refusal::TpmStateMissing).into();
    }
    use_key(case, dek, opened, &[])
}

fn is_damaged(why: &Refusal) -> bool {
    matches!(why, Refusal::KeyCorrupt { .. } | Refusal::Internal { .. })
}

/// Of several rows that do not open, the one that an import can fix says what to do.
fn most_helpful(unopened: Vec<UnopenedRow<'_>>) -> Refusal {
    let rank = |row: &UnopenedRow<'_>| match &row.why {
        Refusal::ProviderMissing { .. } => 0,
        Refusal::ProviderKeyMismatch { .. } => 1,
        Refusal::ProviderSealed { .. }
        | Refusal::ProviderTimedOut { .. }
        | Refusal::KekNotHere { .. }
        | Refusal::KekExpired { .. } => 2,
        _ => 3,
    };
    unopened
        .into_iter()
        .min_by_key(|row| (rank(row), row.row.created_at, row.row.id))
        .map_or_else(
            || Refusal::Internal {
                reason: "no keyed row".to_owned(),
            },
            |row| row.why,
        )
}
