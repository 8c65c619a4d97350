//! What becomes of libvirt's secret where the start has a key.

use super::given::{
    Row, SECRET, clients, emulator, findings, guest, hidden, keyed, keyless, known, opens,
    placeholder, refusal, unreadable, valueless, verdict,
};
use crate::ids::SecretUuid;
use crate::verdict::Finding;
use crate::verdict::facts::{Facts, HostSecret, Proof, StoreAccessError, TpmState};
use crate::verdict::refusal::Refusal;
use TpmState::{Encrypted, Plain};

/// Row 77.
#[test]
fn a_foreign_secret_that_has_the_key_is_left_as_it_is() {
    for facts in [
        keyed(|row| row.used().proven()).state(Encrypted),
        keyed(|row| row),
        keyed(Row::used).arriving(),
    ] {
        // Also where other guests share it.
        let facts = facts.host(known(0, Proof::None).named_by(&["vm2"]));
        assert!(verdict(&facts).ends_with("; provide 1, which libvirt has"));
    }
}

/// Row 78.
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

/// Row 79.
#[test]
fn another_value_is_saved_as_a_retired_key_and_replaced() {
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
    let arriving = keyed(Row::used).arriving().host(known(7, Proof::None));
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

/// Rows 51, 80 and 81.
#[test]
fn a_value_that_another_guest_may_need_is_never_touched() {
    for facts in [
        keyed(|row| row.used().proven()).state(Encrypted),
        keyed(|row| row),
        keyed(Row::used).arriving(),
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

/// Rows 82 and 83.
#[test]
fn a_hidden_value_is_replaced_only_by_a_proven_key_and_only_in_memory() {
    let proven = keyed(|row| row.used().proven()).state(Encrypted);
    assert_eq!(
        verdict(&proven.clone().host(clients())),
        "allow Proven; provide 1 in place of a foreign secret that nobody can read"
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

/// Row 84. libvirt did answer: another guest may need the value that it has.
#[test]
fn definitions_that_cannot_be_read_are_not_called_an_unreachable_libvirt() {
    let reason = "there was not enough time".to_owned();
    let facts = guest().host(HostSecret::DefinitionsUnread(reason.clone()));
    assert_eq!(refusal(&facts), Refusal::DefinitionsUnread { reason });
    assert_eq!(verdict(&facts), "deny VG302");
}

/// Row 85.
#[test]
fn libvirt_is_asked_for_the_secret_only_where_it_matters() {
    let unasked = |mut facts: Facts| {
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
