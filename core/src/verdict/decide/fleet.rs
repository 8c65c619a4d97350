//! What a start has to do with the fleet: when the shared store is asked, and what is said of its answer.

use super::provider::why_not_opened;
use crate::verdict::facts::{Facts, FleetQuestion, KeyRef, Permission, Trial};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::{KeyOrigin, Repair};
use crate::verdict::{Answer, Decision, Finding, Verdict};

/// Whether the shared store is to be asked before this verdict stands: something is missing that another host may
/// have, or something is about to be made anew. What starts without an answer does not wait for one.
pub(super) fn is_to_be_asked(facts: &Facts, verdict: &Verdict) -> bool {
    facts.fleet.question == FleetQuestion::Open
        && match &verdict.decision {
            Decision::Deny(refusal) => misses_something(refusal),
            Decision::Allow(_) => makes_something_anew(verdict),
        }
}

fn misses_something(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::ProviderMissing { .. }
            | Refusal::AutoBindMissing { .. }
            | Refusal::ProviderKeyMismatch { .. }
            | Refusal::ProviderSealed { .. }
            | Refusal::KekNotHere { .. }
            | Refusal::KekExpired { .. }
            | Refusal::KeyMissing
            | Refusal::KeyLost
            | Refusal::KeyAmbiguous { .. }
            | Refusal::KeyCorrupt { .. }
            | Refusal::XmlKeyCorrupt { .. }
            | Refusal::KeyDoesNotOpenTpm { .. }
            | Refusal::HostValueDoesNotOpenTpm { .. }
            | Refusal::TpmStateMissing
            | Refusal::StateInSnapshots { .. }
            | Refusal::SeenStateMissing { .. }
            | Refusal::TpmStateNotRestored { .. }
            | Refusal::TpmStateDamaged { .. }
    )
}

fn makes_something_anew(verdict: &Verdict) -> bool {
    let is_new_key = |repair: &Repair| {
        let random = KeyOrigin::Random;
        matches!(repair, Repair::CreateKey { origin, .. } if *origin == random)
    };
    verdict.repairs.iter().any(is_new_key) || verdict.findings.contains(&Finding::NewTpmAllowed)
}

/// Adds to a verdict what the fleet has to do with it.
pub(super) fn complete(facts: &Facts, answer: Answer) -> Answer {
    let Answer::Verdict(mut verdict) = answer else {
        return answer;
    };
    match &facts.fleet.question {
        FleetQuestion::None | FleetQuestion::Open => {}
        FleetQuestion::Answered => note_answer(facts, &mut verdict),
        FleetQuestion::Silent(why) => verdict.note(Finding::FleetSilent(why.clone())),
    }
    match facts.second_run() {
        Some(runs_on) if verdict.is_allowed() && facts.policy.elsewhere == Permission::Deny => {
            verdict.refuse(Refusal::RunsElsewhere(runs_on.clone()));
        }
        Some(runs_on) => verdict.note(Finding::RunsElsewhere(runs_on.clone())),
        None => {}
    }
    verdict.into()
}

fn note_answer(facts: &Facts, verdict: &mut Verdict) {
    if facts.fleet.ignored > 0 {
        verdict.note(Finding::FleetFactsIgnored(facts.fleet.ignored));
    }
    let Some(out_of_reach) = out_of_reach(facts) else {
        return;
    };
    // Nothing vouches for a key that does not open: it refines a refusal, and never makes one.
    let misses_a_key = matches!(
        &verdict.decision,
        Decision::Deny(
            Refusal::KeyMissing
                | Refusal::KeyMissingNotDefined { .. }
                | Refusal::KeyLost
                | Refusal::KeyUnknown
                | Refusal::KeyNotImported
                | Refusal::KeysRetired { .. }
                | Refusal::UsedKeyRetired { .. }
        )
    );
    if misses_a_key {
        verdict.decision = Decision::Deny(out_of_reach.clone());
    }
    if misses_a_key || makes_something_anew(verdict) {
        verdict.note(Finding::FleetKeyOutOfReach(out_of_reach));
    }
}

/// Why a key of the guest that the fleet's store has does not open here, if none does. One that an import brings
/// within reach goes before one that needs a later release; one that is forged counts for nothing.
fn out_of_reach(facts: &Facts) -> Option<Refusal> {
    let references = facts.references.as_ref().ok()?;
    let keys = facts.travelling.keys.iter();
    let keys: Vec<_> = keys.filter(|key| key.id.is_of_fleet()).collect();
    let trial = |key: &KeyRef| facts.trials.get(&key.id);
    if keys
        .iter()
        .any(|key| trial(key).and_then(Trial::dek).is_some())
    {
        return None;
    }
    let why = |key: &&KeyRef| {
        let why = trial(key)?.untried()?;
        Some(match why_not_opened(key, why, references) {
            // It has no key reference that anybody could name.
            Refusal::KeyCorrupt { reason, .. } => Refusal::FleetKeyTooNew { reason },
            other => other,
        })
    };
    let (too_new, importable): (Vec<_>, Vec<_>) = (keys.iter().filter_map(why))
        .partition(|why| matches!(why, Refusal::FleetKeyTooNew { .. }));
    importable.into_iter().chain(too_new).next()
}
