//! An encrypted state that the guest's keys do not open.

use super::given::{
    Row, clients, corrupt, findings, foreign, guest, hidden, keyed, keyless, known, opens, refusal,
    verdict,
};
use crate::ids::KeyRefId;
use crate::verdict::Finding;
use crate::verdict::facts::{HostSecret, HostValue, Proof, TpmState};
use crate::verdict::refusal::Refusal;
use HostSecret::Absent as NoSecret;
use TpmState::Encrypted;

/// Rows 33 and 34.
#[test]
fn a_key_that_does_not_open_the_encrypted_state_is_refused() {
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

/// Row 37.
#[test]
fn a_clients_secret_that_another_guest_names_or_that_has_no_value_does_not_help() {
    let refuted = keyed(Row::refuted).state(Encrypted);
    let empty = foreign(true, true, HostValue::None);
    for host in [clients().named_by(&["vm2"]), empty] {
        assert_eq!(verdict(&refuted.clone().host(host)), "deny VG204");
    }
}

/// Rows 35 and 36.
#[test]
fn a_value_or_a_retired_key_that_opens_the_state_is_used_or_named() {
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
