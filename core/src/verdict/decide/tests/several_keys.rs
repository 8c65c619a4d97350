//! Several key references with a key.

use super::given::{
    corrupt, guest, keyless, opens, placeholder, refusal, sealed, unreadable, verdict,
};
use crate::ids::KeyRefId;
use crate::verdict::facts::TpmState;
use crate::verdict::refusal::Refusal;
use TpmState::{Absent, Encrypted};

/// Row 29.
#[test]
fn of_several_rows_with_the_same_key_the_one_with_the_closest_binding_stays() {
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

/// Row 30.
#[test]
fn of_several_keys_the_proven_one_is_used_and_the_others_are_retired() {
    let facts = guest()
        .provider("a", 1, 'A')
        .row(opens(1, "a", 1, 'A', 0).refuted())
        .row(opens(2, "a", 1, 'A', 1).proven())
        .state(Encrypted);
    assert_eq!(verdict(&facts), "allow Proven; retire-key 1; provide 2");
}

/// Row 31.
#[test]
fn rows_that_do_not_open_never_refuse_a_start_that_another_row_proves() {
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

/// Row 32.
#[test]
fn of_several_keys_none_is_chosen_without_a_proof() {
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

/// Row 32.
#[test]
fn a_row_that_opens_beside_one_that_does_not_is_ambiguous_without_a_proof() {
    let one_of_two = guest().provider("a", 1, 'A').row(opens(1, "a", 1, 'A', 0));
    let one_of_two = one_of_two.row(keyless(2, "lost", 9, 'L'));
    assert_eq!(verdict(&one_of_two), "deny VG203");
}
