//! Only placeholders.

use super::given::{
    clients, findings, for_another_use, guest, hidden, known, placeholder, refusal, unreachable,
    unreadable, verdict,
};
use crate::verdict::Finding;
use crate::verdict::facts::{Proof, TpmState};
use crate::verdict::refusal::Refusal;
use TpmState::Encrypted;

/// Row 47.
#[test]
fn placeholders_without_state_get_a_key() {
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

/// Rows 25 and 48.
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

/// Rows 49 and 50.
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

/// Rows 52, 53 and 84.
#[test]
fn no_key_is_made_for_an_existing_tpm() {
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
