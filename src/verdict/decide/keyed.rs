//! Rows that hold a key: which of them is this TPM's, and what is wrong with the others.

use std::collections::BTreeSet;

use super::host_secret::degrade_or_deny;
use super::provider::{self, Tie};
use super::{Case, allow, deny};
use crate::ids::KeyRefId;
use crate::key::id::KeyId;
use crate::verdict::facts::{
    DekNumber, KeyRef, KeySource, Proof, Provider, TpmState, Trial, kek_ref,
};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Finding, ProvideSecret, Reason, Verdict};

/// A row whose wrapped DEK a KEK of this host has opened.
struct Opened<'a> {
    row: &'a KeyRef,
    key_id: KeyId,
    dek: DekNumber,
    proof: Proof,
}

/// A row whose DEK cannot be had, and why.
struct Closed<'a> {
    row: &'a KeyRef,
    why: Refusal,
}

pub(super) fn decide(case: &Case<'_>) -> Answer {
    let (opened, closed) = tried_rows(case);
    if let Some(proven) = opened.iter().find(|row| row.proof == Proof::Proven) {
        return use_key(case, proven.dek, &opened, &closed);
    }
    let refuted = case.facts.state == TpmState::Encrypted && !case.references.state_arrives;
    let deks: BTreeSet<DekNumber> = opened.iter().map(|row| row.dek).collect();
    let mut deks = deks.into_iter();
    match (deks.next(), deks.next()) {
        (None, _) => degrade_or_deny(case, most_helpful(closed)),
        (Some(_), _) if refuted => none_opens(case, &opened, closed),
        (Some(dek), None) if closed.is_empty() => use_unproven(case, dek, &opened),
        _ => deny(Refusal::KeyAmbiguous {
            key_refs: keyed_ids(case),
        })
        .into(),
    }
}

fn tried_rows<'a>(case: &Case<'a>) -> (Vec<Opened<'a>>, Vec<Closed<'a>>) {
    let mut opened = Vec::new();
    let mut closed = Vec::new();
    for row in case
        .references
        .key_refs
        .iter()
        .filter(|row| row.wrapped_dek.is_some())
    {
        match case.facts.trials.get(&row.id) {
            Some(Trial::Opened { key_id, dek, proof }) => {
                opened.push(Opened {
                    row,
                    key_id: *key_id,
                    dek: *dek,
                    proof: *proof,
                });
            }
            Some(Trial::NotOpened(not_opened)) => {
                closed.push(Closed {
                    row,
                    why: provider::why_closed(row, not_opened, case.references),
                });
            }
            None => closed.push(Closed {
                row,
                why: Refusal::Internal {
                    reason: format!("key reference {} was not tried", row.id),
                },
            }),
        }
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
        let key_refs = opened.iter().map(|row| row.row.id).collect();
        return deny(Refusal::KeyDoesNotOpenTpm { key_refs }).into();
    }
    degrade_or_deny(case, most_helpful(mendable))
}

fn use_unproven(case: &Case<'_>, dek: DekNumber, opened: &[Opened<'_>]) -> Answer {
    if case.used_tpm_is_missing() {
        return deny(Refusal::TpmStateMissing).into();
    }
    use_key(case, dek, opened, &[])
}

/// Allows the start with this DEK. Of the rows that hold it one is kept and mended; rows with
/// other keys, or with none that opens, are retired; placeholders go.
fn use_key(
    case: &Case<'_>,
    dek: DekNumber,
    opened: &[Opened<'_>],
    closed: &[Closed<'_>],
) -> Answer {
    let (holders, others): (Vec<_>, Vec<_>) = opened.iter().partition(|row| row.dek == dek);
    let mut candidates = Vec::new();
    let mut ownerless = None;
    for row in &holders {
        match provider::owner(row.row, row.key_id, case.references) {
            Ok((tie, owner)) => candidates.push((tie, *row, owner)),
            Err(refusal) => ownerless = Some(refusal),
        }
    }
    let Some((tie, kept, owner)) = candidates
        .into_iter()
        .min_by_key(|(tie, row, _)| (*tie, row.row.created_at, row.row.id))
    else {
        let no_holder = || Refusal::Internal {
            reason: "no row holds the chosen key".to_owned(),
        };
        return deny(ownerless.unwrap_or_else(no_holder)).into();
    };

    let mut verdict = allow(reason(kept.proof));
    for row in case
        .references
        .key_refs
        .iter()
        .filter(|row| row.wrapped_dek.is_none())
    {
        verdict.findings.push(Finding::OrphanPlaceholder(row.id));
        verdict
            .repairs
            .push(Repair::DeletePlaceholder { key_ref: row.id });
    }
    for row in holders.iter().filter(|row| row.row.id != kept.row.id) {
        verdict.findings.push(Finding::DuplicateKey(row.row.id));
        verdict.repairs.push(Repair::DeleteDuplicate {
            key_ref: row.row.id,
            kept: kept.row.id,
        });
    }
    let unusable = others
        .iter()
        .map(|row| row.row)
        .chain(closed.iter().map(|row| row.row));
    for row in unusable {
        verdict.findings.push(Finding::UnusableKey(row.id));
        verdict.repairs.push(Repair::RetireKey { key_ref: row.id });
    }
    mend(&mut verdict, case, kept, tie, owner);
    if let TpmState::Unreadable(how) = &case.facts.state {
        verdict.findings.push(Finding::StateUnreadable(how.clone()));
    }
    if case.would_be_a_new_tpm() && holders.iter().any(|row| row.row.first_used_at.is_some()) {
        verdict.findings.push(Finding::NewTpmAllowed);
    }
    // A foreign secret's value may be the only right key: it is replaced only by a proven
    // one, or where there is no TPM that it could be the key of.
    let replace_foreign = kept.proof == Proof::Proven || case.would_be_a_new_tpm();
    let key = KeySource::Row(kept.row.id);
    verdict
        .providing(ProvideSecret {
            key,
            replace_foreign,
        })
        .into()
}

/// Brings the kept row in line with its provider, its KEK and the domain XML.
fn mend(verdict: &mut Verdict, case: &Case<'_>, kept: &Opened<'_>, tie: Tie, owner: &Provider) {
    let row = kept.row;
    if tie != Tie::Uuid || row.provider_name != owner.name {
        verdict.findings.push(Finding::ProviderLost {
            key_ref: row.id,
            provider: row.provider_name.clone(),
        });
        verdict.repairs.push(Repair::RebindProvider {
            key_ref: row.id,
            provider: owner.uuid,
            provider_name: owner.name.clone(),
        });
    }
    let mended = verdict.repairs.len();
    if row.key_version.is_none() {
        let key_version = owner.key_version;
        verdict.repairs.push(Repair::FillKeyVersion {
            key_ref: row.id,
            key_version,
        });
    }
    let kek_ref = kek_ref(kept.key_id);
    if row.kek_ref.as_ref() != Some(&kek_ref) {
        verdict.repairs.push(Repair::FillKekRef {
            key_ref: row.id,
            kek_ref,
        });
    }
    if row.secret_uuid != Some(case.secret_uuid) {
        let secret_uuid = case.secret_uuid;
        verdict.repairs.push(Repair::SetSecretUuid {
            key_ref: row.id,
            secret_uuid,
        });
    }
    if verdict.repairs.len() > mended {
        verdict.findings.push(Finding::IncompleteRow(row.id));
    }
}

fn reason(proof: Proof) -> Reason {
    match proof {
        Proof::Proven => Reason::Proven,
        Proof::Refuted | Proof::None => Reason::Unproven,
    }
}

fn is_damaged(why: &Refusal) -> bool {
    matches!(why, Refusal::KeyCorrupt { .. } | Refusal::Internal { .. })
}

/// Of several rows that do not open, the one that an import can mend says what to do.
fn most_helpful(closed: Vec<Closed<'_>>) -> Refusal {
    let rank = |row: &Closed<'_>| match &row.why {
        Refusal::ProviderMissing { .. } => 0,
        Refusal::ProviderKeyMismatch { .. } => 1,
        Refusal::ProviderSealed { .. } => 2,
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

fn keyed_ids(case: &Case<'_>) -> Vec<KeyRefId> {
    let rows = case.references.key_refs.iter();
    rows.filter(|row| row.wrapped_dek.is_some())
        .map(|row| row.id)
        .collect()
}
