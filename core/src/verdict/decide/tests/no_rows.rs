//! No key reference.

use super::given::{
    Row, SECRET, clients, findings, for_another_use, guest, hidden, keyed, keyless, known, opens,
    placeholder, refusal, unreachable, unreadable, valueless, verdict,
};
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::verdict::Finding;
use crate::verdict::elsewhere::{
    ElsewhereKind, OtherGuest, RelatedGuest, Relation, StateElsewhere,
};
use crate::verdict::facts::{
    CopyReason, Facts, HostSecret, Permission, Proof, StoreAccessError, TpmState, TransientState,
};
use crate::verdict::refusal::Refusal;
use HostSecret::Absent as NoSecret;
use TpmState::{Absent, Encrypted};

fn relative() -> RelatedGuest {
    RelatedGuest {
        domain: OtherGuest {
            uuid: DomainUuid::random(),
            name: Some("vm0".to_owned()),
            is_defined: true,
        },
        by: Relation::Secret,
        has_state: true,
    }
}

/// Rows 54 and 55.
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

/// Rows 55 and 58.
#[test]
fn a_refused_unmanaged_guest_says_whose_key_it_is_and_whether_the_guest_is_defined() {
    for (host, is_clients) in [(hidden(), false), (clients(), true)] {
        let strict = guest()
            .host(host)
            .policy(|policy| policy.unmanaged = Permission::Deny);
        let refused = |is_defined| Refusal::Unmanaged {
            is_clients,
            is_defined,
        };
        assert_eq!(refusal(&strict), refused(true));
        let undefined = strict.elsewhere(|found| found.is_defined = false);
        assert_eq!(refusal(&undefined), refused(false));
    }
}

/// Row 56.
#[test]
fn a_value_of_libvirts_that_does_not_open_the_state_is_refused() {
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

/// Rows 57 and 58.
#[test]
fn an_unmanaged_guest_whose_tpm_was_seen_gets_no_new_tpm() {
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

/// Rows 37, 58 and 63.
#[test]
fn a_guest_whose_client_brings_its_key_is_allowed() {
    let unmanaged = guest().state(Encrypted).host(clients());
    assert_eq!(findings(&unmanaged), [Finding::ClientsKey]);
    // It was bound, and its own key never used.
    let bound = keyed(Row::refuted).state(Encrypted).host(clients());
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

/// Rows 59, 60 and 62.
#[test]
fn auto_bind_makes_a_key_for_a_guest_without_rows_and_state() {
    let auto = |facts: Facts| facts.policy(|policy| policy.auto_bind = Some("a".to_owned()));
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
    // It is not the guest that names the provider.
    let provider = "a".to_owned();
    assert_eq!(
        refusal(&auto(guest())),
        Refusal::AutoBindMissing { provider }
    );
}

/// Rows 113 and 114.
#[test]
fn a_used_key_that_is_retired_is_no_reason_for_a_new_tpm_unasked() {
    let auto = |facts: Facts| facts.policy(|policy| policy.auto_bind = Some("a".to_owned()));
    let retired = |row: Row| guest().provider("a", 1, 'A').retired(row);
    let used = |id| opens(id, "a", 1, 'A', 0).used();
    let names = |id| Refusal::UsedKeyRetired {
        key_ref: KeyRefId(id),
        is_defined: true,
    };
    let without = retired(used(7));
    for facts in [without.clone(), auto(without.clone())] {
        assert_eq!(verdict(&facts), "deny VG201");
        assert_eq!(refusal(&facts), names(7));
        // Until everything was looked for, it is a key that is missing.
        let mut unasked = facts;
        unasked.elsewhere = None;
        assert_eq!(verdict(&unasked), "look elsewhere");
    }
    // The newest of several; whether its provider is here does not matter.
    let several = auto(retired(used(7)))
        .retired(keyless(8, "gone", 9, 'Z').used().of_generation(2))
        .retired(used(9));
    assert_eq!(refusal(&several), names(8));

    // What another guest has in common says less, a state of its own says more.
    let related = auto(without.clone()).elsewhere(|found| found.relative = Some(relative()));
    assert_eq!(refusal(&related), names(7));
    // Unless the policy has no objection to a new TPM.
    let may_be_new = related.policy(|policy| policy.missing_state = Permission::Allow);
    assert!(matches!(
        refusal(&may_be_new),
        Refusal::KeyOfRelatedGuest { .. }
    ));
    let transient = without.clone().elsewhere(|found| found.is_defined = false);
    assert!(matches!(
        refusal(&transient),
        Refusal::UsedKeyRetired { is_defined, .. } if !is_defined
    ));
    let state = StateElsewhere {
        path: "/there".into(),
        wanted: "/here".into(),
        kind: ElsewhereKind::LastSeen,
    };
    let moved = auto(without.clone()).elsewhere(|found| found.state = Some(state.clone()));
    assert_eq!(refusal(&moved), Refusal::KeyMissingStateElsewhere(state));

    // A key that was never used has no TPM.
    let made = "allow NewKey; bind-provider new to a; create-key new; provide the new key";
    let unused = auto(retired(opens(7, "a", 1, 'A', 0)));
    assert_eq!(verdict(&unused), made);
    assert_eq!(findings(&unused), []);
    // An administrator has bound it again.
    let bound = auto(without.clone()).row(placeholder(9, "a", 1));
    assert_eq!(
        verdict(&bound),
        "allow NewKey; create-key 9; provide the new key"
    );
    // A copy is its TPM.
    let copied = auto(retired(used(7).proven())).with_saved(CopyReason::Release);
    assert_eq!(
        refusal(&copied),
        Refusal::KeyRetired {
            key_ref: KeyRefId(7)
        }
    );
}

/// Row 114.
#[test]
fn a_policy_that_allows_a_new_tpm_allows_it_also_where_the_used_key_is_retired() {
    let retired = guest()
        .provider("a", 1, 'A')
        .retired(opens(7, "a", 1, 'A', 0).used())
        .policy(|policy| policy.auto_bind = Some("a".to_owned()));
    let made = "allow NewKey; bind-provider new to a; create-key new; provide the new key";
    let allowed = retired
        .clone()
        .policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(verdict(&allowed), made);
    assert_eq!(findings(&allowed), [Finding::NewTpmAllowed]);
    assert_eq!(verdict(&allowed.with_unreadable_copy()), "deny VG205");
    let fresh =
        |facts: Facts| facts.policy(|policy| policy.transient_state = TransientState::Fresh);
    assert_eq!(verdict(&fresh(retired.clone())), "deny VG201");
    let ended = fresh(retired.ended_normally());
    assert_eq!(verdict(&ended), made);
    assert_eq!(findings(&ended), [Finding::FreshTpm]);
}

/// Rows 61, 62 and 84.
#[test]
fn without_a_row_and_a_value_the_key_is_missing_or_lost() {
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

/// Rows 64 and 76.
#[test]
fn the_guards_own_secret_counts_only_for_its_guest_and_its_tpm() {
    let this = guest().domain.unwrap().uuid;
    let own = HostSecret::Guards(this);
    let others = HostSecret::Guards(DomainUuid::random());
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

/// Row 64.
#[test]
fn a_key_that_only_libvirts_memory_has_is_not_to_be_adopted() {
    let own = HostSecret::Guards(guest().domain.unwrap().uuid);
    let in_memory = |facts: Facts, retired| {
        let facts = facts.host(own.clone()).state(Encrypted);
        assert_eq!(verdict(&facts), "allow HostSecret");
        assert_eq!(findings(&facts), [Finding::KeyInMemoryOnly { retired }]);
        facts.policy(|policy| policy.unmanaged = Permission::Deny)
    };
    let newcomer = || guest().provider("a", 1, 'A');
    let strict = in_memory(newcomer(), None);
    assert_eq!(verdict(&strict), "deny VG201");
    let retired = None;
    assert_eq!(refusal(&strict), Refusal::KeyInMemoryOnly { retired });

    let other = opens(6, "a", 1, 'A', 1).refuted();
    let unbound = newcomer().retired(other);
    let strict = in_memory(unbound.clone(), None);
    assert_eq!(refusal(&strict), Refusal::KeyInMemoryOnly { retired });
    let unbound = unbound.retired(opens(7, "a", 1, 'A', 0).proven());
    let retired = Some(KeyRefId(7));
    let strict = in_memory(unbound.clone(), retired);
    assert_eq!(refusal(&strict), Refusal::KeyInMemoryOnly { retired });
    // Bound again, it is managed.
    let bound = in_memory(unbound.row(placeholder(8, "a", 1)), retired);
    assert_eq!(verdict(&bound), "allow HostSecret");
}
