//! Rows that hold a key: which key is this TPM's, or why none is.

use std::collections::BTreeSet;

use super::chosen::use_key;
use super::host_secret::{carry_or_deny, degrade_or_deny};
use super::{Case, deny, provider};
use crate::key::id::KeyId;
use crate::verdict::Answer;
use crate::verdict::facts::{DekNumber, KeyRef, Proof, TpmState, Trial};
use crate::verdict::refusal::Refusal;

/// A row whose wrapped DEK a KEK of this host has opened.
pub(super) struct Opened<'a> {
    pub(super) row: &'a KeyRef,
    pub(super) key_id: KeyId,
    pub(super) dek: DekNumber,
    pub(super) proof: Proof,
}

/// A row whose DEK cannot be had, and why.
pub(super) struct Closed<'a> {
    pub(super) row: &'a KeyRef,
    why: Refusal,
}

pub(super) fn decide(case: &Case<'_>) -> Answer {
    let (opened, closed) = tried_rows(case);
    if let Some(proven) = opened.iter().find(|row| row.proof == Proof::Proven) {
        return use_key(case, proven.dek, &opened, &closed);
    }
    let refuted =
        *case.facts.state_in_force() == TpmState::Encrypted && !case.references.state_arrives;
    let deks: BTreeSet<DekNumber> = opened.iter().map(|row| row.dek).collect();
    let mut deks = deks.into_iter();
    match (deks.next(), deks.next()) {
        (None, _) => degrade_or_deny(case, most_helpful(closed)),
        (Some(_), _) if refuted => none_opens(case, &opened, closed),
        (Some(dek), None) if closed.is_empty() => use_unproven(case, dek, &opened),
        _ => deny(Refusal::KeyAmbiguous {
            key_refs: case.keyed_rows().map(|row| row.id).collect(),
        })
        .into(),
    }
}

fn tried_rows<'a>(case: &Case<'a>) -> (Vec<Opened<'a>>, Vec<Closed<'a>>) {
    let mut opened = Vec::new();
    let mut closed = Vec::new();
    for row in case.keyed_rows() {
        let why = match case.facts.trials.get(&row.id) {
            Some(&Trial::Opened { key_id, dek, proof }) => {
                opened.push(Opened {
                    row,
                    key_id,
                    dek,
                    proof,
                });
                continue;
            }
            Some(Trial::NotOpened(not_opened)) => {
                provider::why_closed(row, not_opened, case.references)
            }
            None => Refusal::Internal {
                reason: format!("key reference {} was not tried", row.id),
            },
        };
        closed.push(Closed { row, why });
    }
    (opened, closed)
}

/// The TPM's state refutes every key that opens. Should another one be out of reach only
/// because its provider is, that provider is what the administrator must bring back.
fn none_opens(case: &Case<'_>, opened: &[Opened<'_>], closed: Vec<Closed<'_>>) -> Answer {
    let mendable: Vec<_> = closed
        .into_iter()
        .filter(|row| !is_damaged(&row.why))
        .collect();
    if mendable.is_empty() {
        // Of a used TPM not even the right copy is there.
        if case.facts.copy_in_place().is_some() && case.is_used() {
            return deny(Refusal::TpmStateMissing).into();
        }
        let key_refs = opened.iter().map(|row| row.row.id).collect();
        return carry_or_deny(case, Refusal::KeyDoesNotOpenTpm { key_refs });
    }
    degrade_or_deny(case, most_helpful(mendable))
}

fn use_unproven(case: &Case<'_>, dek: DekNumber, opened: &[Opened<'_>]) -> Answer {
    if case.refuses_new_tpm() {
        return deny(Refusal::TpmStateMissing).into();
    }
    use_key(case, dek, opened, &[])
}

fn is_damaged(why: &Refusal) -> bool {
    matches!(why, Refusal::KeyCorrupt { .. } | Refusal::Internal { .. })
}

/// Of several rows that do not open, the one that an import can mend says what to do.
fn most_helpful(closed: Vec<Closed<'_>>) -> Refusal {
    let rank = |row: &Closed<'_>| match &row.why {
        Refusal::ProviderMissing { .. } => 0,
        Refusal::ProviderKeyMismatch { .. } => 1,
        Refusal::ProviderSealed { .. } | Refusal::ProviderNotInTime { .. } => 2,
        _ => 3,
    };
    closed
        .into_iter()
        .min_by_key(|row| (rank(row), row.row.created_at, row.row.id))
        .map_or_else(
            || Refusal::Internal {
                reason: "no keyed row".to_owned(),
            },
            |row| row.why,
        )
}
