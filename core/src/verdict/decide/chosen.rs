//! The key is chosen: what becomes of the rows that hold it, and of the others.

use super::host_secret::{Chosen, give};
use super::keyed::{Closed, Opened};
use super::mend::mend;
use super::{Case, allow, deny, provider};
use crate::verdict::facts::{DekNumber, KeySource, Proof, Provider, TpmState};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Finding, Reason};

/// Allows the start with this DEK. Of the rows that hold it one is kept and mended; rows with
/// other keys, or with none that opens, are retired; placeholders go.
pub(super) fn use_key(
    case: &Case<'_>,
    dek: DekNumber,
    opened: &[Opened<'_>],
    closed: &[Closed<'_>],
) -> Answer {
    let (holders, others): (Vec<_>, Vec<_>) = opened.iter().partition(|row| row.dek == dek);
    let (kept, owner) = match keep_one(case, &holders) {
        Ok(found) => found,
        Err(refusal) => return deny(refusal).into(),
    };
    let kept_id = kept.row.id;
    let proven = kept.proof == Proof::Proven;
    let mut verdict = allow(if proven {
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
                kept: kept_id,
            },
        );
    }
    let others = others.iter().map(|other| other.row.id);
    for key_ref in others.chain(closed.iter().map(|closed| closed.row.id)) {
        verdict.plan(Finding::UnusableKey(key_ref), Repair::RetireKey { key_ref });
    }
    mend(&mut verdict, case, kept.row, owner);
    if let TpmState::Unreadable(how) = &case.facts.state {
        verdict.findings.push(Finding::StateUnreadable(how.clone()));
    }
    verdict.findings.extend(case.used_tpm_replaced());
    let chosen = Chosen {
        source: KeySource::Row(kept_id),
        dek: Some(dek),
        is_proven: proven,
        owner,
    };
    give(case, verdict, &chosen)
}

/// The row with the nearest tie to its provider, then the oldest; if none has a provider,
/// why the oldest has none.
fn keep_one<'a>(
    case: &Case<'a>,
    holders: &[&'a Opened<'a>],
) -> Result<(&'a Opened<'a>, &'a Provider), Refusal> {
    let mut oldest_first = holders.to_vec();
    oldest_first.sort_by_key(|held| (held.row.created_at, held.row.id));
    let mut bound = Vec::new();
    let mut refusal = None;
    for held in oldest_first {
        match provider::owner(held.row, held.key_id, case.references) {
            Ok((tie, owner)) => bound.push((tie, held, owner)),
            Err(why) => refusal = refusal.or(Some(why)),
        }
    }
    // Of equal ties the first, the oldest, is the least.
    match bound.into_iter().min_by_key(|(tie, ..)| *tie) {
        Some((_, held, owner)) => Ok((held, owner)),
        None => Err(refusal.unwrap_or_else(|| Refusal::Internal {
            reason: "no row holds the chosen key".to_owned(),
        })),
    }
}
