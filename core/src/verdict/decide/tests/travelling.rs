//! The keys that came with the guest's XML.

use super::given::{
    Row, corrupt, findings, guest, keyed, keyless, known, opens, placeholder, refusal, sealed,
    unreadable, valueless, verdict,
};
use crate::domain::{TravellingFault, TravellingKey, TravellingKeys};
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;
use crate::verdict::Finding;
use crate::verdict::decide::{XmlKey, xml_key};
use crate::verdict::facts::{Facts, HostSecret, Permission, Proof, TpmState};
use crate::verdict::refusal::Refusal;
use TpmState::{Absent, Encrypted};

/// The XML's key 0, wrapped by provider "a", which is here.
fn in_xml(row: impl FnOnce(Row) -> Row) -> Facts {
    let row = row(opens(0, "a", 1, 'A', 0));
    guest().provider("a", 1, 'A').in_xml(row)
}

fn other_guest() -> DomainUuid {
    DomainUuid::parse("d0000000-0000-4000-8000-000000000002").unwrap()
}

/// Row 89.
#[test]
fn a_key_of_the_xml_that_the_state_proves_is_learnt_and_used() {
    let facts = in_xml(Row::proven).state(Encrypted);
    let learnt = "allow Proven; learn-key of a; provide the XML's";
    assert_eq!(verdict(&facts), learnt);
    assert_eq!(
        findings(&facts),
        [Finding::KeyLearnt {
            provider: "a".to_owned()
        }]
    );

    // A placeholder is an orphan beside it, and a row that opens nothing is retired.
    let facts = facts
        .row(placeholder(1, "a", 1))
        .row(keyless(2, "gone", 9, 'G'));
    assert_eq!(
        verdict(&facts),
        "allow Proven; learn-key of a; delete-placeholder 1; retire-key 2; provide the XML's"
    );

    // Of several, the one that the state proves, whatever their generations.
    let facts = in_xml(|key| key.refuted().of_generation(9))
        .in_xml(opens(0, "a", 1, 'A', 1).proven().of_generation(1))
        .state(Encrypted);
    assert_eq!(verdict(&facts), learnt);
}

/// Row 90.
#[test]
fn a_key_of_the_xml_is_learnt_while_state_is_on_its_way() {
    let learnt = "allow Unproven; learn-key of a; provide the XML's";
    assert_eq!(verdict(&in_xml(|key| key).arriving()), learnt);
    assert_eq!(verdict(&in_xml(|key| key).state(unreadable())), learnt);
    // Also where the state on the disk refutes it, as one that was left here long ago does.
    let stale = in_xml(Row::refuted).state(Encrypted).arriving();
    assert_eq!(verdict(&stale), learnt);
    let out_of_reach = in_xml(|key| key).row(keyless(1, "gone", 9, 'G')).arriving();
    assert_eq!(verdict(&out_of_reach), learnt);
    // What nobody can read may be the right value.
    let hidden = in_xml(|key| key).arriving().host(super::given::hidden());
    assert_eq!(verdict(&hidden), "allow Unproven");
    // Nothing is learnt then, and no placeholder is superfluous.
    let bound = hidden.row(placeholder(1, "a", 1));
    assert_eq!(verdict(&bound), "allow Unproven");
    assert!(!findings(&bound).contains(&Finding::OrphanPlaceholder(KeyRefId(1))));
    let older = in_xml(|key| key.of_generation(1));
    let of_two = older.in_xml(opens(0, "a", 1, 'A', 1).of_generation(2));
    assert_eq!(verdict(&of_two.arriving()), learnt);
}

/// Rows 79, 77 and 90.
#[test]
fn another_value_of_libvirts_gives_way_to_an_arriving_key_and_is_kept() {
    let arrives = |value| in_xml(|key| key).arriving().host(value);
    assert_eq!(
        verdict(&arrives(known(7, Proof::None))),
        "allow Unproven; learn-key of a; retire-key new; provide the XML's in place of a foreign secret"
    );
    // Also one that a state on the disk proves: the guest may have left that behind.
    let left_behind = in_xml(Row::refuted)
        .state(Encrypted)
        .arriving()
        .host(known(7, Proof::Proven));
    assert_eq!(
        verdict(&left_behind),
        "allow Unproven; learn-key of a; retire-key new; provide the XML's in place of a foreign secret"
    );
    assert_eq!(
        verdict(&arrives(known(0, Proof::None))),
        "allow Unproven; learn-key of a; provide the XML's, which libvirt has"
    );
}

/// Row 91.
#[test]
fn the_guest_of_a_key_in_its_xml_has_a_tpm_somewhere() {
    assert_eq!(verdict(&in_xml(|key| key)), "deny VG205");
    let bound = in_xml(|key| key).row(placeholder(1, "a", 1));
    assert_eq!(verdict(&bound), "deny VG205");
    let auto_bind = in_xml(|key| key).policy(|policy| policy.auto_bind = Some("a".to_owned()));
    assert_eq!(verdict(&auto_bind), "deny VG205");
    let allowed = in_xml(|key| key).policy(|policy| policy.missing_state = Permission::Allow);
    assert_eq!(
        verdict(&allowed),
        "allow Unproven; learn-key of a; provide the XML's"
    );
}

/// Row 92.
#[test]
fn of_a_row_and_the_xml_the_state_chooses() {
    let facts = keyed(|row| row.refuted().of_generation(9))
        .in_xml(opens(0, "a", 1, 'A', 1).proven().of_generation(1))
        .state(Encrypted);
    assert_eq!(
        verdict(&facts),
        "allow Proven; learn-key of a; retire-key 1; provide the XML's"
    );
    // Then the keys of the XML are not even tried; the generation tells that one is another.
    let untried = |generation| {
        let mut key = opens(0, "a", 1, 'A', 1).of_generation(generation);
        key.trial = None;
        keyed(|row| row.proven().of_generation(1))
            .in_xml(key)
            .state(Encrypted)
    };
    assert_eq!(verdict(&untried(2)), "allow Proven; provide 1");
    assert_eq!(findings(&untried(2)), [Finding::OtherKeyInXml]);
    assert_eq!(findings(&untried(1)), []);
    // They are tried where a newer one may be the row's key, chosen again elsewhere, or where no row is proven.
    assert!(untried(2).needs_the_xml());
    assert!(!untried(1).needs_the_xml());
    assert!(facts.needs_the_xml() && in_xml(|key| key).needs_the_xml());
}

/// Row 93.
#[test]
fn while_state_is_on_its_way_the_newer_key_is_used_and_the_other_stays() {
    let facts = |here, there| {
        keyed(|row| row.used().of_generation(here))
            .in_xml(opens(0, "a", 1, 'A', 1).of_generation(there))
            .arriving()
    };
    let learnt = "allow Unproven; learn-key of a; provide the XML's";
    assert_eq!(verdict(&facts(1, 2)), learnt);
    assert_eq!(verdict(&facts(2, 1)), "allow Unproven; provide 1");
    assert!(findings(&facts(2, 1)).contains(&Finding::OtherKeyInXml));
    assert_eq!(verdict(&facts(2, 2)), learnt);
    let preferred = Finding::XmlKeyPreferred(KeyRefId(1));
    assert!(findings(&facts(2, 2)).contains(&preferred));
    assert!(!findings(&facts(1, 2)).contains(&preferred));

    // After such a start has failed both are rows, and the XML's goes before.
    let again =
        |here, there| facts(here, there).row(opens(2, "a", 1, 'A', 1).used().of_generation(there));
    assert_eq!(verdict(&again(1, 2)), "allow Unproven; provide 2");
    assert_eq!(verdict(&again(2, 2)), "allow Unproven; provide 2");
    assert_eq!(verdict(&again(2, 1)), "deny VG203");
    // Also where the row holds the very bytes of the XML's key, which is tried as the row's then.
    let learnt_before = |generation| {
        let mut in_xml = opens(0, "a", 1, 'A', 0).of_generation(2);
        in_xml.trial = None;
        keyed(|row| row.used().of_generation(generation))
            .row(opens(2, "a", 1, 'A', 1).used().of_generation(1))
            .in_xml(in_xml)
            .arriving()
    };
    assert_eq!(verdict(&learnt_before(2)), "allow Unproven; provide 1");
    assert_eq!(verdict(&learnt_before(3)), "deny VG203");
    // A state that the guest has left behind here proves the old key, and decides nothing; between
    // keys of one generation it may be the guest's own, in a directory that the hosts share.
    let left_behind = |here, there| {
        keyed(|row| row.used().proven().of_generation(here))
            .in_xml(opens(0, "a", 1, 'A', 1).refuted().of_generation(there))
            .state(Encrypted)
            .arriving()
    };
    assert_eq!(verdict(&left_behind(1, 2)), learnt);
    assert_eq!(verdict(&left_behind(2, 2)), "allow Proven; provide 1");
    let both = left_behind(1, 2).row(opens(2, "a", 1, 'A', 1).refuted().of_generation(2));
    assert_eq!(verdict(&both), "allow Unproven; provide 2");
    // A newer key that does not open here is missed.
    let newer = keyless(3, "gone", 9, 'G').of_generation(7);
    assert_eq!(
        verdict(&in_xml(|key| key).row(newer).arriving()),
        "deny VG101"
    );
}

/// Row 94.
#[test]
fn without_any_state_the_rows_decide() {
    for state in [Absent, unreadable()] {
        let facts = keyed(|row| row.of_generation(1))
            .in_xml(opens(0, "a", 1, 'A', 1).of_generation(2))
            .state(state);
        assert_eq!(verdict(&facts), "allow Unproven; provide 1");
        assert!(findings(&facts).contains(&Finding::OtherKeyInXml));
    }
    let same = keyed(|row| row).in_xml(opens(0, "a", 1, 'A', 0));
    assert_eq!(verdict(&same), "allow Unproven; provide 1");
    assert_eq!(findings(&same), []);
    let out_of_reach = in_xml(|key| key).row(keyless(1, "gone", 9, 'G'));
    assert_eq!(verdict(&out_of_reach), "deny VG101");
}

/// Row 95.
#[test]
fn a_key_of_the_xml_that_the_state_refutes_is_as_none() {
    let refuted = in_xml(Row::refuted).state(Encrypted);
    assert_eq!(verdict(&refuted), "deny VG202");
    assert_eq!(findings(&refuted), [Finding::OtherKeyInXml]);
    let beside = keyed(Row::refuted).in_xml(opens(0, "a", 1, 'A', 1).refuted());
    assert_eq!(verdict(&beside.state(Encrypted)), "deny VG204");
}

/// Row 96.
#[test]
fn a_retired_key_is_never_taken_from_the_xml() {
    let retired = |facts: Facts| facts.retired(opens(50, "a", 1, 'A', 0));
    let proven = in_xml(Row::proven)
        .state(Encrypted)
        .retired(opens(50, "a", 1, 'A', 0).proven());
    assert_eq!(
        refusal(&proven),
        Refusal::KeyRetired {
            key_ref: KeyRefId(50)
        }
    );
    assert_eq!(
        verdict(&retired(in_xml(|key| key)).arriving()),
        "deny VG202"
    );
    let bound = in_xml(|key| key).row(placeholder(1, "a", 1));
    assert_eq!(
        verdict(&retired(bound)),
        "allow NewKey; create-key 1; provide the new key"
    );
}

/// Row 96.
#[test]
fn a_retired_key_that_was_chosen_again_elsewhere_has_a_higher_generation() {
    let retired = |generation| {
        in_xml(|key| key.of_generation(3))
            .row(opens(1, "a", 1, 'A', 1).used().of_generation(2))
            .retired(opens(50, "a", 1, 'A', 0).of_generation(generation))
            .arriving()
    };
    assert_eq!(
        verdict(&retired(1)),
        "allow Unproven; learn-key of a; provide the XML's"
    );
    for not_older in [3, 4] {
        assert_eq!(verdict(&retired(not_older)), "allow Unproven; provide 1");
    }
}

/// Rows 29 and 101.
#[test]
fn the_generation_of_a_key_that_was_chosen_again_elsewhere_is_learnt() {
    let chosen_again = |there| {
        keyed(|row| row.used().proven().of_generation(2))
            .in_xml(opens(0, "a", 1, 'A', 0).proven().of_generation(there))
            .state(Encrypted)
    };
    let learnt = "learn-key of a; delete-duplicate 1 of the XML's; provide the XML's";
    assert_eq!(verdict(&chosen_again(3)), format!("allow Proven; {learnt}"));
    assert_eq!(verdict(&chosen_again(1)), "allow Proven; provide 1");
    // Also where another key beside it is newer, and retired for it.
    let beside = chosen_again(3).row(opens(2, "a", 1, 'A', 1).refuted().of_generation(2));
    assert_eq!(
        verdict(&beside),
        "allow Proven; learn-key of a; delete-duplicate 1 of the XML's; retire-key 2; \
         provide the XML's"
    );
    // Another key of a higher generation is none of that.
    let another = keyed(|row| row.proven().of_generation(2))
        .in_xml(opens(0, "a", 1, 'A', 1).refuted().of_generation(3))
        .state(Encrypted);
    assert_eq!(verdict(&another), "allow Proven; provide 1");
    assert_eq!(findings(&another), [Finding::OtherKeyInXml]);
    // While state is on its way, it wins against a row that is newer than this host's row of it.
    let arrives = |there| {
        keyed(|row| row.used().of_generation(1))
            .in_xml(opens(0, "a", 1, 'A', 0).of_generation(there))
            .row(opens(2, "a", 1, 'A', 1).used().of_generation(2))
            .arriving()
    };
    assert_eq!(verdict(&arrives(3)), format!("allow Unproven; {learnt}"));
    assert_eq!(verdict(&arrives(1)), "deny VG203");
    // What nobody can read is left, and then the row stays as it is.
    let hidden = arrives(3).host(super::given::hidden());
    assert_eq!(verdict(&hidden), "allow Unproven");
    // Of two rows that hold it the one that was chosen again stays.
    let rows = keyed(|row| row.proven().of_generation(1))
        .row(opens(2, "b", 9, 'A', 0).proven().of_generation(3))
        .state(Encrypted);
    assert_eq!(
        verdict(&rows),
        "allow Proven; delete-duplicate 1 of 2; rebind-provider 2 to a; provide 2"
    );
}

/// Row 97.
#[test]
fn a_key_of_the_xml_that_is_out_of_reach_names_its_provider() {
    let missing = |facts: Facts| facts.in_xml(keyless(0, "there", 9, 'T'));
    let named = Refusal::ProviderMissing {
        provider: "there".to_owned(),
        key_id: Some(KeyId::from_bytes([b'T'; 16])),
    };
    let auto_bind = || {
        let facts = guest().provider("a", 1, 'A');
        facts.policy(|policy| policy.auto_bind = Some("a".to_owned()))
    };
    for facts in [
        missing(guest()),
        missing(auto_bind()),
        missing(guest().arriving()),
        missing(guest().state(Encrypted)),
        missing(auto_bind().row(placeholder(1, "a", 1))),
        missing(auto_bind().row(placeholder(1, "a", 1)).state(Encrypted)),
        missing(guest()).in_xml(corrupt(0, "a", 1, 'A')),
    ] {
        assert_eq!(refusal(&facts), named, "{:?}", facts.state);
    }
    let here = || guest().provider("a", 1, 'A').kek_sealed('A');
    assert_eq!(
        verdict(&here().in_xml(sealed(0, "a", 1, 'A'))),
        "deny VG104"
    );
    // libvirt has a value of its own.
    let carried = missing(guest().state(Encrypted)).host(super::given::hidden());
    assert_eq!(verdict(&carried), "allow HostSecret");
    let bound = missing(guest().provider("a", 1, 'A').row(placeholder(1, "a", 1)));
    assert_eq!(
        verdict(&bound.clone().host(super::given::hidden())),
        "deny VG101"
    );
    assert_eq!(verdict(&bound.clone().host(valueless())), "deny VG101");
    let unbound = missing(guest()).host(super::given::hidden());
    assert_eq!(verdict(&unbound), "deny VG101");
    for facts in [bound.host(super::given::hidden()), unbound] {
        let lets = facts.policy(|policy| policy.missing_state = Permission::Allow);
        assert_eq!(verdict(&lets), "allow HostSecret");
    }
}

/// Row 98.
#[test]
fn a_damaged_key_of_the_xml_is_a_key_all_the_same() {
    let facts = guest()
        .provider("a", 1, 'A')
        .in_xml(corrupt(0, "a", 1, 'A'));
    let damaged = Refusal::XmlKeyCorrupt {
        reason: "not authentic".to_owned(),
        is_newer: false,
    };
    assert_eq!(refusal(&facts), damaged);
    assert_eq!(refusal(&facts.clone().row(placeholder(1, "a", 1))), damaged);
    assert_eq!(refusal(&facts.state(Encrypted)), damaged);
}

/// Rows 99, 61, 62 and 68.
#[test]
fn a_copied_xml_names_its_original() {
    let copied = |facts: Facts| {
        let mut facts = facts;
        facts.travelling.original = Some(other_guest());
        facts
    };
    let named = |is_lost, is_defined| Refusal::KeyOfOriginal {
        original: other_guest(),
        is_lost,
        is_defined,
    };
    let undefined = || guest().elsewhere(|found| found.is_defined = false);
    for (facts, is_defined) in [(guest(), true), (undefined(), false)] {
        assert_eq!(refusal(&copied(facts.clone())), named(false, is_defined));
        let encrypted = copied(facts.clone().state(Encrypted));
        assert_eq!(refusal(&encrypted), named(true, is_defined));
        // Nothing is there yet that the original's key could open; the other host has the guest's.
        let arriving = copied(facts.arriving());
        assert_eq!(refusal(&arriving), Refusal::KeyNotImported);
    }
    let bound = guest().provider("a", 1, 'A').row(placeholder(1, "a", 1));
    assert_eq!(
        verdict(&copied(bound)),
        "allow NewKey; create-key 1; provide the new key"
    );
}

/// Row 100.
#[test]
fn a_damaged_element_is_told() {
    let mut facts = in_xml(Row::proven).state(Encrypted);
    facts.travelling.fault = Some(TravellingFault::NotBase64);
    assert_eq!(
        verdict(&facts),
        "allow Proven; learn-key of a; provide the XML's"
    );
    let told = Finding::XmlKeysDamaged(TravellingFault::NotBase64);
    assert!(findings(&facts).contains(&told));
    // A guest without an encrypted vTPM is none of the guard's business.
    let none = facts.vtpm(None).host(HostSecret::Absent);
    assert_eq!(findings(&none), []);
}

/// Rows 89, 95, 96, 97 and 99.
#[test]
fn without_a_start_the_same_keys_of_the_xml_are_learnt() {
    let key = TravellingKey {
        wrapped_dek: WrappedDek::from_stored(vec![1]),
        provider: "a".to_owned(),
    };
    let written = |mut facts: Facts, keys: &[TravellingKey]| {
        facts.domain.as_mut().unwrap().travelling = Some(TravellingKeys {
            keys: keys.to_vec(),
            ..TravellingKeys::default()
        });
        xml_key(&facts)
    };
    let here = |facts| written(facts, std::slice::from_ref(&key));
    let proven = in_xml(Row::proven).state(Encrypted);
    assert!(matches!(here(proven), XmlKey::ToLearn(key) if key.provider_name == "a"));
    let known = keyed(Row::proven).state(Encrypted);
    assert_eq!(here(known), XmlKey::Known);
    let refuted = in_xml(Row::refuted).state(Encrypted);
    assert_eq!(here(refuted), XmlKey::Refuted);
    let copied = |mut facts: Facts| {
        facts.travelling.original = Some(other_guest());
        facts
    };
    assert_eq!(here(copied(guest())), XmlKey::OfOther(other_guest()));
    let missing = guest().in_xml(keyless(0, "there", 9, 'T'));
    assert!(matches!(
        here(missing),
        XmlKey::OutOfReach(Refusal::ProviderMissing { .. })
    ));
    // The facts have no key of the XML that the guest has retired.
    assert_eq!(here(guest()), XmlKey::Retired);
    assert_eq!(written(guest(), &[]), XmlKey::None);
    assert_eq!(xml_key(&guest()), XmlKey::None);
    assert_eq!(here(guest().vtpm(None)), XmlKey::None);
}
