//! The key is known: which row keeps it, and what becomes of the other rows.

use std::cmp::Reverse;

use super::host_secret::{ChosenKey, give};
use super::repair_row::repair_row;
use super::tried::{OpenedRow, UnopenedRow};
use super::{Case, provider};
use crate::verdict::facts::{DekNumber, KeySource, Proof, Provider, TpmState};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Finding, Reason, Verdict};

/// Allows the start with this DEK. One of the rows that hold it stays and is repaired, the others
/// are deleted; rows with other keys, or whose key does not open, are retired, unless another state is
/// on its way; placeholders are deleted.
pub(super) fn use_key(
    case: &Case<'_>,
    dek: DekNumber,
    opened: &[OpenedRow<'_>],
    unopened: &[UnopenedRow<'_>],
) -> Answer {
    let (holders, others): (Vec<_>, Vec<_>) = opened.iter().partition(|row| row.dek == dek);
    let (kept, owner) = match keep_one(case, &holders) {
        Ok(found) => found,
        Err(refusal) => return Verdict::deny(refusal).into(),
    };
    let kept_id = kept.row.id;
    let proven = kept.proof == Proof::Proven;
    let mut verdict = Verdict::allow(if proven {
        Reason::Proven
    } else {
        Reason::Unproven
    });
    for key_ref in case.placeholders().map(|row| row.id) {
        verdict.plan(
            Finding::OrphanPlaceholder(key_ref),
            Repair::DeletePlaceholder { key_ref },
        );
    }
    let holders = holders.iter().map(|held| held.row.id);
    for key_ref in holders.filter(|key_ref| *key_ref != kept_id) {
        verdict.plan(
            Finding::DuplicateKey(key_ref),
            Repair::DeleteDuplicate {
                key_ref,
                kept: (!kept_id.is_travelling()).then_some(kept_id),
            },
        );
    }
    let retires = !case.references.state_arrives;
    let others = others.iter().filter(|_| retires);
    let others = others.map(|other| other.row.id);
    for key_ref in others.chain(unopened.iter().map(|unopened| unopened.row.id)) {
        verdict.plan(Finding::UnusableKey(key_ref), Repair::RetireKey { key_ref });
    }
    repair_row(&mut verdict, case, kept.row, owner);
    if let TpmState::Unreadable(how) = &case.facts.state {
        verdict.note(Finding::StateUnreadable(how.clone()));
    }
    verdict.findings.extend(case.used_tpm_replaced());
    let chosen = ChosenKey {
        source: KeySource::Row(kept_id),
        dek: Some(dek),
        is_proven: proven,
        owner,
    };
    give(case, verdict, &chosen)
}

/// The row of the highest generation, then that with the closest binding to its provider, then the
/// oldest; if none has a provider, why the oldest has none.
fn keep_one<'a>(
    case: &Case<'a>,
    holders: &[&'a OpenedRow<'a>],
) -> Result<(&'a OpenedRow<'a>, &'a Provider), Refusal> {
    let mut oldest_first = holders.to_vec();
    oldest_first.sort_by_key(|held| (held.row.created_at, held.row.id));
    let mut bound = Vec::new();
    let mut refusal = None;
    for held in oldest_first {
        match provider::owner(held.row, held.key_id, case.references) {
            Ok((binding, owner)) => bound.push((binding, held, owner)),
            Err(why) => refusal = refusal.or(Some(why)),
        }
    }
    // Of equal ones the first, the oldest, wins.
    let rank =
        |(binding, held, _): &(_, &OpenedRow<'_>, _)| (Reverse(held.row.generation()), *binding);
    match bound.into_iter().min_by_key(rank) {
        Some((_, held, owner)) => Ok((held, owner)),
        None => Err(refusal.unwrap_or_else(|| Refusal::Internal {
            reason: "no row holds the chosen key".to_owned(),
        })),
    }
}
