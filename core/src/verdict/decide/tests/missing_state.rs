//! A used key without its TPM state.

use super::given::{findings, guest, hidden, keyless, opens, placeholder, refusal, verdict};
use crate::clock::Timestamp;
use crate::verdict::Finding;
use crate::verdict::elsewhere::{ElsewhereKind, StateElsewhere};
use crate::verdict::facts::{
    CopyReason, Facts, HostSecret, Permission, StoreAccessError, TpmState, TransientState,
};
use crate::verdict::refusal::Refusal;
use HostSecret::Absent as NoSecret;
use TpmState::Encrypted;

/// Rows 38 and 39.
#[test]
fn a_used_key_without_its_tpm_state_is_refused() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    assert_eq!(verdict(&facts), "deny VG205");
    let allowed = facts
        .clone()
        .policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&allowed), "allow Unproven; provide 1");
    assert_eq!(findings(&allowed), [Finding::NewTpmAllowed]);
    // It is the key that was used, whichever of its rows says so.
    let duplicate = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
    assert_eq!(
        verdict(&duplicate.row(opens(2, "a", 1, 'A', 0).used())),
        "deny VG205"
    );
}

/// Row 40.
#[test]
fn a_saved_copy_that_the_key_opens_is_restored() {
    let proven = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().proven());
    for reason in [CopyReason::Start, CopyReason::Release] {
        let facts = proven.clone().with_saved(reason);
        let words = reason.as_str();
        assert_eq!(
            verdict(&facts),
            format!("allow Proven; restore-tpm-state of {words}; provide 1")
        );
        let found = findings(&facts);
        assert!(
            matches!(found[..], [Finding::StateGone { reason: it, .. }] if it == reason),
            "{found:?}"
        );
    }
    // Not over state that is there or on its way.
    let facts = proven.with_saved(CopyReason::Start);
    let there = facts.clone().state(Encrypted);
    assert_eq!(verdict(&there), "allow Proven; provide 1");
    assert!(!verdict(&facts.arriving()).contains("restore"));
}

/// Row 40, and rows 9, 38, 39 and 45.
#[test]
fn a_copy_from_before_a_run_that_is_known_is_never_restored_unasked() {
    let used = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().proven());
    let outdated = used.clone().with_outdated_copy();
    assert_eq!(verdict(&outdated), "deny VG205");
    let (reason, saved_at) = (CopyReason::Release, Timestamp(5));
    let older = Refusal::SavedCopyOutdated { reason, saved_at };
    assert_eq!(refusal(&outdated), older);
    let damaged = outdated
        .clone()
        .state(TpmState::Damaged("cut short".into()));
    assert_eq!(verdict(&damaged), "deny VG207");
    let allowed = outdated.policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&allowed), "allow Unproven; provide 1");

    let degraded = guest().row(keyless(1, "a", 1, 'A').used()).host(hidden());
    assert_eq!(verdict(&degraded.with_outdated_copy()), "deny VG205");
    // One that no key opens is not offered.
    let other = used.with_saved(CopyReason::Release);
    let mut other = other.with_outdated_copy();
    other.saved.copy.as_mut().unwrap().is_proven = false;
    assert_eq!(refusal(&other), Refusal::TpmStateMissing);
}

/// Rows 38, 39, 40, 44 and 57.
#[test]
fn a_state_is_not_given_up_while_a_copy_of_it_cannot_be_read() {
    let used = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used())
        .with_unreadable_copy();
    let mut with_snapshots = used.clone();
    with_snapshots.snapshots = vec!["before".to_owned()];
    let allow = |facts: Facts| facts.policy(|policy| policy.missing_state = Permission::Allow);
    let seen = guest().host(hidden()).seen().with_unreadable_copy();
    let reason = "I/O error".to_owned();
    let waits = Refusal::TpmStateNotRestored { reason };
    for facts in [
        used.clone(),
        with_snapshots,
        allow(used.clone()),
        seen.clone(),
        allow(seen),
    ] {
        assert_eq!(verdict(&facts), "deny VG205");
        assert_eq!(refusal(&facts), waits);
        assert!(!findings(&facts).contains(&Finding::NewTpmAllowed));
    }
    // What starts without it does not wait: a state that is there, or another copy.
    let proven = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().proven())
        .with_unreadable_copy();
    let there = proven.clone().state(Encrypted);
    assert_eq!(verdict(&there), "allow Proven; provide 1");
    let other = proven.with_saved(CopyReason::Release);
    assert!(verdict(&other).contains("restore"), "{}", verdict(&other));
    // A state that is found in another place comes first.
    let mut elsewhere = used;
    let place = StateElsewhere {
        path: "/there/tpm2-00.permall".into(),
        wanted: "/here/tpm2-00.permall".into(),
        kind: ElsewhereKind::LastSeen,
    };
    elsewhere.elsewhere.as_mut().unwrap().state = Some(place.clone());
    assert_eq!(refusal(&elsewhere), Refusal::TpmStateElsewhere(place));
}

/// Rows 30 and 40.
#[test]
fn a_saved_copy_proves_which_of_several_keys_is_the_tpms() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().refuted())
        .row(opens(2, "a", 1, 'A', 1).used().proven())
        .with_saved(CopyReason::Release);
    assert_eq!(
        verdict(&facts),
        "allow Proven; restore-tpm-state of release; retire-key 1; provide 2"
    );
}

/// Row 41.
#[test]
fn a_saved_copy_that_no_key_opens_does_not_count_as_the_tpms_state() {
    let other = guest().provider("a", 1, 'A').with_saved(CopyReason::Start);
    let used = other.clone().row(opens(1, "a", 1, 'A', 0).used().refuted());
    assert_eq!(verdict(&used), "deny VG205");
    let allowed = used.policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&allowed), "allow Unproven; provide 1");
    assert_eq!(findings(&allowed), [Finding::NewTpmAllowed]);
    // As the start before the state went away was refused.
    let unused = other.clone().row(opens(1, "a", 1, 'A', 0).refuted());
    assert_eq!(verdict(&unused), "deny VG204");
    assert_eq!(verdict(&other.row(placeholder(1, "a", 1))), "deny VG202");
}

/// Rows 42 and 43.
#[test]
fn a_transient_guest_whose_last_run_ended_normally_starts_as_the_policy_says() {
    let guest = guest().provider("a", 1, 'A').ended_normally();
    let proven = guest.clone().row(opens(1, "a", 1, 'A', 0).used().proven());
    assert_eq!(
        verdict(&proven.clone().with_saved(CopyReason::Release)),
        "allow Proven; restore-tpm-state of release; provide 1"
    );
    let ended = guest.row(opens(1, "a", 1, 'A', 0).used());
    assert_eq!(verdict(&ended), "deny VG205");

    let fresh = ended.policy(|policy| policy.transient_state = TransientState::Fresh);
    for facts in [fresh.clone(), fresh.clone().with_saved(CopyReason::Release)] {
        assert!(!verdict(&facts).contains("restore"), "{}", verdict(&facts));
        assert_eq!(findings(&facts), [Finding::FreshTpm]);
    }
    // A start that failed is no end of a run.
    let mut failed = proven.with_saved(CopyReason::Start);
    failed.policy.transient_state = TransientState::Fresh;
    failed.saved.ended_normally = false;
    assert_eq!(
        verdict(&failed),
        "allow Proven; restore-tpm-state of start; provide 1"
    );
}

/// Row 44.
#[test]
fn snapshots_that_hold_the_tpm_are_named() {
    let mut facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    facts.snapshots = vec!["before".to_owned()];
    assert_eq!(verdict(&facts), "deny VG205");
    let names = vec!["before".to_owned()];
    let in_snapshots = Refusal::StateInSnapshots { names };
    assert_eq!(refusal(&facts), in_snapshots);
    // They go before a copy from before a later run.
    let mut proven = facts.clone();
    proven.references.as_mut().unwrap().key_refs.clear();
    let proven = proven.row(opens(1, "a", 1, 'A', 0).used().proven());
    assert_eq!(refusal(&proven.with_outdated_copy()), in_snapshots);
}

/// Row 45.
#[test]
fn a_start_with_libvirts_secret_gets_the_saved_copy_too() {
    let unmanaged = guest().host(hidden()).with_saved(CopyReason::Start);
    let put_back = "allow HostSecret; restore-tpm-state of start";
    assert_eq!(verdict(&unmanaged), put_back);
    let degraded = unmanaged.row(keyless(1, "a", 1, 'A').used());
    assert_eq!(verdict(&degraded), put_back);
    let trouble = StoreAccessError::Unavailable("locked".to_owned());
    assert_eq!(verdict(&degraded.clone().store(trouble)), put_back);
    assert_eq!(verdict(&degraded.host(NoSecret)), "deny VG101");
}

/// Rows 39 and 46.
#[test]
fn a_start_without_its_provider_must_not_make_a_new_tpm_in_place_of_a_used_one() {
    let facts = guest().row(keyless(1, "a", 1, 'A').used()).host(hidden());
    assert_eq!(verdict(&facts), "deny VG205");
    let allowed = facts.policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&allowed), "allow HostSecret");
    assert_eq!(findings(&allowed)[1..], [Finding::NewTpmAllowed]);
}
