//! The decision of `adopt`, case by case.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const EMPTY: AvailableSecret = AvailableSecret::NoValue {
    serves_anything: false,
};

const ROW: KeyRefId = KeyRefId(7);

/// A stopped guest with a proven value, a provider that was exported, and nothing odd.
fn ordinary() -> AdoptFacts {
    AdoptFacts {
        secret: AvailableSecret::Value {
            serves_anything: false,
        },
        evidence: Evidence::Proven,
        expected: None,
        keys: Vec::new(),
        exported: true,
        sharers: Vec::new(),
        keep_plaintext: false,
    }
}

/// The same guest, for which the guard holds this key.
fn holding(key: KeyComparison) -> AdoptFacts {
    AdoptFacts {
        keys: vec![ExistingKey { key_ref: ROW, key }],
        ..ordinary()
    }
}

#[track_caller]
fn adopts(facts: &AdoptFacts, key: AdoptedKey, remove_secret: bool) {
    let adoption = decide(facts).unwrap();
    assert_eq!((adoption.key, adoption.remove_secret), (key, remove_secret));
}

fn vm2() -> Sharer {
    Sharer {
        name: "vm2".to_owned(),
        uuid: DomainUuid::parse("11111111-2222-4333-8444-000000000002").unwrap(),
    }
}

#[test]
fn a_proven_value_is_taken_over_and_the_secret_goes() {
    adopts(&ordinary(), AdoptedKey::New, true);
    let running = AdoptFacts {
        expected: Some(Expected::Runs),
        ..ordinary()
    };
    adopts(&running, AdoptedKey::New, true);
}

#[test]
fn what_the_state_contradicts_is_not_taken_over_whatever_else_is_known() {
    let unreadable = || "it is cut".to_owned();
    for (evidence, refusal) in [
        (Evidence::Refuted, NotAdoptable::DoesNotOpen),
        (Evidence::Plain, NotAdoptable::StatePlain),
        (
            Evidence::Unreadable(unreadable()),
            NotAdoptable::StateUnreadable(unreadable()),
        ),
    ] {
        for keep_plaintext in [false, true] {
            for given in [ordinary(), holding(KeyComparison::Same)] {
                let facts = AdoptFacts {
                    evidence: evidence.clone(),
                    keep_plaintext,
                    ..given
                };
                assert_eq!(decide(&facts), Err(refusal.clone()));
            }
        }
    }
}

#[test]
fn without_state_a_value_is_taken_over_if_nothing_contradicts() {
    let no_state = AdoptFacts {
        evidence: Evidence::NoState,
        ..ordinary()
    };
    adopts(&no_state, AdoptedKey::New, true);
    assert!(!decide(&no_state).unwrap().proven && decide(&ordinary()).unwrap().proven);
    let arrives = AdoptFacts {
        expected: Some(Expected::Arrives),
        ..no_state.clone()
    };
    assert_eq!(decide(&arrives), Err(NotAdoptable::StateArrives));
    let runs = AdoptFacts {
        expected: Some(Expected::Runs),
        ..no_state
    };
    assert_eq!(decide(&runs), Err(NotAdoptable::RunsWithoutState));
}

#[test]
fn a_key_that_the_guard_holds_already_is_not_added_again_and_the_secret_still_goes() {
    let held = AdoptedKey::Existing(ROW);
    adopts(&holding(KeyComparison::Same), held, true);
}

#[test]
fn another_key_of_the_guest_is_never_pushed_aside() {
    for (key, opened) in [
        (KeyComparison::Another(Proof::Proven), true),
        (KeyComparison::NotOpened, false),
    ] {
        let refusal = NotAdoptable::HasAnotherKey {
            key_ref: ROW,
            opened,
        };
        assert_eq!(decide(&holding(key)), Err(refusal));
    }
    let mut both = holding(KeyComparison::NotOpened);
    both.keys.push(ExistingKey {
        key_ref: KeyRefId(8),
        key: KeyComparison::Same,
    });
    let held = AdoptedKey::Existing(KeyRefId(8));
    adopts(&both, held, true);
}

#[test]
fn a_key_that_the_state_refutes_is_left_to_the_next_start_where_the_value_is_proven() {
    let refuted = || holding(KeyComparison::Another(Proof::Refuted));
    adopts(&refuted(), AdoptedKey::New, true);
    let another = |key_ref, opened| Err(NotAdoptable::HasAnotherKey { key_ref, opened });
    // What refutes it is not the state that the guest will have.
    let arrives = AdoptFacts {
        expected: Some(Expected::Arrives),
        ..refuted()
    };
    assert_eq!(decide(&arrives), another(ROW, true));
    // Without a state nothing refutes it.
    let unproven = AdoptFacts {
        evidence: Evidence::NoState,
        ..holding(KeyComparison::Another(Proof::None))
    };
    assert_eq!(decide(&unproven), another(ROW, true));
    let not_read = AdoptFacts {
        evidence: Evidence::NoState,
        ..refuted()
    };
    assert_eq!(decide(&not_read), another(ROW, true));
    // What one of the others is, is not known.
    let mut both = refuted();
    let key_ref = KeyRefId(8);
    both.keys.push(ExistingKey {
        key_ref,
        key: KeyComparison::NotOpened,
    });
    assert_eq!(decide(&both), another(key_ref, false));
}

#[test]
fn the_secret_does_not_go_while_anybody_else_may_need_it_or_the_provider_was_never_exported() {
    let open = AdoptFacts {
        secret: AvailableSecret::Value {
            serves_anything: true,
        },
        ..ordinary()
    };
    let shared = AdoptFacts {
        sharers: vec![vm2()],
        ..ordinary()
    };
    let never_exported = AdoptFacts {
        exported: false,
        ..ordinary()
    };
    let held_but_never_exported = AdoptFacts {
        exported: false,
        ..holding(KeyComparison::Same)
    };
    for (facts, refusal) in [
        (open, SecretNeeded::ServesAnything),
        (shared, SecretNeeded::Shared(vec![vm2()])),
        (never_exported, SecretNeeded::NeverExported),
        (held_but_never_exported, SecretNeeded::NeverExported),
    ] {
        assert_eq!(decide(&facts), Err(NotAdoptable::SecretNeeded(refusal)));
        let keeping = AdoptFacts {
            keep_plaintext: true,
            ..facts
        };
        assert!(decide(&keeping).is_ok_and(|adoption| !adoption.remove_secret));
    }
}

#[test]
fn without_a_value_only_a_key_that_the_guard_holds_will_do() {
    for secret in [AvailableSecret::Absent, AvailableSecret::Own, EMPTY] {
        let with = |given: AdoptFacts| AdoptFacts {
            secret: secret.clone(),
            evidence: Evidence::NoState,
            ..given
        };
        let opening = with(holding(KeyComparison::Another(Proof::Proven)));
        let is_empty = secret == EMPTY;
        adopts(&opening, AdoptedKey::Existing(ROW), is_empty);
        let unproven = with(holding(KeyComparison::Another(Proof::None)));
        adopts(&unproven, AdoptedKey::Existing(ROW), is_empty);
        let proven = [opening, unproven].map(|facts| decide(&facts).unwrap().proven);
        assert_eq!(proven, [true, false]);
        for nothing in [
            ordinary(),
            holding(KeyComparison::Another(Proof::Refuted)),
            holding(KeyComparison::NotOpened),
        ] {
            let refusal = NotAdoptable::NothingToAdopt(secret.clone());
            assert_eq!(decide(&with(nothing)), Err(refusal));
        }
    }
}

#[test]
fn an_empty_secret_stays_if_it_is_to_stay_or_may_serve_other_things() {
    let keeping = AdoptFacts {
        secret: EMPTY,
        keep_plaintext: true,
        ..holding(KeyComparison::Another(Proof::Proven))
    };
    let serving = AdoptFacts {
        secret: AvailableSecret::NoValue {
            serves_anything: true,
        },
        keep_plaintext: false,
        ..keeping.clone()
    };
    adopts(&keeping, AdoptedKey::Existing(ROW), false);
    adopts(&serving, AdoptedKey::Existing(ROW), false);
}

/// The same beside a secret whose value libvirt does not tell.
fn untold(given: AdoptFacts) -> AdoptFacts {
    AdoptFacts {
        secret: AvailableSecret::Undisclosed {
            why: Undisclosed::NoFile,
            serves_anything: false,
        },
        evidence: Evidence::NoState,
        ..given
    }
}

#[track_caller]
fn is_untold(facts: &AdoptFacts, held: Option<HeldKey>) {
    let why = Undisclosed::NoFile;
    assert_eq!(decide(facts), Err(NotAdoptable::Undisclosed { why, held }));
}

#[test]
fn a_value_that_libvirt_does_not_tell_is_a_refusal_that_names_the_key_the_guard_has() {
    is_untold(&untold(ordinary()), None);
    let opening = untold(holding(KeyComparison::Another(Proof::Proven)));
    let held = HeldKey {
        key_ref: ROW,
        secret_needed: None,
    };
    is_untold(&opening, Some(held));
}

#[test]
fn beside_a_value_that_libvirt_does_not_tell_only_a_proven_key_counts() {
    for key in [
        KeyComparison::Another(Proof::None),
        KeyComparison::Another(Proof::Refuted),
        KeyComparison::NotOpened,
    ] {
        is_untold(&untold(holding(key)), None);
    }
    let arrives = AdoptFacts {
        expected: Some(Expected::Arrives),
        ..untold(holding(KeyComparison::Another(Proof::Proven)))
    };
    is_untold(&arrives, None);
}

#[test]
fn a_secret_with_a_value_that_libvirt_does_not_tell_stays_while_anybody_may_need_it() {
    let opening = || untold(holding(KeyComparison::Another(Proof::Proven)));
    let open = AdoptFacts {
        secret: AvailableSecret::Undisclosed {
            why: Undisclosed::NoFile,
            serves_anything: true,
        },
        ..opening()
    };
    let shared = AdoptFacts {
        sharers: vec![vm2()],
        ..opening()
    };
    let never_exported = AdoptFacts {
        exported: false,
        ..opening()
    };
    for (facts, needed) in [
        (open, SecretNeeded::ServesAnything),
        (shared, SecretNeeded::Shared(vec![vm2()])),
        (never_exported, SecretNeeded::NeverExported),
    ] {
        let held = HeldKey {
            key_ref: ROW,
            secret_needed: Some(needed),
        };
        is_untold(&facts, Some(held));
    }
}

#[test]
fn a_secret_for_something_else_is_left_alone() {
    let usage = || "/var/lib/libvirt/images/disk.img".to_owned();
    let facts = AdoptFacts {
        secret: AvailableSecret::OtherUse(usage()),
        ..holding(KeyComparison::Same)
    };
    assert_eq!(decide(&facts), Err(NotAdoptable::OtherUse(usage())));
}
