//! Before a refusal says gone, lost or missing: what this host has under another name. Where what helps depends on
//! it: whether libvirt defines the guest.

use std::cmp::Reverse;

use crate::verdict::elsewhere::{Elsewhere, Search, SearchCut};
use crate::verdict::facts::{Facts, KeyRef, Permission, References, Trial};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Answer, Decision, Verdict};

/// The verdict, with the refusal that names what was found instead of one that misses it.
pub(super) fn name_it(facts: &Facts, verdict: Verdict) -> Answer {
    let Decision::Deny(refusal) = &verdict.decision else {
        return verdict.into();
    };
    let search = if misses_something(refusal) {
        Search::Everything
    } else if needs_definition(refusal) {
        Search::Definition
    } else {
        return verdict.into();
    };
    match &facts.elsewhere {
        None => Answer::AskElsewhere(search),
        Some(found) => Verdict {
            decision: Decision::Deny(refined(facts, found, refusal.clone())),
            ..verdict
        }
        .into(),
    }
}

/// The refusal of a start that would have to be sure that nothing is elsewhere.
pub(super) fn not_searched(why: &SearchCut) -> Refusal {
    match why.clone() {
        SearchCut::Store(trouble) => Refusal::Store(trouble),
        SearchCut::Definitions(reason) => Refusal::DefinitionsUnread { reason },
    }
}

fn misses_something(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::KeyMissing
            | Refusal::KeyLost
            | Refusal::KeyDoesNotOpenTpm { .. }
            | Refusal::HostValueDoesNotOpenTpm { .. }
            | Refusal::TpmStateMissing
            | Refusal::StateInSnapshots { .. }
            | Refusal::SeenStateMissing { .. }
            | Refusal::TpmStateNotRestored { .. }
    )
}

/// Whether what helps needs a definition of the guest.
fn needs_definition(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Unmanaged { .. }
            | Refusal::UnencryptedVtpm { .. }
            | Refusal::EncryptionMismatch { .. }
    )
}

fn refined(facts: &Facts, found: &Elsewhere, refusal: Refusal) -> Refusal {
    let arrives = facts.state_arrives();
    match refusal {
        Refusal::KeyMissing => key_missing(facts, found),
        // Also of a copied XML: no state is there yet that would prove the original's key, and the host where the guest
        // runs has it.
        Refusal::KeyLost if arrives => retired_keys(facts).unwrap_or(Refusal::KeyNotImported),
        Refusal::KeyLost => known_key(facts, found, false)
            .or_else(|| original(facts, found, true))
            .unwrap_or(if has_providers(facts) {
                Refusal::KeyUnknown
            } else {
                // A store without any provider has probably been lost.
                Refusal::KeyLost
            }),
        Refusal::KeyDoesNotOpenTpm { .. } | Refusal::HostValueDoesNotOpenTpm { .. } => {
            known_key(facts, found, true).unwrap_or(refusal)
        }
        Refusal::TpmStateMissing
        | Refusal::StateInSnapshots { .. }
        | Refusal::SeenStateMissing { .. }
        | Refusal::TpmStateNotRestored { .. } => state_missing(facts, found, refusal),
        Refusal::Unmanaged { is_clients, .. } => Refusal::Unmanaged {
            is_clients,
            is_defined: found.is_defined,
        },
        Refusal::UnencryptedVtpm { has_state, .. } => Refusal::UnencryptedVtpm {
            has_state,
            is_defined: found.is_defined,
        },
        Refusal::EncryptionMismatch {
            state_encrypted, ..
        } => Refusal::EncryptionMismatch {
            state_encrypted,
            is_defined: found.is_defined,
        },
        other => other,
    }
}

/// A TPM that was used, and no state at its place.
fn state_missing(facts: &Facts, found: &Elsewhere, refusal: Refusal) -> Refusal {
    let copy = facts.saved.copy.as_ref();
    let outdated = copy.filter(|copy| copy.is_outdated && copy.is_proven);
    match (&found.state, outdated) {
        (Some(state), _) => Refusal::TpmStateElsewhere(state.clone()),
        (None, Some(copy)) if refusal == Refusal::TpmStateMissing => Refusal::SavedCopyOutdated {
            reason: copy.reason,
            saved_at: copy.saved_at,
        },
        _ if found.was_undefined && refusal == Refusal::TpmStateMissing => {
            Refusal::TpmStateUndefined
        }
        _ => refusal,
    }
}

/// No key, and no state at its place.
fn key_missing(facts: &Facts, found: &Elsewhere) -> Refusal {
    let references = facts.references.as_ref().ok();
    let retired = references.and_then(References::used_and_retired);
    // What it has used itself says more than what other guests have in common with it, unless a new TPM may be made for it.
    let is_decisive = found.relative.is_none() || facts.policy.missing_state == Permission::Deny;
    if let (Some(row), None, true) = (retired, &found.state, is_decisive) {
        return Refusal::UsedKeyRetired {
            key_ref: row.id,
            is_defined: found.is_defined,
        };
    }
    match (&found.relative, &found.state, &facts.domain) {
        (Some(relative), _, _) => Refusal::KeyOfRelatedGuest {
            relative: relative.clone(),
            is_defined: found.is_defined,
        },
        (None, Some(state), _) => Refusal::KeyMissingStateElsewhere(state.clone()),
        (None, None, Ok(domain)) if !found.is_defined && facts.travelling.original.is_none() => {
            Refusal::KeyMissingNotDefined {
                domain: domain.uuid,
            }
        }
        (None, None, _) => original(facts, found, false).unwrap_or(Refusal::KeyMissing),
    }
}

/// The refusal that names the guest whose key this guest's XML has, if it is another one.
fn original(facts: &Facts, found: &Elsewhere, is_lost: bool) -> Option<Refusal> {
    Some(Refusal::KeyOfOriginal {
        original: facts.travelling.original?,
        is_lost,
        is_defined: found.is_defined,
    })
}

/// The refusal that names the retired keys of the guest that open. None can be proven by a state that
/// is on its way.
fn retired_keys(facts: &Facts) -> Option<Refusal> {
    let retired = facts.references.iter().flat_map(|found| &found.retired);
    let opens = |row: &&KeyRef| facts.retired.get(&row.id).and_then(Trial::dek).is_some();
    let mut rows: Vec<_> = retired.filter(opens).collect();
    rows.sort_by_key(|row| Reverse((row.generation(), row.created_at, row.id)));
    let key_refs: Vec<_> = rows.into_iter().map(|row| row.id).collect();
    (!key_refs.is_empty()).then_some(Refusal::KeysRetired { key_refs })
}

/// The refusal that names the key of the TPM's state, if this host has it. `refuted` says that
/// another one was tried.
fn known_key(facts: &Facts, found: &Elsewhere, refuted: bool) -> Option<Refusal> {
    if let Some(key_ref) = facts.proven_retired() {
        return Some(if refuted {
            Refusal::RetiredKeyOpensTpm { key_ref }
        } else {
            Refusal::KeyRetired { key_ref }
        });
    }
    found
        .key_holder
        .clone()
        .map(|holder| Refusal::KeyOfOtherGuest {
            holder,
            refuted,
            is_defined: found.is_defined,
        })
}

fn has_providers(facts: &Facts) -> bool {
    let references = facts.references.as_ref();
    references.is_ok_and(|references| !references.providers.is_empty())
}
