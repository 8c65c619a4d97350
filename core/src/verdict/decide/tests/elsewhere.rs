//! The rows about a TPM and a key that this host has under another name.

use super::given::{
    emulator, guest, hidden, keyless, known, opens, placeholder, refusal, unreadable, verdict,
};
use crate::domain::TpmVersion;
use crate::ids::{DomainUuid, KeyRefId};
use crate::verdict::elsewhere::{
    ElsewhereKind, OtherGuest, RelatedGuest, Relation, SearchCut, StateElsewhere,
};
use crate::verdict::facts::{
    CopyReason, Facts, Permission, Proof, StoreAccessError, TpmState, TransientState,
};
use crate::verdict::refusal::Refusal;
use TpmState::Encrypted;

fn other() -> OtherGuest {
    OtherGuest {
        uuid: DomainUuid::parse("d0000000-0000-4000-8000-000000000002").unwrap(),
        name: Some("vm0".to_owned()),
        is_defined: true,
    }
}

fn relative(by: Relation) -> RelatedGuest {
    RelatedGuest {
        domain: other(),
        by,
        has_state: true,
    }
}

fn of_another(refuted: bool) -> Refusal {
    Refusal::KeyOfOtherGuest {
        holder: other(),
        refuted,
        is_defined: true,
    }
}

/// A retired row that opens the TPM's state.
fn with_retired_key(mut facts: Facts) -> Facts {
    let row = opens(7, "a", 1, 'A', 0).proven();
    facts.retired.insert(row.key_ref.id, row.trial.unwrap());
    facts
}

fn state(kind: ElsewhereKind) -> StateElsewhere {
    StateElsewhere {
        path: "/there/tpm2-00.permall".into(),
        wanted: "/here/tpm2-00.permall".into(),
        kind,
    }
}

/// A guest without rows on a host with the provider `a`.
fn newcomer() -> Facts {
    guest().provider("a", 1, 'A')
}

/// A guest with a used key, and no state.
fn used() -> Facts {
    newcomer().row(opens(1, "a", 1, 'A', 0).used())
}

/// Rows 65 and 66.
#[test]
fn a_guest_that_may_be_another_one_is_never_bound_automatically() {
    let auto_bind = |facts: Facts| facts.policy(|policy| policy.auto_bind = Some("a".to_owned()));
    let strangers = auto_bind(newcomer());
    assert_eq!(
        verdict(&strangers),
        "allow NewKey; bind-provider new to a; create-key new; provide the new key"
    );
    for by in [Relation::Secret, Relation::Name] {
        for facts in [newcomer(), auto_bind(newcomer())] {
            let facts = facts.elsewhere(|found| found.relative = Some(relative(by)));
            assert_eq!(verdict(&facts), "deny VG201");
            assert_eq!(
                refusal(&facts),
                Refusal::KeyOfRelatedGuest {
                    relative: relative(by),
                    is_defined: true
                }
            );
        }
    }
    // Where each run of a transient guest has a new TPM anyway, nothing is lost.
    let transient = auto_bind(newcomer()).elsewhere(|found| {
        found.is_defined = false;
        found.relative = Some(relative(Relation::Secret));
    });
    let fresh = transient
        .clone()
        .policy(|policy| policy.transient_state = TransientState::Fresh);
    assert_eq!(verdict(&transient), "deny VG201");
    assert_eq!(verdict(&fresh), "deny VG201");
    let gone = |facts: Facts| {
        facts.elsewhere(|found| {
            let relative = found.relative.as_mut().unwrap();
            (relative.has_state, relative.domain.is_defined) = (false, false);
        })
    };
    assert_eq!(verdict(&gone(transient)), "deny VG201");
    assert!(verdict(&gone(fresh.clone())).starts_with("allow NewKey"));
    // A state of the other guest, or its definition, is enough to lose something.
    for (has_state, is_defined) in [(true, false), (false, true)] {
        let facts = fresh.clone().elsewhere(|found| {
            let relative = found.relative.as_mut().unwrap();
            (relative.has_state, relative.domain.is_defined) = (has_state, is_defined);
        });
        assert_eq!(verdict(&facts), "deny VG201");
    }
    // Bound by an administrator, it is a guest like any other.
    let bound = newcomer()
        .elsewhere(|found| found.relative = Some(relative(Relation::Secret)))
        .row(placeholder(1, "a", 1));
    assert_eq!(
        verdict(&bound),
        "allow NewKey; create-key 1; provide the new key"
    );
}

/// Row 60.
#[test]
fn nor_is_a_guest_that_could_not_be_looked_for_under_another_name() {
    let auto_bind = |facts: Facts| facts.policy(|policy| policy.auto_bind = Some("a".to_owned()));
    let unanswered = |why| auto_bind(newcomer()).elsewhere(|found| found.unanswered = Some(why));
    let store = |trouble| unanswered(SearchCut::Store(trouble));
    let slow = store(StoreAccessError::Unavailable("too slow".to_owned()));
    assert_eq!(verdict(&slow), "deny VG401");
    let damaged = store(StoreAccessError::Corrupt("damaged".to_owned()));
    assert_eq!(verdict(&damaged), "deny VG402");
    let unread = unanswered(SearchCut::Definitions("too slow".to_owned()));
    assert_eq!(verdict(&unread), "deny VG302");
    // What was found all the same is named.
    let related = slow
        .clone()
        .elsewhere(|found| found.relative = Some(relative(Relation::Name)));
    assert_eq!(verdict(&related), "deny VG201");
    // Nothing new is made for others: they are refused as if nothing had been found.
    let mut unbound = slow;
    unbound.policy.auto_bind = None;
    assert_eq!(verdict(&unbound), "deny VG201");
}

/// Row 67.
#[test]
fn nor_is_a_guest_whose_state_is_elsewhere() {
    let state = state(ElsewhereKind::OtherVersion(TpmVersion::V2_0));
    let facts = newcomer()
        .policy(|policy| policy.auto_bind = Some("a".to_owned()))
        .elsewhere(|found| found.state = Some(state.clone()));
    assert_eq!(verdict(&facts), "deny VG201");
    assert_eq!(refusal(&facts), Refusal::KeyMissingStateElsewhere(state));
}

/// Row 68.
#[test]
fn a_guest_that_libvirt_does_not_define_is_not_to_be_bound_by_name() {
    let facts = newcomer().elsewhere(|found| found.is_defined = false);
    assert_eq!(verdict(&facts), "deny VG201");
    let domain = facts.domain.as_ref().unwrap().uuid;
    assert_eq!(refusal(&facts), Refusal::KeyMissingNotDefined { domain });
    assert_eq!(refusal(&newcomer()), Refusal::KeyMissing);
}

/// Rows 69, 70 and 72.
#[test]
fn the_key_of_another_guest_is_named_and_so_is_a_retired_one() {
    let key_ref = KeyRefId(7);
    for facts in [newcomer(), newcomer().row(placeholder(1, "a", 1))] {
        let lost = facts.state(Encrypted);
        assert_eq!(refusal(&lost), Refusal::KeyUnknown);
        let held = lost.elsewhere(|found| found.key_holder = Some(other()));
        assert_eq!(verdict(&held), "deny VG202");
        assert_eq!(refusal(&held), of_another(false));
        let retired = with_retired_key(held);
        assert_eq!(verdict(&retired), "deny VG202");
        assert_eq!(refusal(&retired), Refusal::KeyRetired { key_ref });
    }
    assert_eq!(refusal(&guest().state(Encrypted)), Refusal::KeyLost);
    assert_eq!(
        refusal(&newcomer().state(unreadable())),
        Refusal::KeyUnknown
    );
}

/// Rows 69 and 70.
#[test]
fn a_key_or_a_value_that_does_not_open_the_tpm_is_no_reason_to_stop_looking() {
    let key_ref = KeyRefId(7);
    let wrong_key = newcomer().row(opens(1, "a", 1, 'A', 0).refuted());
    let wrong_value = newcomer().host(known(9, Proof::Refuted));
    for facts in [wrong_key, wrong_value] {
        let wrong = facts.state(Encrypted);
        assert_eq!(verdict(&wrong), "deny VG204");
        let held = wrong.elsewhere(|found| found.key_holder = Some(other()));
        assert_eq!(verdict(&held), "deny VG204");
        assert_eq!(refusal(&held), of_another(true));
        let retired = with_retired_key(held);
        assert_eq!(refusal(&retired), Refusal::RetiredKeyOpensTpm { key_ref });
    }
}

/// Row 71.
#[test]
fn a_state_on_its_way_needs_the_key_of_the_host_that_sends_it() {
    for facts in [newcomer(), newcomer().row(placeholder(1, "a", 1))] {
        let facts = facts
            .arriving()
            .elsewhere(|found| found.relative = Some(relative(Relation::Secret)));
        assert_eq!(verdict(&facts), "deny VG202");
        assert_eq!(refusal(&facts), Refusal::KeyNotImported);
    }
}

/// Rows 53, 62 and 71.
#[test]
fn a_state_on_its_way_may_need_a_retired_key_of_the_guest() {
    for facts in [newcomer(), newcomer().row(placeholder(1, "a", 1))] {
        let arriving = facts.arriving();
        let one = arriving
            .clone()
            .retired(opens(7, "a", 1, 'A', 0).of_generation(2));
        let named = |ids: &[i64]| Refusal::KeysRetired {
            key_refs: ids.iter().map(|id| KeyRefId(*id)).collect(),
        };
        assert_eq!(verdict(&one), "deny VG202");
        assert_eq!(refusal(&one), named(&[7]));
        // What an outdated state says of a key does not count; the newest comes first.
        let refuted = opens(8, "a", 1, 'A', 1).of_generation(3).refuted();
        let several = one.retired(refuted).retired(opens(9, "a", 1, 'A', 2));
        assert_eq!(refusal(&several), named(&[8, 7, 9]));
        // One that does not open cannot be used.
        let closed = arriving.retired(keyless(7, "b", 2, 'B'));
        assert_eq!(refusal(&closed), Refusal::KeyNotImported);
    }
    // A state that is here shows which one is right.
    let here = newcomer()
        .state(Encrypted)
        .retired(opens(7, "a", 1, 'A', 0).refuted());
    assert_eq!(refusal(&here), Refusal::KeyUnknown);
}

/// Row 73.
#[test]
fn the_state_of_a_used_tpm_elsewhere_is_named() {
    for kind in [
        ElsewhereKind::OtherVersion(TpmVersion::V1_2),
        ElsewhereKind::LastSeen,
        ElsewhereKind::OwnDirectory,
    ] {
        let facts = used().elsewhere(|found| {
            found.state = Some(state(kind));
            found.was_undefined = true;
        });
        assert_eq!(verdict(&facts), "deny VG205");
        assert_eq!(refusal(&facts), Refusal::TpmStateElsewhere(state(kind)));
    }
    // libvirt's own secret would make a new TPM just the same.
    let degraded = guest()
        .row(keyless(1, "a", 1, 'A').used())
        .host(hidden())
        .elsewhere(|found| found.state = Some(state(ElsewhereKind::LastSeen)));
    assert_eq!(
        refusal(&degraded),
        Refusal::TpmStateElsewhere(state(ElsewhereKind::LastSeen))
    );
}

/// Row 74.
#[test]
fn a_state_that_was_deleted_with_the_definition_is_reported_so() {
    let undefined = used().elsewhere(|found| found.was_undefined = true);
    assert_eq!(verdict(&undefined), "deny VG205");
    assert_eq!(refusal(&undefined), Refusal::TpmStateUndefined);
    assert_eq!(refusal(&used()), Refusal::TpmStateMissing);
}

/// Row 75.
#[test]
fn only_a_refusal_that_misses_something_looks_elsewhere() {
    let unasked = |mut facts: Facts| {
        facts.elsewhere = None;
        verdict(&facts)
    };
    assert_eq!(unasked(newcomer()), "look elsewhere");
    assert_eq!(unasked(newcomer().state(Encrypted)), "look elsewhere");
    assert_eq!(unasked(used()), "look elsewhere");
    let another_key = guest().provider("a", 1, 'X').row(keyless(1, "a", 1, 'A'));
    assert_eq!(unasked(another_key), "deny VG102");
    assert!(unasked(newcomer().host(hidden())).starts_with("allow"));
    assert!(unasked(newcomer().row(placeholder(1, "a", 1))).starts_with("allow"));
    let proven = newcomer().row(opens(1, "a", 1, 'A', 0).used().proven());
    assert!(unasked(proven.with_saved(CopyReason::Start)).starts_with("allow"));
    assert!(unasked(used().arriving()).starts_with("allow"));
    let allowed = used().policy(|policy| policy.missing_state = Permission::Allow);
    assert!(unasked(allowed).starts_with("allow"));
    assert!(unasked(guest().vtpm(Some(emulator(None)))).starts_with("allow"));

    // Where only what helps needs it: no more than whether libvirt defines the guest.
    let only_defined = "look for the definition";
    assert_eq!(unasked(used().state(TpmState::Plain)), only_defined);
    let plain = guest().vtpm(Some(emulator(None)));
    assert_eq!(unasked(plain.clone().state(Encrypted)), only_defined);
    let unencrypted = plain.policy(|policy| policy.unencrypted = Permission::Deny);
    assert_eq!(unasked(unencrypted), only_defined);
    let unmanaged = guest()
        .host(hidden())
        .policy(|policy| policy.unmanaged = Permission::Deny);
    assert_eq!(unasked(unmanaged), only_defined);
}
