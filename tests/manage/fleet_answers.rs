//! What of the shared store's answer counts, and for whom.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::fixture::{Defined, Fixture};
use super::fleet_program::{FleetStore, Member};
use super::fleet_start::{carried_out, moved, now, start, without_state, words};
use crate::clock::{Deadline, Timestamp};
use crate::fleet::claim::{Claim, KeyClaim};
use crate::fleet::status::KeyStatus;
use crate::fleet::{Fact, State};
use crate::guard::{Mode, prepare, states_in_fleet};
use crate::key::dek::Dek;
use crate::key::wrap::WrappedDek;
use crate::libvirt::fake::{Call, Failure};
use crate::manage::host::{BrokenConfig, HostError, default_deadline};
use crate::manage::restore_state::{CopiesError, restore};
use crate::store::{KeyRefRecord, Merge, Origin};
use crate::verdict::Finding;
use crate::verdict::facts::StoreAccessError;
use crate::verdict::outcome::Outcome;

/// How much of the answer did not count.
fn ignored(outcome: &Outcome) -> usize {
    let counted = |finding: &Finding| match finding {
        Finding::FleetFactsIgnored(count) => Some(*count),
        _ => None,
    };
    let mut findings = outcome.verdict.findings().iter();
    findings.find_map(counted).unwrap_or_default()
}

/// Why the store was not heard.
fn silence(outcome: &Outcome) -> Option<String> {
    let why = |finding: &Finding| match finding {
        Finding::FleetSilent(why) => Some(why.clone()),
        _ => None,
    };
    outcome.verdict.findings().iter().find_map(why)
}

/// What a start makes of these facts, and how many of them do not count.
fn judged(fixture: &Fixture, guest: &Defined, facts: &[Fact]) -> (String, usize) {
    let store = FleetStore::with(facts, &[]);
    store.configure(fixture, "");
    let outcome = start(fixture, guest, Mode::DryRun);
    (words(&outcome), ignored(&outcome))
}

fn row_of(rows: Vec<KeyRefRecord>, provider: &str) -> KeyRefRecord {
    let mut rows = rows.into_iter();
    let of_it = rows.find(|row| row.key_ref.provider_name == provider);
    of_it.unwrap()
}

#[test]
fn what_is_said_of_another_guest_counts_for_none() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let other = moved.first.guest_in_use("vm2");
    let keys = member.keys(guest);
    let ignored = |code: &str, count| (format!("{code} fleet-facts-ignored"), count);
    // Its key, of a provider that is not here.
    moved.first.add_key(&other, "b", &Dek::generate().unwrap());
    let row = row_of(moved.first.rows(&other), "b");
    let facts = [member.key(&other, &row)];
    assert_eq!(judged(second, guest, &facts), ignored("VG201", 1));
    // That a key is retired, and where a guest runs: by who has the provider key of both.
    let kek = member.kek();
    let retired = member.status(&other, keys[0].id, KeyStatus::Retired, &kek);
    let placement = member.placement(&other, true, now(), &kek);
    for fact in [retired, placement] {
        let facts = [keys.clone(), vec![fact]].concat();
        assert_eq!(judged(second, guest, &facts), ignored("VG205", 1));
    }
}

#[test]
fn who_has_the_provider_key_of_none_of_its_keys_has_no_say_in_a_guest() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    second.adopt_provider_of(&moved.first, "b");
    let placement = member.placement(guest, true, now(), &member.kek_of("b"));
    let mut facts = member.keys(guest);
    facts.push(placement);
    let ignored = |count| ("VG205 fleet-facts-ignored".to_owned(), count);
    assert_eq!(judged(second, guest, &facts), ignored(1));
    // Nor by a key of another guest, given out for one of this guest.
    let other = moved.first.define("vm2");
    let row = moved.first.add_key(&other, "b", &Dek::generate().unwrap());
    let mut rows = moved.first.rows(&other).into_iter();
    let row = rows.find(|it| it.key_ref.id == row).unwrap();
    let wrapped = row.key_ref.wrapped_dek.unwrap();
    let forged = KeyClaim::new(guest.uuid, wrapped, "b", Some(1)).unwrap();
    facts.push(Claim::Key(forged).write(member.host, Timestamp(1)));
    assert_eq!(judged(second, guest, &facts), ignored(2));
}

/// It runs the guest here, if anywhere.
#[test]
fn what_this_host_itself_said_of_a_run_is_no_run_elsewhere() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let own = second.store().join_fleet("host2", Timestamp::now());
    let own = Member {
        host: own.unwrap(),
        ..Member::new(&moved.first, "host2")
    };
    for (host, found) in [(&own, "VG205"), (&member, "VG205 runs-elsewhere")] {
        let mut facts = member.keys(guest);
        facts.push(host.placement(guest, true, now(), &member.kek()));
        assert_eq!(judged(second, guest, &facts), (found.to_owned(), 0));
    }
}

/// Its own word in the shared store was ignored, and the state from before that run put back unasked.
#[test]
fn a_run_here_that_a_restored_store_does_not_know_makes_a_state_old() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    second.adopt_provider_of(&moved.first, "b");
    let own = second.store().join_fleet("host2", Timestamp::now());
    let own = Member {
        host: own.unwrap(),
        ..Member::new(&moved.first, "host2")
    };
    let at = now() - 5000;
    let state = member.state(guest, at);
    let outcome = |said: Fact| {
        let facts = [member.keys(guest), vec![said]].concat();
        let store = FleetStore::with(&facts, std::slice::from_ref(&state));
        store.configure(second, "");
        words(&start(second, guest, Mode::DryRun))
    };
    let fine = "allow fleet-key-learnt state-gone learn-key restore-tpm-state";
    for running in [true, false] {
        let said = |at| own.placement(guest, running, at, &member.kek());
        assert_eq!(outcome(said(at)), fine);
        assert_eq!(outcome(said(at + 1)), "VG205");
    }
    // Who has the provider key of none of its keys has no say in a guest, in this host's name either.
    let of_another = own.placement(guest, true, at + 1, &member.kek_of("b"));
    assert_eq!(outcome(of_another), fine);
}

#[test]
fn what_the_answer_and_this_hosts_store_say_of_runs_is_one_knowledge() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let third = Member::new(&moved.first, "host3");
    let mut store = second.store();
    store.join_fleet("host2", Timestamp::now()).unwrap();
    let at = now() + 1000;
    let merge = Merge {
        placements: vec![third.says(guest, true, at)],
        ..Merge::default()
    };
    store.merge(&merge, Timestamp::now()).unwrap();
    let with = |placement: Option<Fact>| {
        let mut facts = member.keys(guest);
        facts.extend(placement);
        judged(second, guest, &facts).0
    };
    assert_eq!(with(None), "VG205 runs-elsewhere");
    let kek = member.kek();
    let stopped = |host: &Member<'_>| Some(host.placement(guest, false, at + 1, &kek));
    assert_eq!(with(stopped(&third)), "VG205");
    assert_eq!(
        with(stopped(&member)),
        "VG205 runs-elsewhere",
        "another host has stopped it"
    );
}

#[test]
fn a_state_with_a_note_that_cannot_be_read_does_not_count() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let mut state = member.state(guest, now());
    state.info.body = "nonsense".to_owned();
    let store = FleetStore::with(&member.keys(guest), &[state]);
    store.configure(second, "");
    let outcome = start(second, guest, Mode::CarryOut);
    assert_eq!(words(&outcome), "VG205 fleet-facts-ignored");
    assert_eq!(ignored(&outcome), 1);
}

#[test]
fn no_key_that_was_made_up_takes_the_place_of_one_that_opens() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let keys = member.keys(guest);
    let wrapped = moved.first.rows(guest).remove(0).key_ref.wrapped_dek;
    let wrapped = wrapped.unwrap();
    let made_up = (0..100).map(|number| {
        let mut bytes = wrapped.as_bytes().to_vec();
        *bytes.last_mut().unwrap() ^= number + 1;
        let wrapped = WrappedDek::from_stored(bytes);
        let claim = KeyClaim::new(guest.uuid, wrapped, "a", Some(1)).unwrap();
        Claim::Key(claim).write(member.host, Timestamp(1))
    });
    let facts: Vec<_> = made_up.chain(keys).collect();
    let store = FleetStore::with(&facts, &[member.state(guest, now() - 1000)]);
    store.configure(second, "");
    let outcome = start(second, guest, Mode::CarryOut);
    assert!(outcome.is_allowed(), "{}", words(&outcome));
    assert!(second.would_start(guest));
}

/// What helps is to bring the provider key that this host has had.
#[test]
fn of_keys_that_do_not_open_the_one_whose_provider_is_here_is_named() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let first = &moved.first;
    first.add_key(guest, "b", &Dek::generate().unwrap());
    let of = |provider| member.key(guest, &row_of(first.rows(guest), provider));
    second.lose_key("a");
    let found = "VG104 fleet-key-out-of-reach".to_owned();
    let facts = [of("b"), of("a")];
    assert_eq!(judged(second, guest, &facts), (found.clone(), 0));
    let facts = [of("a"), of("b")];
    assert_eq!(judged(second, guest, &facts), (found, 0));
}

#[test]
fn each_start_asks_again_also_by_the_same_guard() {
    let moved = moved();
    let (guest, second) = (&moved.guest, &moved.second);
    let store = FleetStore::with(&[], &[]);
    store.configure(second, "");
    let guard = second.host.guard(BrokenConfig::Fail).unwrap();
    for asked in [1, 2] {
        let domain = Ok(second.domain(guest));
        let deadline = default_deadline();
        prepare(&guard, &domain, Origin::Check, Mode::DryRun, deadline);
        assert_eq!(store.times_asked(), asked);
    }
}

#[test]
fn a_start_that_is_judged_again_does_not_ask_again() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    let path = fixture.root().join("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        format!("[policy]\nmissing_state = \"allow\"\n{config}"),
    )
    .unwrap();
    let store = FleetStore::with(&[], &[]);
    store.configure(&fixture, "");
    // Its secret changes whenever it is to get the key.
    fixture.libvirt.fail_each(Call::Provide, Failure::Changed);
    assert_eq!(
        carried_out(&fixture, &guest).split(' ').next(),
        Some("VG401")
    );
    assert!(fixture.libvirt.calls_of(Call::Provide) > 1);
    assert_eq!(store.times_asked(), 1);
}

/// What was said of one guest is said of no other.
#[test]
fn the_states_of_each_guest_are_asked_for() {
    let moved = moved();
    let (member, second) = (moved.member(), &moved.second);
    let other = second.define("vm2");
    let state = member.state(&moved.guest, now());
    let store = FleetStore::with(&member.keys(&moved.guest), &[state]);
    store.configure(second, "");
    let guard = second.host.guard(BrokenConfig::Fail).unwrap();
    let found = |guest| {
        let domain = second.domain(guest);
        let found = states_in_fleet(&guard, &domain, default_deadline());
        found.unwrap().len()
    };
    // Once with the facts, and once for older states.
    assert_eq!((found(&moved.guest), store.times_asked()), (1, 2));
    assert_eq!((found(&other), store.times_asked()), (0, 4));
}

#[test]
fn why_a_key_could_not_be_tried_on_a_state_of_the_fleet_is_said() {
    let moved = moved();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let keys = member.keys(guest);
    moved.first.encrypt_state(guest, &Dek::generate().unwrap());
    let store = FleetStore::with(&keys, &[member.state(guest, now())]);
    store.configure(second, "");
    second.add_key(guest, "b", &Dek::generate().unwrap());
    let untried = || {
        let found = second.host.copies_in_fleet(guest.uuid).unwrap().unwrap();
        let [(_, copy)] = &found[..] else {
            panic!("{} copies", found.len());
        };
        assert!(!copy.opened);
        copy.untried.clone()
    };
    assert_eq!(untried(), None);
    second.lose_key("b");
    let why = untried().unwrap();
    assert!(why.contains("does not hold key"), "{why}");
}

#[test]
fn a_store_that_cannot_be_read_is_not_taken_for_a_fleet_without_states() {
    let moved = without_state();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let store = FleetStore::with(&member.keys(guest), &[member.state(guest, now())]);
    store.configure(second, "");
    let file = second.host.state_dir().store();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    let error = restore(&second.host, "vm1", None).unwrap_err();
    assert!(
        matches!(&error, CopiesError::Guest(why) if why.to_string().contains(file.to_str().unwrap())),
        "{error:?}"
    );
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let passing = StoreAccessError::Unavailable("no memory".to_owned());
    let passing = second.host.not_read(passing);
    assert!(
        matches!(&passing, HostError::StoreNotRead(why) if why == "no memory"),
        "{passing:?}"
    );
    assert!(restore(&second.host, "vm1", None).unwrap().changed);
}

#[test]
fn a_person_restores_also_a_state_that_no_start_is_given() {
    let moved = without_state();
    let (member, guest, second) = (moved.member(), &moved.guest, &moved.second);
    let data = fs::read(moved.first.state_file(guest)).unwrap();
    let old = member.state(guest, now() - 60_000);
    let newest = member.state_of(guest, b"no state", now() - 1000, &member.kek());
    let answer = |states: &[&State]| {
        serde_json::json!({ "ok": true, "facts": [], "states": states }).to_string()
    };
    let listed = [&newest, &old].map(|state| State {
        data: None,
        ..state.clone()
    });
    let (about, list) = (answer(&[&newest]), answer(&[&listed[0], &listed[1]]));
    let store = FleetStore::in_turn(&[&[&about], &[&list, &answer(&[&old])]]);
    store.configure(second, "");
    let id = old.info.id.to_string();
    let done = restore(&second.host, "vm1", Some(&id[..12])).unwrap();
    assert!(done.changed);
    assert!(fs::read(second.state_file(guest)).unwrap() == data);
}

/// However short that time is.
#[test]
fn the_store_is_asked_wherever_a_start_has_the_time_that_it_may_ask() {
    let moved = moved();
    let (guest, second) = (&moved.guest, &moved.second);
    let store = FleetStore::with(&[], &[]);
    let judge = |ask: &str, deadline| {
        store.configure(second, &format!("ask = \"{ask}\"\n"));
        let guard = second.host.guard(BrokenConfig::Fail).unwrap();
        let domain = Ok(second.domain(guest));
        let deadline = Deadline::after(deadline);
        let outcome = prepare(&guard, &domain, Origin::Check, Mode::DryRun, deadline);
        silence(&outcome)
    };
    let no_time = |why: &String| why.contains("no time left");
    // Whether it answers so soon is another question.
    for ask in ["1ms", "50ms", "100ms"] {
        let why = judge(ask, Duration::from_secs(30));
        assert!(!why.as_ref().is_some_and(no_time), "{ask}: {why:?}");
    }
    let asked = store.times_asked();
    // A part of what is left is for the answer, and half of the rest for what follows.
    let why = judge("2s", Duration::from_millis(390));
    assert!(why.as_ref().is_some_and(no_time), "{why:?}");
    assert_eq!(store.times_asked(), asked);
}
