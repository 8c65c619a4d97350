//! The decision table of design.md, row by row, in its order.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod elsewhere;
mod given;
mod properties;

use given::{
    SECRET, clients, corrupt, emulator, findings, guest, hidden, key, keyless, known, opens,
    placeholder, sealed, valueless, verdict,
};

use crate::clock::Timestamp;
use crate::domain::{UnreadableDomain, Vtpm};
use crate::ids::{KeyRefId, SecretUuid};
use crate::verdict::decide::unusable_state;
use crate::verdict::facts::{
    Arrival, CopyReason, HostSecret, KekState, NotOpened, Obstacle, Permission, Proof,
    StoreAccessError, TpmState, TransientState, Trial,
};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Answer, Decision, Finding};
use HostSecret::Absent as NoSecret;
use TpmState::{Absent, Encrypted, Plain};

fn unreadable() -> TpmState {
    TpmState::Unreadable("cut short".to_owned())
}

fn unreachable() -> HostSecret {
    HostSecret::Unreachable("no answer".to_owned())
}

fn for_another_use() -> HostSecret {
    HostSecret::Conflict("a volume's".to_owned())
}

fn refusal(facts: &crate::verdict::facts::Facts) -> Refusal {
    match super::decide(facts) {
        Answer::Verdict(verdict) => match verdict.decision {
            Decision::Deny(refusal) => refusal,
            Decision::Allow(reason) => panic!("allowed: {reason:?}"),
        },
        Answer::AskHostSecret | Answer::AskElsewhere => panic!("no verdict yet"),
    }
}

#[test]
fn no_vtpm_passthrough_or_external_backend_is_allowed() {
    for vtpm in [None, Some(Vtpm::Passthrough), Some(Vtpm::External)] {
        let strict = guest().vtpm(vtpm).state(Encrypted).policy(|policy| {
            policy.unencrypted = Permission::Deny;
            policy.unmanaged = Permission::Deny;
        });
        assert_eq!(verdict(&strict), "allow NoEmulatedTpm");
    }
}

#[test]
fn emulator_without_encryption_is_allowed_with_absent_or_plain_state() {
    for state in [Absent, Plain, unreadable()] {
        let plain = guest().vtpm(Some(emulator(None))).state(state);
        assert_eq!(verdict(&plain), "allow Unencrypted");
        let denied = plain.policy(|policy| policy.unencrypted = Permission::Deny);
        assert_eq!(verdict(&denied), "deny VG502");
    }
}

#[test]
fn emulator_without_encryption_is_refused_over_encrypted_state() {
    let facts = guest().vtpm(Some(emulator(None))).state(Encrypted);
    assert_eq!(verdict(&facts), "deny VG503");
    assert_eq!(
        refusal(&facts),
        Refusal::EncryptionMismatch {
            state_encrypted: true
        }
    );
    assert_eq!(verdict(&facts.arriving()), "allow Unencrypted");
}

#[test]
fn one_keyed_row_whose_provider_opens_it_is_healthy() {
    let healthy = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
    assert_eq!(verdict(&healthy), "allow Unproven; provide 1");

    let proven = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().proven());
    assert_eq!(verdict(&proven.state(Encrypted)), "allow Proven; provide 1");

    let to_arrive = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used())
        .arriving();
    assert_eq!(verdict(&to_arrive), "allow Unproven; provide 1");

    // The state left behind by an earlier run says nothing of the one that arrives.
    let left_behind = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).refuted())
        .arriving();
    assert_eq!(
        verdict(&left_behind.state(Encrypted)),
        "allow Unproven; provide 1"
    );
}

#[test]
fn a_start_that_rests_on_a_state_to_come_says_so() {
    let used = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    let arrives = |found: &[Finding]| {
        found.iter().any(|it| {
            matches!(
                it,
                Finding::StateArrives {
                    arrival: Arrival::Migration,
                    first_used_at: Some(_)
                }
            )
        })
    };
    assert!(arrives(&findings(&used.clone().arriving())));
    let refuted = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().refuted())
        .state(Encrypted)
        .arriving();
    assert!(arrives(&findings(&refuted)));
    // A key that nobody has used waits for nothing, and one that is proven by what is here.
    let new = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
    assert!(!arrives(&findings(&new.arriving())));
    let proven = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used().proven())
        .state(Encrypted)
        .arriving();
    assert!(!arrives(&findings(&proven)));

    let mut gone = used;
    assert_eq!(findings(&gone), []);
    gone.snapshots = vec!["before".to_owned()];
    assert_eq!(verdict(&gone), "deny VG205");
    let names = vec!["before".to_owned()];
    assert_eq!(refusal(&gone), Refusal::StateInSnapshots { names });
}

#[test]
fn an_unmanaged_guest_whose_tpm_was_seen_gets_no_new_one() {
    let seen = guest().host(hidden()).seen();
    assert_eq!(verdict(&seen), "deny VG205");
    let allowed = seen
        .clone()
        .policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&allowed), "allow HostSecret");
    assert_eq!(
        findings(&allowed),
        [Finding::Unmanaged, Finding::NewTpmAllowed]
    );
    for there in [seen.clone().state(Encrypted), seen.arriving()] {
        assert_eq!(verdict(&there), "allow HostSecret");
        assert_eq!(findings(&there), [Finding::Unmanaged]);
    }
    let never_seen = guest().host(hidden());
    assert_eq!(verdict(&never_seen), "allow HostSecret");

    // Another secret is another TPM, and whoever brings a key for each start sees to both.
    let mut of_another_secret = guest().host(hidden()).seen();
    let references = of_another_secret.references.as_mut().unwrap();
    references.seen_state.as_mut().unwrap().secret_uuid = None;
    assert_eq!(verdict(&of_another_secret), "allow HostSecret");
    let clients = guest().host(clients()).seen();
    assert_eq!(verdict(&clients), "allow ClientsKey");
}

#[test]
fn unreadable_state_is_no_refusal_by_itself() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    let facts = facts.state(unreadable());
    assert_eq!(verdict(&facts), "allow Unproven; provide 1");
    assert_eq!(
        findings(&facts),
        [Finding::StateUnreadable("cut short".to_owned())]
    );
}

fn damaged() -> TpmState {
    TpmState::Damaged("it is empty".to_owned())
}

#[test]
fn a_damaged_state_is_refused_whatever_the_key_and_whoever_has_it() {
    let keyed = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used());
    let bound = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    let unmanaged = guest().host(hidden());
    let no_store = guest().store(StoreAccessError::Unavailable("locked".to_owned()));
    for facts in [keyed, bound, unmanaged, no_store.host(hidden()), guest()] {
        assert_eq!(verdict(&facts.state(damaged())), "deny VG207");
    }
    let plain = guest().vtpm(Some(emulator(None))).state(damaged());
    assert_eq!(verdict(&plain), "allow Unencrypted");
    assert!(unusable_state(&plain).is_some(), "but it would not start");
    let with_rows = plain.row(opens(1, "a", 1, 'A', 0));
    assert_eq!(verdict(&with_rows), "deny VG207");
}

#[test]
fn what_arrives_takes_the_place_of_a_damaged_state() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).used())
        .arriving();
    assert_eq!(
        verdict(&facts.state(damaged())),
        "allow Unproven; provide 1"
    );
}

#[test]
fn only_a_copy_that_the_key_opens_takes_the_place_of_a_damaged_state() {
    let row = || opens(1, "a", 1, 'A', 0).used();
    let with = |row| {
        let facts = guest().provider("a", 1, 'A').row(row);
        facts.with_saved(CopyReason::Release).state(damaged())
    };
    let proven = with(row().proven());
    assert_eq!(
        verdict(&proven),
        "allow Proven; restore-tpm-state of release; provide 1"
    );
    assert_eq!(
        findings(&proven),
        [Finding::StateDamaged {
            how: "it is empty".to_owned(),
            reason: CopyReason::Release
        }]
    );
    assert_eq!(verdict(&with(row())), "deny VG207");
    assert_eq!(verdict(&with(row().refuted())), "deny VG207");
    // "A new TPM may be made" is said of a state that is gone, not of one that is damaged.
    let may_be_missing = with(row()).policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&may_be_missing), "deny VG207");
}

#[test]
fn a_lock_that_is_held_refuses_unless_state_is_on_its_way() {
    let held = || Obstacle::InUse {
        holder: "swtpm (process 7)".to_owned(),
        pid: Some(7),
    };
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).proven())
        .state(Encrypted)
        .obstructed(held());
    assert_eq!(verdict(&facts), "deny VG208");
    assert_eq!(
        verdict(&guest().obstructed(held()).host(hidden())),
        "deny VG208"
    );
    assert!(verdict(&facts.arriving()).starts_with("allow"));
    let plain = guest().vtpm(Some(emulator(None))).obstructed(held());
    assert_eq!(verdict(&plain), "allow Unencrypted");
}

#[test]
fn a_closed_directory_refuses_whatever_arrives_and_whatever_the_store_says() {
    let closed = Obstacle::ClosedDirectory {
        path: "/var/lib/libvirt/swtpm".to_owned(),
        mode: 0o700,
        needed: 0o711,
        user: "tss".to_owned(),
    };
    let bad_lock = Obstacle::BadLock {
        path: "/states/.lock".to_owned(),
        what: "it is a FIFO".to_owned(),
    };
    for obstacle in [closed.clone(), bad_lock] {
        let facts = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
        assert_eq!(verdict(&facts.obstructed(obstacle)), "deny VG209");
    }
    assert_eq!(
        verdict(&guest().arriving().obstructed(closed.clone())),
        "deny VG209"
    );
    let no_store = guest().store(StoreAccessError::Unavailable("locked".to_owned()));
    assert_eq!(
        verdict(&no_store.host(hidden()).obstructed(closed)),
        "deny VG209"
    );
}

#[test]
fn placeholders_beside_a_keyed_row_are_deleted() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(placeholder(1, "a", 1))
        .row(opens(2, "a", 1, 'A', 0))
        .row(placeholder(3, "gone", 9));
    assert_eq!(
        verdict(&facts),
        "allow Unproven; delete-placeholder 1; delete-placeholder 3; provide 2"
    );
    assert_eq!(
        findings(&facts),
        [
            Finding::OrphanPlaceholder(KeyRefId(1)),
            Finding::OrphanPlaceholder(KeyRefId(3))
        ]
    );
}

#[test]
fn a_provider_imported_again_gets_its_row_back_by_name() {
    let facts = guest()
        .provider("a", 2, 'A')
        .row(opens(1, "a", 1, 'A', 0).uuid_lost());
    assert_eq!(
        verdict(&facts),
        "allow Unproven; rebind-provider 1 to a; provide 1"
    );

    let dangling = guest().provider("a", 2, 'A').row(opens(1, "a", 1, 'A', 0));
    assert_eq!(
        verdict(&dangling),
        "allow Unproven; rebind-provider 1 to a; provide 1"
    );

    let with_placeholder = facts.row(placeholder(2, "a", 2));
    assert_eq!(
        verdict(&with_placeholder),
        "allow Unproven; delete-placeholder 2; rebind-provider 1 to a; provide 1"
    );
}

#[test]
fn a_provider_imported_under_another_name_is_found_by_its_key_id() {
    let facts = guest()
        .provider("b", 2, 'A')
        .row(opens(1, "a", 1, 'A', 0).uuid_lost());
    assert_eq!(
        verdict(&facts),
        "allow Unproven; rebind-provider 1 to b; provide 1"
    );
    // The name is taken by a provider with another key: it does not matter.
    let taken = facts.provider("a", 3, 'X');
    assert_eq!(
        verdict(&taken),
        "allow Unproven; rebind-provider 1 to b; provide 1"
    );
}

#[test]
fn of_several_with_that_key_id_the_named_one_is_taken_and_else_none() {
    let two = guest().provider("b", 2, 'A').provider("c", 3, 'A');
    let by_name = two.clone().row(opens(1, "c", 1, 'A', 0).uuid_lost());
    assert_eq!(
        verdict(&by_name),
        "allow Unproven; rebind-provider 1 to c; provide 1"
    );
    let by_uuid = two.clone().row(opens(1, "b", 2, 'A', 0));
    assert_eq!(verdict(&by_uuid), "allow Unproven; provide 1");
    let ambiguous = two.row(opens(1, "a", 1, 'A', 0).uuid_lost());
    assert_eq!(verdict(&ambiguous), "deny VG103");
    // Of several rows of the key the oldest speaks.
    let oldest = opens(2, "z", 1, 'A', 0).with(|row| row.created_at = Timestamp(0));
    let Refusal::ProviderAmbiguous { provider, .. } = refusal(&ambiguous.row(oldest)) else {
        panic!("not ambiguous")
    };
    assert_eq!(provider, "z");
}

#[test]
fn a_provider_that_was_renamed_is_not_lost() {
    let renamed = guest().provider("new", 1, 'A');
    let row = renamed.clone().row(opens(1, "old", 1, 'A', 0));
    assert_eq!(
        verdict(&row),
        "allow Unproven; rebind-provider 1 to new; provide 1"
    );
    assert_eq!(findings(&row), [Finding::IncompleteRow(KeyRefId(1))]);
    let row = renamed.row(placeholder(1, "old", 1));
    assert_eq!(
        verdict(&row),
        "allow NewKey; bind-provider 1 to new; create-key 1; provide the new key"
    );
    assert_eq!(findings(&row), [Finding::IncompleteRow(KeyRefId(1))]);
}

#[test]
fn a_provider_of_that_name_with_another_key_is_never_rebound_to() {
    let facts = guest()
        .provider("a", 2, 'X')
        .row(keyless(1, "a", 1, 'A').uuid_lost());
    let facts = facts.row(placeholder(2, "a", 2));
    assert_eq!(verdict(&facts), "deny VG102");
    let mismatch = Refusal::ProviderKeyMismatch {
        provider: "a".to_owned(),
        has: key('X'),
        wrapped_with: key('A'),
    };
    assert_eq!(refusal(&facts), mismatch);
    // libvirt's own secret does not change that.
    assert_eq!(verdict(&facts.host(hidden())), "deny VG102");
}

#[test]
fn no_provider_refuses_unless_the_host_secret_carries_the_start() {
    let facts = guest()
        .provider("other", 5, 'X')
        .row(keyless(1, "a", 1, 'A').uuid_lost());
    let missing = Refusal::ProviderMissing {
        provider: "a".to_owned(),
        key_id: Some(key('A')),
    };
    assert_eq!(refusal(&facts), missing);
    for no_help in [NoSecret, valueless(), for_another_use(), unreachable()] {
        assert_eq!(verdict(&facts.clone().host(no_help)), "deny VG101");
    }
    let carried = facts.clone().host(hidden()).state(Encrypted);
    assert_eq!(verdict(&carried), "allow HostSecret");
    assert_eq!(findings(&carried), [Finding::Degraded(missing)]);
    let strict = carried.policy(|policy| policy.degraded = Permission::Deny);
    assert_eq!(verdict(&strict), "deny VG101");
}

#[test]
fn a_degraded_start_must_not_make_a_new_tpm_over_a_lost_one() {
    let facts = guest().row(keyless(1, "a", 1, 'A').used()).host(hidden());
    assert_eq!(verdict(&facts), "deny VG205");
    let allowed = facts.policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&allowed), "allow HostSecret");
    assert_eq!(findings(&allowed)[1..], [Finding::NewTpmAllowed]);
}

#[test]
fn a_sealed_provider_refuses_unless_the_host_secret_carries_the_start() {
    let facts = guest()
        .provider("a", 1, 'A')
        .kek_sealed('A')
        .row(sealed(1, "a", 1, 'A'));
    let reason = "no host key".to_owned();
    assert_eq!(
        refusal(&facts),
        Refusal::ProviderSealed {
            provider: "a".to_owned(),
            reason
        }
    );
    assert_eq!(verdict(&facts.host(hidden())), "allow HostSecret");
}

#[test]
fn a_key_that_does_not_open_in_time_refuses_for_that_alone() {
    let not_in_time = Refusal::ProviderTimedOut {
        provider: "a".to_owned(),
    };
    let mut row = sealed(1, "a", 1, 'A');
    row.trial = Some(Trial::NotOpened(NotOpened::TimedOut { key_id: key('A') }));
    let keyed = guest().provider("a", 1, 'A').row(row);
    assert_eq!(refusal(&keyed), not_in_time);
    assert_eq!(verdict(&keyed.host(hidden())), "allow HostSecret");

    let mut new = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    new.keks.insert(key('A'), KekState::TimedOut);
    assert_eq!(refusal(&new), not_in_time);
}

#[test]
fn of_several_rows_with_the_same_key_the_one_of_a_live_provider_stays() {
    let facts = guest()
        .provider("a", 2, 'A')
        .row(opens(1, "a", 1, 'A', 0).uuid_lost())
        .row(opens(2, "a", 2, 'A', 0))
        .row(opens(3, "a", 2, 'A', 0));
    assert_eq!(
        verdict(&facts),
        "allow Unproven; delete-duplicate 1 of 2; delete-duplicate 3 of 2; provide 2"
    );

    let wrapped_twice = guest()
        .provider("a", 1, 'A')
        .provider("b", 2, 'B')
        .row(opens(1, "b", 2, 'B', 0));
    assert_eq!(
        verdict(&wrapped_twice.row(opens(2, "a", 1, 'A', 0))),
        "allow Unproven; delete-duplicate 2 of 1; provide 1"
    );
}

#[test]
fn of_several_keys_the_proven_one_is_used_and_the_others_are_retired() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).refuted())
        .row(opens(2, "a", 1, 'A', 1).proven())
        .state(Encrypted);
    assert_eq!(verdict(&facts), "allow Proven; retire-key 1; provide 2");
}

#[test]
fn of_several_keys_none_provable_none_is_chosen() {
    for state in [Absent, unreadable()] {
        let two = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
        let two = two
            .row(opens(2, "a", 1, 'A', 1).used())
            .row(placeholder(3, "a", 1))
            .state(state);
        let key_refs = vec![KeyRefId(1), KeyRefId(2)];
        assert_eq!(refusal(&two), Refusal::KeyAmbiguous { key_refs });
    }
    let arriving = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).refuted());
    let arriving = arriving
        .row(opens(2, "a", 1, 'A', 1).refuted())
        .state(Encrypted)
        .arriving();
    assert_eq!(verdict(&arriving), "deny VG203");
}

#[test]
fn rows_that_open_nothing_are_ambiguous_only_without_proof() {
    let one_of_two = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
    let one_of_two = one_of_two.row(keyless(2, "lost", 9, 'L'));
    assert_eq!(verdict(&one_of_two), "deny VG203");
}

#[test]
fn rows_that_open_nothing_never_stop_a_start_that_another_row_proves() {
    let facts = guest()
        .provider("a", 1, 'A')
        .provider("foreign", 2, 'F')
        .kek_sealed('F')
        .row(keyless(1, "gone", 9, 'G'))
        .row(corrupt(2, "a", 1, 'A'))
        .row(keyless(3, "foreign", 2, 'H'))
        .row(sealed(4, "foreign", 2, 'F'))
        .row(opens(5, "a", 1, 'A', 0).proven())
        .state(Encrypted);
    assert_eq!(
        verdict(&facts),
        "allow Proven; retire-key 1; retire-key 2; retire-key 3; retire-key 4; provide 5"
    );
}

#[test]
fn a_key_that_does_not_open_encrypted_state_is_refused() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).refuted());
    let facts = facts.state(Encrypted).host(hidden());
    assert_eq!(
        refusal(&facts),
        Refusal::KeyDoesNotOpenTpm {
            key_refs: vec![KeyRefId(1)]
        }
    );
    let beside_damage = facts.clone().row(corrupt(2, "a", 1, 'A'));
    assert_eq!(verdict(&beside_damage), "deny VG204");
    // A key that is only out of reach may be the right one: its provider is what to bring back.
    let beside_lost = facts.host(NoSecret).row(keyless(3, "lost", 9, 'L'));
    assert_eq!(verdict(&beside_lost), "deny VG101");
}

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

#[test]
fn a_kept_copy_that_the_key_opens_is_put_back_and_the_start_goes_on() {
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

#[test]
fn a_kept_copy_proves_which_of_several_keys_is_the_tpms() {
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

#[test]
fn a_kept_copy_that_no_key_opens_is_not_the_tpms_state() {
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

#[test]
fn a_start_that_rests_on_libvirts_secret_gets_the_kept_copy_too() {
    let unmanaged = guest().host(hidden()).with_saved(CopyReason::Start);
    let put_back = "allow HostSecret; restore-tpm-state of start";
    assert_eq!(verdict(&unmanaged), put_back);
    let degraded = unmanaged.row(keyless(1, "a", 1, 'A').used());
    assert_eq!(verdict(&degraded), put_back);
    let trouble = StoreAccessError::Unavailable("locked".to_owned());
    assert_eq!(verdict(&degraded.clone().store(trouble)), put_back);
    assert_eq!(verdict(&degraded.host(NoSecret)), "deny VG101");
}

#[test]
fn a_kept_copy_stands_for_the_state_of_an_unencrypted_vtpm_too() {
    let facts = guest()
        .vtpm(Some(emulator(None)))
        .with_saved(CopyReason::Start);
    assert_eq!(verdict(&facts), "deny VG503");
    let mut plain = facts;
    plain.saved.copy.as_mut().unwrap().is_encrypted = false;
    let put_back = "allow Unencrypted; restore-tpm-state of start";
    assert_eq!(verdict(&plain), put_back);
    let encrypted = plain.vtpm(Some(emulator(Some(SECRET))));
    assert_eq!(verdict(&encrypted), "deny VG503");
}

#[test]
fn a_transient_guest_that_ended_normally_starts_as_the_policy_says() {
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

#[test]
fn plain_state_under_an_encrypted_xml_is_refused() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0))
        .state(Plain);
    assert_eq!(
        refusal(&facts),
        Refusal::EncryptionMismatch {
            state_encrypted: false
        }
    );
    assert_eq!(verdict(&guest().state(Plain).host(hidden())), "deny VG503");
    assert_eq!(verdict(&facts.arriving()), "allow Unproven; provide 1");
}

#[test]
fn a_wrapped_key_that_does_not_authenticate_is_refused() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(corrupt(1, "a", 1, 'A'))
        .host(hidden());
    let reason = "not authentic".to_owned();
    assert_eq!(
        refusal(&facts),
        Refusal::KeyCorrupt {
            key_ref: KeyRefId(1),
            reason
        }
    );
    // Where another row's key is only out of reach, importing its provider is what helps.
    let beside_lost = guest()
        .row(corrupt(1, "a", 1, 'A'))
        .row(keyless(2, "lost", 9, 'L'));
    assert_eq!(verdict(&beside_lost), "deny VG101");
}

#[test]
fn placeholders_alone_without_state_get_their_key() {
    let one = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    assert_eq!(
        verdict(&one),
        "allow NewKey; create-key 1; provide the new key"
    );
    let three = guest()
        .provider("a", 1, 'A')
        .row(placeholder(1, "gone", 9))
        .row(placeholder(2, "a", 1))
        .row(placeholder(3, "a", 1));
    assert_eq!(
        verdict(&three),
        "allow NewKey; delete-placeholder 1; delete-placeholder 3; create-key 2; \
         provide the new key"
    );
}

#[test]
fn a_placeholder_finds_its_provider_by_name_or_not_at_all() {
    let again = guest()
        .provider("a", 2, 'A')
        .row(placeholder(1, "a", 1).uuid_lost());
    assert_eq!(
        verdict(&again),
        "allow NewKey; bind-provider 1 to a; create-key 1; provide the new key"
    );
    let gone = guest()
        .provider("b", 2, 'A')
        .row(placeholder(1, "a", 1).uuid_lost());
    let missing = Refusal::ProviderMissing {
        provider: "a".to_owned(),
        key_id: None,
    };
    assert_eq!(refusal(&gone), missing);
    assert_eq!(verdict(&gone.host(hidden())), "allow HostSecret");
    let closed = guest()
        .provider("a", 1, 'A')
        .kek_sealed('A')
        .row(placeholder(1, "a", 1));
    assert_eq!(verdict(&closed), "deny VG104");
}

#[test]
fn no_key_is_made_over_existing_state() {
    for state in [Encrypted, unreadable()] {
        let facts = guest()
            .provider("a", 1, 'A')
            .row(placeholder(1, "a", 1))
            .state(state);
        assert_eq!(verdict(&facts), "deny VG202");
        let carried = facts.clone().host(hidden());
        assert_eq!(verdict(&carried), "allow HostSecret");
        assert_eq!(findings(&carried), [Finding::Unmanaged]);
        assert_eq!(
            verdict(&facts.clone().host(for_another_use())),
            "deny VG303"
        );
        assert_eq!(verdict(&facts.host(unreachable())), "deny VG302");
    }
    let arriving = guest()
        .provider("a", 1, 'A')
        .row(placeholder(1, "a", 1))
        .arriving();
    assert_eq!(verdict(&arriving), "deny VG202");
}

#[test]
fn a_guest_without_rows_is_unmanaged_when_libvirt_has_its_secret() {
    for state in [Absent, Encrypted, unreadable()] {
        let facts = guest().state(state).host(hidden());
        assert_eq!(verdict(&facts), "allow HostSecret");
        assert_eq!(findings(&facts), [Finding::Unmanaged]);
        let strict = facts.policy(|policy| policy.unmanaged = Permission::Deny);
        assert_eq!(verdict(&strict), "deny VG201");
    }
}

#[test]
fn auto_bind_makes_a_key_for_a_guest_without_rows_and_state() {
    let auto = |facts: crate::verdict::facts::Facts| {
        facts.policy(|policy| policy.auto_bind = Some("a".to_owned()))
    };
    let facts = auto(guest().provider("a", 1, 'A'));
    assert_eq!(
        verdict(&facts),
        "allow NewKey; bind-provider new to a; create-key new; provide the new key"
    );
    assert_eq!(
        verdict(&facts.clone().host(valueless())),
        verdict(&facts) + " in place of a foreign secret"
    );
    assert_eq!(verdict(&facts.clone().host(hidden())), "allow HostSecret");
    assert_eq!(verdict(&facts.clone().state(Encrypted)), "deny VG202");
    assert_eq!(verdict(&facts.clone().arriving()), "deny VG202");
    assert_eq!(verdict(&facts.kek_sealed('A')), "deny VG104");
    assert_eq!(verdict(&auto(guest())), "deny VG101");
}

#[test]
fn no_rows_and_no_host_secret_is_a_missing_or_a_lost_key() {
    for nothing in [NoSecret, valueless()] {
        assert_eq!(verdict(&guest().host(nothing.clone())), "deny VG201");
        assert_eq!(
            verdict(&guest().host(nothing).state(Encrypted)),
            "deny VG202"
        );
    }
    assert_eq!(verdict(&guest().host(unreachable())), "deny VG302");
    assert_eq!(verdict(&guest().host(for_another_use())), "deny VG303");
}

#[test]
fn missing_columns_are_filled_from_what_unwraps_the_row() {
    let bare = opens(1, "a", 1, 'A', 0).with(|row| {
        row.key_version = None;
        row.kek_ref = None;
    });
    let facts = guest().provider("a", 1, 'A').row(bare);
    assert_eq!(
        verdict(&facts),
        "allow Unproven; fill-key-version 1; fill-kek-ref 1; provide 1"
    );
    assert_eq!(findings(&facts), [Finding::IncompleteRow(KeyRefId(1))]);
    let wrong = opens(1, "a", 1, 'A', 0).with(|row| row.kek_ref = Some("native:00".to_owned()));
    let facts = guest().provider("a", 1, 'A').row(wrong);
    assert_eq!(verdict(&facts), "allow Unproven; fill-kek-ref 1; provide 1");
}

#[test]
fn the_secret_that_the_xml_names_is_right() {
    let other = SecretUuid::parse("5ec2e700-0000-4000-8000-000000000099").unwrap();
    for stored in [None, Some(other)] {
        let row = opens(1, "a", 1, 'A', 0).with(|row| row.secret_uuid = stored);
        let facts = guest().provider("a", 1, 'A').row(row);
        assert_eq!(
            verdict(&facts),
            "allow Unproven; set-secret-uuid 1; provide 1"
        );
    }
    let placeholder_naming = |stored| {
        let row = placeholder(1, "a", 1).with(|row| row.secret_uuid = stored);
        verdict(&guest().provider("a", 1, 'A').row(row))
    };
    assert_eq!(
        placeholder_naming(Some(other)),
        "allow NewKey; set-secret-uuid 1; create-key 1; provide the new key"
    );
    // A new key brings the secret's UUID along.
    assert_eq!(
        placeholder_naming(None),
        "allow NewKey; create-key 1; provide the new key"
    );
}

#[test]
fn an_unusable_store_refuses_unless_the_host_secret_carries_the_start() {
    let cases = [
        (
            StoreAccessError::Unavailable("locked".to_owned()),
            "deny VG401",
        ),
        (
            StoreAccessError::Corrupt("damaged".to_owned()),
            "deny VG402",
        ),
        (
            StoreAccessError::TooNew { found: 9, known: 1 },
            "deny VG403",
        ),
    ];
    for (trouble, refused) in cases {
        let facts = guest().store(trouble.clone());
        for no_help in [NoSecret, valueless(), for_another_use(), unreachable()] {
            assert_eq!(verdict(&facts.clone().host(no_help)), refused);
        }
        let carried = facts.host(hidden());
        assert_eq!(verdict(&carried), "allow HostSecret");
        assert_eq!(findings(&carried), [Finding::StoreUnusable(trouble)]);
        assert_eq!(verdict(&carried.state(Plain)), "deny VG503");
    }
}

#[test]
fn unreadable_xml_is_refused_only_where_an_emulated_tpm_was_seen_and_the_policy_says_so() {
    let mut facts = guest();
    facts.domain = Err(UnreadableDomain::unseen("not XML"));
    assert_eq!(verdict(&facts), "allow UnreadableXml");
    assert_eq!(
        findings(&facts),
        [Finding::XmlUnreadable("not XML".to_owned())]
    );
    let mut strict = facts.policy(|policy| policy.unencrypted = Permission::Deny);
    assert_eq!(verdict(&strict), "allow UnreadableXml");
    strict.domain = Err(UnreadableDomain {
        reason: "not XML".to_owned(),
        has_emulated_tpm: true,
    });
    assert_eq!(verdict(&strict), "deny VG501");
}

#[test]
fn the_host_secret_is_asked_for_only_where_it_matters() {
    let unasked = |mut facts: crate::verdict::facts::Facts| {
        facts.host_secret = None;
        verdict(&facts)
    };
    let provider = guest().provider("a", 1, 'A');
    let keyed = provider.clone().row(opens(1, "a", 1, 'A', 0));
    let refuted = provider.clone().row(opens(1, "a", 1, 'A', 0).refuted());
    for facts in [
        guest(),
        guest().row(keyless(1, "a", 1, 'A')),
        guest().store(StoreAccessError::Corrupt(String::new())),
        keyed.clone(),
        provider.clone().row(placeholder(1, "a", 1)),
        refuted.state(Encrypted),
    ] {
        assert_eq!(unasked(facts), "ask");
    }
    let unencrypted = guest().vtpm(Some(emulator(None)));
    assert_eq!(unasked(unencrypted), "allow Unencrypted");
    assert_eq!(unasked(keyed.state(Plain)), "deny VG503");
    let used = provider.row(opens(1, "a", 1, 'A', 0).used());
    assert_eq!(unasked(used), "deny VG205");
}

/// A guest whose key 0 is in row 1, proven, used or not.
fn keyed(row: impl FnOnce(given::Row) -> given::Row) -> crate::verdict::facts::Facts {
    let row = row(opens(1, "a", 1, 'A', 0));
    guest().provider("a", 1, 'A').row(row)
}

#[test]
fn a_foreign_secret_that_has_the_key_is_left_as_it_is() {
    for facts in [
        keyed(|row| row.used().proven()).state(Encrypted),
        keyed(|row| row),
        keyed(given::Row::used).arriving(),
    ] {
        // Also where other guests share it.
        let facts = facts.host(known(0, Proof::None).named_by(&["vm2"]));
        assert!(verdict(&facts).ends_with("; provide 1, which libvirt has"));
    }
}

#[test]
fn a_foreign_secret_without_a_value_is_replaced_by_the_guards_own() {
    let facts = keyed(|row| row.used().proven()).state(Encrypted);
    let replaced = "allow Proven; provide 1 in place of a foreign secret";
    assert_eq!(verdict(&facts.host(valueless())), replaced);
    let placeholder = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    assert_eq!(
        verdict(&placeholder.host(valueless())),
        "allow NewKey; create-key 1; provide the new key in place of a foreign secret"
    );
}

#[test]
fn a_foreign_value_that_the_state_refutes_is_kept_as_a_retired_key_and_replaced() {
    let facts = keyed(|row| row.used().proven()).state(Encrypted);
    let other = known(7, Proof::Refuted);
    let replaced = "allow Proven; retire-key new; provide 1 in place of a foreign secret";
    assert_eq!(verdict(&facts.clone().host(other.clone())), replaced);
    assert_eq!(
        findings(&facts.clone().host(other)),
        [Finding::HostValueKept]
    );
    // Without state it may be this guest's own key all the same: nothing of it is lost.
    let replaced = "allow Unproven; retire-key new; provide 1 in place of a foreign secret";
    let unused = keyed(|row| row).host(known(7, Proof::None));
    assert_eq!(verdict(&unused), replaced);
    let arriving = keyed(given::Row::used)
        .arriving()
        .host(known(7, Proof::None));
    assert_eq!(verdict(&arriving), replaced);
    // A retired row that holds it is enough.
    let mut kept = facts.host(known(7, Proof::Refuted));
    let retired = opens(9, "a", 1, 'A', 7).refuted();
    kept.retired
        .insert(retired.key_ref.id, retired.trial.unwrap());
    assert_eq!(
        verdict(&kept),
        "allow Proven; provide 1 in place of a foreign secret"
    );
}

#[test]
fn a_value_that_another_guest_may_need_is_never_touched() {
    for facts in [
        keyed(|row| row.used().proven()).state(Encrypted),
        keyed(|row| row),
        keyed(given::Row::used).arriving(),
        guest().provider("a", 1, 'A').row(placeholder(1, "a", 1)),
    ] {
        for host in [known(7, Proof::None), hidden(), clients()] {
            let facts = facts.clone().host(host.named_by(&["vm2"]));
            let guests = vec!["vm2".to_owned()];
            let secret = SecretUuid::parse(SECRET).unwrap();
            assert_eq!(refusal(&facts), Refusal::SecretOfGuest { secret, guests });
        }
    }
    let mut anything = known(7, Proof::Refuted);
    if let HostSecret::Foreign(foreign) = &mut anything {
        foreign.serves_anything = true;
    }
    let facts = keyed(|row| row.used().proven()).state(Encrypted);
    assert_eq!(verdict(&facts.host(anything)), "deny VG303");
}

#[test]
fn a_hidden_value_gives_way_only_to_a_proven_key_and_only_in_memory() {
    let proven = keyed(|row| row.used().proven()).state(Encrypted);
    assert_eq!(
        verdict(&proven.clone().host(clients())),
        "allow Proven; provide 1 over a foreign value"
    );
    // On a disk it would be written in clear; unproven, it may be the right one.
    let secret = SecretUuid::parse(SECRET).unwrap();
    for facts in [
        proven.clone().host(hidden()),
        proven.arriving().host(clients()),
        keyed(|row| row).host(clients()),
        keyed(|row| row).state(unreadable()).host(clients()),
    ] {
        assert!(!verdict(&facts).contains("provide"), "{}", verdict(&facts));
        assert!(findings(&facts).contains(&Finding::HiddenValue(secret)));
    }
}

#[test]
fn a_value_that_a_client_gave_a_bound_guest_without_state_is_its_key() {
    let bound = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    let given = bound.clone().host(known(7, Proof::None));
    assert_eq!(
        verdict(&given),
        "allow NewKey; create-key 1; provide the new key, which libvirt has"
    );
    // One that nobody can read carries the start, and no other key is made.
    let hidden_value = bound.clone().host(clients());
    assert_eq!(verdict(&hidden_value), "allow ClientsKey");
    assert_eq!(findings(&hidden_value), [Finding::ClientsKey]);
    assert_eq!(verdict(&bound.host(hidden())), "allow HostSecret");
}

#[test]
fn a_guest_started_with_a_clients_key_goes_on_so() {
    let unmanaged = guest().state(Encrypted).host(clients());
    assert_eq!(findings(&unmanaged), [Finding::ClientsKey]);
    // It was bound, and its own key never used.
    let bound = keyed(given::Row::refuted).state(Encrypted).host(clients());
    assert_eq!(verdict(&bound), "allow ClientsKey");
    let used = keyed(|row| row.refuted().used()).state(Encrypted);
    assert_eq!(verdict(&used.host(clients())), "deny VG204");
    // Where the client brings none, it is not the store that could be restored.
    let mut brought_none = guest().state(Encrypted);
    brought_none.references.as_mut().unwrap().clients_key = true;
    let secret = SecretUuid::parse(SECRET).unwrap();
    assert_eq!(
        refusal(&brought_none),
        Refusal::ClientsKeyMissing { secret }
    );
}

#[test]
fn an_unmanaged_value_that_does_not_open_the_state_is_refused() {
    let secret = SecretUuid::parse(SECRET).unwrap();
    let does_not_open = Refusal::HostValueDoesNotOpenTpm { secret };
    let wrong = guest().state(Encrypted).host(known(7, Proof::Refuted));
    assert_eq!(refusal(&wrong), does_not_open);
    let bound = wrong
        .clone()
        .provider("a", 1, 'A')
        .row(placeholder(1, "a", 1));
    assert_eq!(refusal(&bound), does_not_open);
    let degraded = wrong.clone().row(keyless(1, "a", 1, 'A'));
    assert_eq!(verdict(&degraded), "deny VG101");
    assert_eq!(verdict(&wrong.clone().arriving()), "allow HostSecret");
    let right = guest().state(Encrypted).host(known(7, Proof::Proven));
    assert_eq!(verdict(&right), "allow HostSecret");
    let no_state = guest().host(known(7, Proof::None));
    assert_eq!(verdict(&no_state), "allow HostSecret");
}

#[test]
fn a_value_or_a_retired_key_that_opens_the_state_is_named() {
    let refuted = keyed(|row| row.used().refuted()).state(Encrypted);
    let carried = refuted.clone().host(known(7, Proof::Proven));
    assert_eq!(verdict(&carried), "allow HostSecret");
    assert_eq!(findings(&carried), [Finding::HostValueProven]);
    let mut retired = refuted;
    let row = opens(9, "a", 1, 'A', 7).proven();
    retired.retired.insert(row.key_ref.id, row.trial.unwrap());
    let key_ref = KeyRefId(9);
    assert_eq!(refusal(&retired), Refusal::RetiredKeyOpensTpm { key_ref });
}

#[test]
fn the_guards_own_secret_is_no_evidence() {
    let this = guest().domain.unwrap().uuid;
    let own = HostSecret::Guards(this);
    let others = HostSecret::Guards(crate::ids::DomainUuid::random());
    let trouble = StoreAccessError::Unavailable("locked".to_owned());
    // What an earlier start left behind carries a start only over the TPM that is there.
    let locked = guest().store(trouble);
    assert_eq!(verdict(&locked.clone().host(own.clone())), "deny VG401");
    let locked = locked.state(Encrypted);
    assert_eq!(
        verdict(&locked.clone().host(own.clone())),
        "allow HostSecret"
    );
    assert_eq!(verdict(&locked.host(others.clone())), "deny VG401");
    assert_eq!(verdict(&guest().host(own)), "deny VG201");
    // No guest starts with the value of another.
    assert_eq!(verdict(&guest().host(others.clone())), "deny VG201");
    assert_eq!(
        verdict(&guest().state(Encrypted).host(others.clone())),
        "deny VG202"
    );
    let healthy = keyed(|row| row.used().proven()).state(Encrypted);
    assert_eq!(verdict(&healthy.host(others)), "allow Proven; provide 1");
}
