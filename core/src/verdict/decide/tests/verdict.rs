//! What a verdict says after it was made, and what may still become of it.

use super::given::{Row, SECRET, emulator, guest, keyed, keyless, opens, placeholder};
use crate::domain::Vtpm;
use crate::ids::KeyRefId;
use crate::verdict::decide::decide;
use crate::verdict::facts::{CopyReason, Facts, KeySource, Proof, TpmState};
use crate::verdict::outcome::{KeyInUse, Outcome, SecretAction};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Decision, Finding, Over, ProvideSecret, Reason, Verdict};
use TpmState::Encrypted;

fn made(facts: &Facts) -> Verdict {
    let Answer::Verdict(verdict) = decide(facts) else {
        panic!("no verdict yet")
    };
    verdict
}

/// A start that restores a saved copy and deletes a placeholder.
fn with_repairs() -> Verdict {
    let facts = keyed(|row| row.used().proven()).with_saved(CopyReason::Start);
    made(&facts.row(placeholder(2, "a", 1)))
}

fn kinds(verdict: &Verdict) -> Vec<&str> {
    verdict.repairs().iter().map(Repair::kind).collect()
}

#[test]
fn a_verdict_says_what_was_decided() {
    let verdict = with_repairs();
    assert!(verdict.is_allowed());
    assert_eq!(*verdict.decision(), Decision::Allow(Reason::Proven));
    assert_eq!(kinds(&verdict), ["restore-tpm-state", "delete-placeholder"]);
    let orphan = Finding::OrphanPlaceholder(KeyRefId(2));
    assert_eq!(verdict.findings()[1..], [orphan]);
    let (key, over) = (KeySource::Row(KeyRefId(1)), Over::GuardsOwn);
    assert_eq!(verdict.secret(), Some(ProvideSecret { key, over }));
    let denied = made(&guest());
    assert!(!denied.is_allowed());
    assert_eq!(denied.secret(), None);
}

#[test]
fn a_verdict_that_is_refused_before_its_repairs_changes_nothing() {
    let mut verdict = with_repairs();
    verdict.refuse(Refusal::DeadlinePassed);
    assert_eq!(*verdict.decision(), Decision::Deny(Refusal::DeadlinePassed));
    assert_eq!((verdict.repairs(), verdict.secret()), (&[][..], None));
}

#[test]
fn a_verdict_that_is_refused_after_its_repairs_keeps_them() {
    let (before, mut verdict) = (with_repairs(), with_repairs());
    verdict.refuse_after_repairs(Refusal::DeadlinePassed);
    assert!(!verdict.is_allowed());
    assert_eq!(verdict.repairs(), before.repairs());
    assert_eq!(verdict.secret(), before.secret());
}

#[test]
fn a_store_that_takes_no_change_leaves_what_was_done_with_files() {
    let mut verdict = with_repairs();
    verdict.drop_store_repairs();
    assert_eq!(kinds(&verdict), ["restore-tpm-state"]);
}

#[test]
fn the_key_in_use_is_the_provided_one_else_the_first_with_a_key_else_the_first() {
    let in_use = |facts: &Facts| KeyInUse::of(&made(facts), facts);
    let two = keyed(Row::refuted)
        .row(opens(2, "a", 1, 'A', 1).proven())
        .state(Encrypted);
    let provided = in_use(&two).unwrap();
    assert_eq!(
        (provided.key_ref, provided.proof),
        (KeyRefId(2), Proof::Proven)
    );
    let refused = guest()
        .row(placeholder(1, "a", 1))
        .row(keyless(2, "b", 2, 'B'));
    let keyed = in_use(&refused).unwrap();
    assert_eq!((keyed.key_ref, keyed.proof), (KeyRefId(2), Proof::None));
    assert_eq!(keyed.provider_name, "b");
    let placeholder = in_use(&guest().row(placeholder(1, "a", 1))).unwrap();
    assert_eq!(
        (placeholder.key_ref, placeholder.key_id),
        (KeyRefId(1), None)
    );
    assert_eq!(in_use(&guest()), None);
}

#[test]
fn an_outcome_is_allowed_as_its_verdict_is() {
    let outcome = |verdict| Outcome {
        domain: None,
        state: TpmState::Absent,
        verdict,
        key: None,
        secret: SecretAction::None,
        dry_run: true,
    };
    assert!(outcome(with_repairs()).is_allowed());
    assert!(!outcome(made(&guest())).is_allowed());
}

#[test]
fn the_facts_know_the_emulated_tpm_and_its_secret() {
    let encrypted = guest();
    assert!(encrypted.vtpm_is_emulated());
    let (secret, domain) = encrypted.secret().unwrap();
    assert_eq!(
        (secret.to_string().as_str(), &*domain.name),
        (SECRET, "vm1")
    );
    let plain = guest().vtpm(Some(emulator(None)));
    assert!(plain.vtpm_is_emulated() && plain.secret().is_none());
    for other in [None, Some(Vtpm::External), Some(Vtpm::Passthrough)] {
        assert!(!guest().vtpm(other).vtpm_is_emulated());
    }
}
