//! `status`, `history`, and what concerns several guests.

use std::collections::BTreeSet;
use std::fs;

use super::fixture::Fixture;
use crate::capture;
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::fake::{Call, Failure};
use crate::manage::dry_start::UnsealedKeks;
use crate::manage::figures::figures;
use crate::manage::guests::{GuestError, GuestRef};
use crate::manage::history::{Asked, captures, history};
use crate::manage::host::{BrokenConfig, HostError};
use crate::manage::keys::RowState;
use crate::manage::provider_list::SealState;
use crate::manage::providers::ProviderError;
use crate::manage::prune::PruneDecision;
use crate::manage::shared_secrets;
use crate::manage::slots::TRIED_EVERY;
use crate::manage::status::{GuestStatus, Status, provider_asked_for, status};
use crate::manage::unknown_guests;
use crate::store::{Event, Origin, StoreError};
use crate::verdict::code::Code;

fn look(fixture: &Fixture, passes: impl Fn(&GuestStatus) -> bool) -> Status {
    status(&fixture.host, passes, &|_, _| ()).unwrap()
}

#[test]
fn a_running_guest_that_the_guard_has_not_started_has_a_last_start() {
    let fixture = Fixture::new();
    fixture.define("vm1");
    let running = fixture.libvirt.dirs().running();
    fs::write(running.join("vm1.pid"), "7").unwrap();
    let last_start = || look(&fixture, |_| true).guests.unwrap()[0].last_start_at;
    assert_eq!(last_start(), None, "left over: it does not run");
    fixture.libvirt.guests.start("vm1");
    let ago = Timestamp::now().0 - last_start().unwrap().0;
    assert!((0..60_000).contains(&ago), "{ago}");
}

#[test]
fn the_host_and_its_guests_are_shown() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let keyless = fixture.define("vm2");
    fixture.encrypt_state(&keyless, &Dek::generate().unwrap());
    fixture.define_with("vm3", DomainUuid::random(), SecretUuid::random(), "");
    fixture.libvirt.guests.start("vm3");
    fixture.lose_key("b");
    let found = look(&fixture, |_| true);
    let guests = found.guests.as_ref().unwrap();
    let shown: Vec<_> = guests
        .iter()
        .map(|one| {
            (
                one.name.as_str(),
                one.running,
                one.encrypted,
                one.would_start,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("vm1", false, true, true),
            ("vm2", false, true, false),
            ("vm3", true, false, true)
        ]
    );
    assert!(guests.iter().all(|one| one.last_start_at.is_none()));
    assert_eq!(guests[0].proven, Some(true));
    assert_eq!(guests[0].provider.as_deref(), Some("a"));
    assert_eq!(guests[1].code, Some("VG202"));
    assert!(guests.iter().all(|guest| !guest.clients_key));
    let lost = &found.providers[1];
    assert_eq!(lost.seal, SealState::Missing);
    assert_eq!(lost.trouble.as_deref(), Some("nothing: its key is missing"));
    assert_eq!(found.providers[0].trouble, None);
    assert_eq!((found.key_refs.keyed, found.key_refs.placeholders), (1, 0));
    assert_eq!(found.guests_unknown_to_libvirt, Some(0));
    assert_eq!(found.configuration, "in order");
    assert!(found.store.exists && !found.hook.installed);

    let refused = look(&fixture, |guest| !guest.would_start);
    assert_eq!((refused.guests.unwrap().len(), refused.hidden), (1, 2));

    fixture.libvirt.guests.undefine("vm1");
    assert_eq!(look(&fixture, |_| true).guests_unknown_to_libvirt, Some(1));
    let mut store = fixture.store();
    let unknown = unknown_guests::find(&fixture.host, &mut store, &BTreeSet::new()).unwrap();
    assert_eq!(unknown[0].uuid, guest.uuid);
    assert!(unknown[0].is_used() && !unknown[0].has_no_key() && unknown[0].state.is_some());

    fixture.libvirt.go_down();
    let found = look(&fixture, |_| true);
    assert!(found.guests.is_none() && found.unreachable.is_some());
}

#[test]
fn a_guest_whose_xml_cannot_be_read_is_neither_encrypted_nor_plain() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.define_with("vm2", DomainUuid::random(), SecretUuid::random(), "");
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.spoil("vm1");
    let found = look(&fixture, |_| true).guests.unwrap();
    let shown: Vec<_> = found
        .iter()
        .map(|one| {
            (
                one.name.as_str(),
                one.readable,
                one.running,
                one.would_start,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [("vm1", false, true, false), ("vm2", true, false, true)]
    );
    let json = serde_json::to_value(&found[0]).unwrap();
    assert_eq!(json["uuid"], guest.uuid.to_string());
}

#[test]
fn the_provider_that_is_asked_for_is_one_of_this_host_or_one_that_rows_still_name() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    let provider = fixture.provider("a");
    let asked = |text: &str| provider_asked_for(&fixture.host, text);
    assert_eq!(asked("a").unwrap(), "a");
    assert_eq!(asked(&provider.uuid.to_string()).unwrap(), "a");
    assert_eq!(asked("b").unwrap(), "b");
    let unknown = asked("A").unwrap_err();
    assert!(
        matches!(
            &unknown,
            ProviderError::Host(HostError::Store(StoreError::NoProvider(name))) if name == "A"
        ),
        "{unknown:?}"
    );
    fixture.sql("DELETE FROM key_provider WHERE name = 'a'");
    assert_eq!(asked("a").unwrap(), "a");
}

#[test]
fn placeholders_are_counted_apart_and_guests_without_a_tpm_left_out() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.sql(&format!(
        "INSERT INTO key_ref (resource_uuid, provider_name) VALUES ('{}', 'a')",
        guest.uuid
    ));
    let uuid = DomainUuid::random();
    let without = format!("<domain type='qemu'><name>vm2</name><uuid>{uuid}</uuid></domain>");
    fixture.libvirt.guests.define(&without);
    let found = look(&fixture, |_| true);
    assert_eq!((found.key_refs.keyed, found.key_refs.placeholders), (1, 1));
    assert_eq!(found.guests.unwrap().len(), 1);
}

#[test]
fn guests_with_different_keys_under_one_secret_are_found() {
    let fixture = Fixture::new();
    let first = fixture.guest_in_use("vm1");
    let encryption = format!("<encryption secret='{}'/>", first.secret);
    let second = fixture.define_with("vm2", DomainUuid::random(), first.secret, &encryption);
    let find = || {
        let guests = fixture.host.listed_guests().unwrap();
        shared_secrets::find(&fixture.host, &guests, &UnsealedKeks::default()).unwrap()
    };
    assert_eq!(find().len(), 0);
    fixture.add_key(&second, "b", &Dek::generate().unwrap());
    let shared = find();
    assert_eq!(shared[0].secret, first.secret);
    assert_eq!(shared[0].guests.len(), 2);
}

fn record(fixture: &Fixture, uuid: DomainUuid, name: &str) {
    let event = Event::new(
        Timestamp::now(),
        Origin::Renew,
        uuid,
        name,
        "done".to_owned(),
    );
    fixture.store().record_event(&event).unwrap();
}

#[test]
fn a_history_by_name_has_the_guests_other_names() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    record(&fixture, guest.uuid, "old");
    record(&fixture, guest.uuid, "vm1");
    record(&fixture, DomainUuid::random(), "vm1");
    let of = |guest: Option<&str>| {
        let asked = Asked {
            guest,
            ..Asked::default()
        };
        history(&fixture.host, asked, 50).unwrap()
    };
    let by_name = of(Some("vm1"));
    assert_eq!(by_name.list.len(), 3);
    assert_eq!(
        by_name.other_names().into_iter().collect::<Vec<_>>(),
        ["old"]
    );
    assert_eq!(by_name.guests(), 2);
    let by_uuid = of(Some(&guest.uuid.to_string()));
    assert_eq!((by_uuid.list.len(), by_uuid.name), (2, None));
    let all = of(None);
    assert!(all.all && all.list[0].repair_kinds().is_empty());
    assert_eq!(
        history(&fixture.host, Asked::default(), 1)
            .unwrap()
            .list
            .len(),
        1
    );
}

#[test]
fn a_history_by_name_has_what_the_guest_did_under_its_name_of_before() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    fixture.define("vm2");
    record(&fixture, guest.uuid, "old");
    let asked = |name| Asked {
        guest: Some(name),
        ..Asked::default()
    };
    let of = |name| history(&fixture.host, asked(name), 9).unwrap().list.len();
    assert_eq!((of("vm1"), of("vm2"), of("old")), (1, 0, 1));
}

#[test]
fn the_repairs_of_the_past_are_named_by_their_kinds_whatever_another_tool_wrote() {
    let fixture = Fixture::new();
    record(&fixture, DomainUuid::random(), "vm1");
    let kinds = |repairs: &str| {
        fixture.sql(&format!("UPDATE event SET repairs = '{repairs}'"));
        let past = history(&fixture.host, Asked::default(), 9).unwrap().list;
        let kinds = past[0].repair_kinds().into_iter();
        kinds.map(str::to_owned).collect::<Vec<_>>()
    };
    let two = r#"[{"kind":"retire-key","key_ref":1},{"kind":7},"x",{"kind":"fill-kek-ref"}]"#;
    assert_eq!(kinds(two), ["retire-key", "fill-kek-ref"]);
    assert!(kinds(r#"{"kind":"retire-key"}"#).is_empty());
    assert!(kinds("nonsense").is_empty());
}

#[test]
fn a_uuid_that_is_another_guests_name_is_ambiguous() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    record(&fixture, DomainUuid::random(), &guest.uuid.to_string());
    let asked = Asked {
        guest: Some(&guest.uuid.to_string()),
        ..Asked::default()
    };
    let error = history(&fixture.host, asked, 1).unwrap_err();
    assert!(matches!(error, GuestError::Ambiguous { .. }), "{error:?}");
}

#[test]
fn captures_are_numbered_from_the_newest() {
    let fixture = Fixture::new();
    assert_eq!(captures(&fixture.host).unwrap().len(), 0);
    for name in ["vm1", "vm2"] {
        let state_dir = fixture.host.state_dir();
        capture::keep(state_dir, b"<domain/>", Code::KeyLost, name, 5).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let found = captures(&fixture.host).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|one| (one.number, one.guest.as_str()))
        .collect();
    assert_eq!(found, [(1, "vm2"), (2, "vm1")]);
}

#[test]
fn a_text_that_is_one_guests_uuid_and_anothers_name_is_ambiguous() {
    let fixture = Fixture::new();
    let (guest, other) = (fixture.guest_in_use("vm1"), fixture.guest_in_use("vm2"));
    let text = guest.uuid.to_string();
    let named = || fixture.host.defined_guest(&text);
    assert_eq!(named().unwrap().uuid, guest.uuid);
    // Its own name may be its UUID.
    record(&fixture, guest.uuid, &text);
    assert_eq!(named().unwrap().uuid, guest.uuid);
    record(&fixture, other.uuid, &text);
    let refused = named().unwrap_err();
    let is_other = |of: &GuestError| matches!(of, GuestError::Ambiguous { other: found, .. } if *found == other.uuid);
    assert!(is_other(&refused), "{refused:?}");
}

#[test]
fn a_guest_whose_name_is_the_uuid_of_a_guest_that_was_here_is_not_taken_for_it() {
    let fixture = Fixture::new();
    let gone = |keeps_copy: bool, keeps_keys: bool| {
        let guest = fixture.guest_in_use("vm1");
        if keeps_copy {
            fixture.save_copy(&guest);
        }
        if !keeps_keys {
            fixture.sql("DELETE FROM key_ref");
        }
        fixture.libvirt.guests.undefine("vm1");
        let text = guest.uuid.to_string();
        fixture.define(&text);
        fixture.host.defined_guest(&text)
    };
    for (keeps_copy, keeps_keys) in [(true, false), (false, true)] {
        let refused = gone(keeps_copy, keeps_keys).unwrap_err();
        assert!(
            matches!(refused, GuestError::Ambiguous { .. }),
            "{refused:?}"
        );
    }
    assert!(gone(false, false).is_ok());
}

/// A busy libvirt with ten thousand guests was said to be unreachable.
#[test]
fn a_libvirt_that_answers_may_take_its_time_for_the_list() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    let listed = || {
        let found = status(&fixture.host, |_| true, &|_, _| {}).unwrap();
        found.guests.map(|guests| guests.len())
    };
    fixture.libvirt.fail_each(Call::Guests, Failure::Slow);
    assert_eq!(listed(), Some(1));
    // One that is silent is not asked for it.
    let asked = fixture.libvirt.calls_of(Call::Guests);
    for silent in [Failure::Unreachable, Failure::Slow] {
        fixture.libvirt.fail_each(Call::GuestsCalled, silent);
        assert_eq!(listed(), None);
    }
    assert_eq!(fixture.libvirt.calls_of(Call::Guests), asked);
}

#[test]
fn a_text_like_a_uuid_that_nobody_has_is_the_name_of_a_guest_that_was_here() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let (nobody, copied) = (DomainUuid::random(), fixture.guest_in_use("vm2"));
    let (text, of_copied) = (nobody.to_string(), copied.uuid.to_string());
    record(&fixture, guest.uuid, &text);
    fixture.libvirt.guests.undefine("vm1");
    let found = fixture.host.guest(&text).unwrap();
    assert_eq!(
        (found.uuid, found.name.as_deref()),
        (guest.uuid, Some(&*text))
    );
    let is_ambiguous = |result: &Result<GuestRef, GuestError>| {
        let is_it =
            matches!(result, Err(GuestError::Ambiguous { other, .. }) if *other == guest.uuid);
        assert!(is_it, "{result:?}");
    };
    // To bind a guest that is yet to be defined, its UUID is given.
    is_ambiguous(&fixture.host.present_guest(&text));
    // A copy of its TPM state is what is left of a guest.
    fixture.save_copy(&copied);
    fixture.sql("DELETE FROM key_ref");
    fixture.sql("DELETE FROM event");
    record(&fixture, guest.uuid, &of_copied);
    fixture.libvirt.guests.undefine("vm2");
    is_ambiguous(&fixture.host.guest(&of_copied));
    record(&fixture, guest.uuid, &text);
    assert!(fixture.host.guest(&text).is_ok());
    fixture.libvirt.go_down();
    is_ambiguous(&fixture.host.guest(&text));
}

#[test]
fn a_guest_that_was_called_like_its_uuid_has_the_name_that_it_had_last() {
    let fixture = Fixture::new();
    let uuid = DomainUuid::random();
    for name in [&*uuid.to_string(), "vm1"] {
        record(&fixture, uuid, name);
    }
    let found = fixture.host.guest(&uuid.to_string()).unwrap();
    assert_eq!((found.uuid, found.name.as_deref()), (uuid, Some("vm1")));
}

#[test]
fn a_guest_that_is_named_twice_is_listed_once() {
    let fixture = Fixture::new();
    let one = fixture.define("vm1");
    fixture.define("vm2");
    let texts = ["vm2", "vm1", &*one.uuid.to_string(), "vm2"].map(str::to_owned);
    let listed = fixture.host.named_guests(&texts).unwrap();
    let names: Vec<_> = listed.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["vm2", "vm1"]);
}

#[test]
fn of_past_starts_those_that_failed_after_all_are_told_from_the_others() {
    let fixture = Fixture::new();
    let guest = DomainUuid::random();
    for origin in [Origin::Prepare, Origin::Stopped] {
        let event = Event::new(Timestamp::now(), origin, guest, "vm1", "done".to_owned());
        fixture.store().record_event(&event).unwrap();
    }
    let past = history(&fixture.host, Asked::default(), 9).unwrap().list;
    let mut failed: Vec<_> = past
        .iter()
        .map(|one| (one.operation.as_str(), one.has_failed()))
        .collect();
    failed.sort_unstable();
    assert_eq!(failed, [("prepare", false), ("stopped", true)]);
}

#[test]
fn the_slots_of_a_kind_are_in_order_while_each_has_opened_lately() {
    let fixture = Fixture::new();
    let now = Timestamp::now();
    let ago = |ms: i64| Some(Timestamp(now.0 - ms));
    let lately = 2 * TRIED_EVERY;
    fixture.put_slot("a", "transit", ("one", "a"), ago(lately - 1));
    fixture.put_slot("a", "transit", ("two", "a"), ago(1));
    fixture.put_slot("a", "pad", ("toy", "a"), ago(lately));
    fixture.put_slot("b", "pad", ("toy", "b"), ago(1));
    fixture.put_slot("b", "never", ("new", "b"), ago(1));
    fixture.put_slot("a", "never", ("new", "a"), None);
    // The clock was wrong then.
    let ahead = ago(-60 * 60 * 1000);
    fixture.put_slot("a", "ahead", ("far", "a"), ahead);
    let found = figures(&fixture.host, now).slots;
    let of = |kind: &str| (found[kind].is_ok, found[kind].verified_at);
    assert_eq!(of("transit"), (true, ago(lately - 1)));
    assert_eq!(of("pad"), (false, ago(lately)));
    assert_eq!(of("never"), (false, None));
    assert_eq!(of("ahead"), (false, ahead));
}

#[test]
fn people_read_of_key_references_and_prunes_the_words_of_json() {
    for state in [RowState::Retired, RowState::Keyed, RowState::Placeholder] {
        assert_eq!(serde_json::json!(state), state.word());
    }
    let result = |decision: PruneDecision| serde_json::json!(decision)["result"].clone();
    assert_eq!(result(PruneDecision::Remove), "remove");
    assert_eq!(result(PruneDecision::TooYoung), "keep");
}

#[test]
fn a_uuid_that_is_a_guests_own_name_or_of_nobody_is_not_ambiguous() {
    let fixture = Fixture::new();
    let (guest, nobody) = (DomainUuid::random(), DomainUuid::random());
    record(&fixture, guest, &guest.to_string());
    record(&fixture, guest, &nobody.to_string());
    record(&fixture, guest, &guest.to_string());
    for asked in [guest, nobody] {
        let text = asked.to_string();
        let asked = Asked {
            guest: Some(&text),
            ..Asked::default()
        };
        assert!(history(&fixture.host, asked, 9).is_ok(), "{text}");
    }
}

#[test]
fn guests_with_one_key_under_one_secret_differ_in_nothing() {
    let fixture = Fixture::new();
    let first = fixture.define("vm1");
    let encryption = format!("<encryption secret='{}'/>", first.secret);
    let second = fixture.define_with("vm2", DomainUuid::random(), first.secret, &encryption);
    let dek = Dek::generate().unwrap();
    fixture.add_key(&first, "a", &dek);
    fixture.add_key(&second, "b", &dek);
    let guests = fixture.host.listed_guests().unwrap();
    let found = shared_secrets::find(&fixture.host, &guests, &UnsealedKeks::default());
    assert_eq!(found.unwrap().len(), 0);
}

#[test]
fn a_configuration_that_was_named_must_exist_and_a_broken_one_is_judged_by_the_defaults() {
    let fixture = Fixture::new();
    let path = fixture.root().join("config.toml");
    let guard = |broken| fixture.host.guard(broken);
    assert!(guard(BrokenConfig::Fail).unwrap().config_error.is_none());
    fs::write(&path, "nonsense = 1\n").unwrap();
    assert!(
        guard(BrokenConfig::UseDefaults)
            .unwrap()
            .config_error
            .is_some()
    );
    let broken = guard(BrokenConfig::Fail).err();
    assert!(matches!(broken, Some(HostError::Config(_))), "{broken:?}");
    fs::remove_file(&path).unwrap();
    for broken in [BrokenConfig::UseDefaults, BrokenConfig::Fail] {
        let missing = guard(broken).err();
        assert!(
            matches!(&missing, Some(HostError::NoConfig(it)) if *it == path),
            "{missing:?}"
        );
    }
}

#[test]
fn a_damaged_store_is_judged_as_the_hook_would() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fs::write(fixture.host.state_dir().join("store.db"), "no store").unwrap();
    assert!(fixture.host.guard(BrokenConfig::Fail).is_ok());
    assert!(!fixture.is_allowed(&guest));
}
