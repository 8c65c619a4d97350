//! What a host does in each exchange beside it: keys that follow, rotations that ended early, that it is there, and how it
//! is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use super::fixture::Fixture;
use super::fleet_rotation::{bring, next_key};
use super::fleet_shared::{SharedStore, exchange};
use crate::clock::{Deadline, Timestamp};
use crate::fleet::Kind;
use crate::fleet::claim::{Claim, HostClaim, ReportClaim, Signed, SuccessorClaim};
use crate::host::poll::poll;
use crate::ids::{HostUuid, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::manage::fleet::{
    FleetCommandError, Follower, join, kept_name, leave, round, round_of_member, status,
};
use crate::manage::host::default_deadline;
use crate::manage::store_backup::{backup, restore};
use crate::manage::sync::exclusive;
use crate::store::{NewProvider, previous_key_name};
use crate::verdict::facts::Provider;

fn say(store: &SharedStore, claim: &Claim) {
    store.put(claim.write(HostUuid::random(), Timestamp::now()));
}

/// The present key of `a`.
pub(crate) fn present(fixture: &Fixture) -> Kek {
    let key_id = fixture.provider("a").key_id;
    let opened = fixture.host.keyring().open(key_id, default_deadline());
    opened.unwrap()
}

/// Has a new key that others announced as that of `a`, as one that opens here.
pub(crate) fn opens(fixture: &Fixture) -> Kek {
    let kek = Kek::generate().unwrap();
    fixture.put_key(&kek);
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: kept_name("a", kek.key_id()),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    let created = fixture.store().create_provider(&new, &[], Timestamp::now());
    created.unwrap();
    kek
}

fn successor(old: &Kek, new: KeyId, key_version: i64, finished: bool) -> SuccessorClaim {
    SuccessorClaim {
        name: "a".to_owned(),
        old: old.key_id(),
        new,
        key_version,
        finished,
    }
}

pub(crate) fn follows(old: &Kek, new: KeyId, key_version: i64, finished: bool) -> Claim {
    Claim::Successor(Signed::new(successor(old, new, key_version, finished), old))
}

#[test]
fn of_two_rotations_that_a_host_has_missed_it_follows_both() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    let first = present(&one);
    let (second, third) = (opens(&one), opens(&one));
    // A rotation that has not ended, one to a key that does not open here, and one of another key's.
    say(&store, &follows(&first, third.key_id(), 5, false));
    exchange(&one);
    assert_eq!(one.provider("a").key_id, first.key_id());
    say(&store, &follows(&second, third.key_id(), 3, true));
    assert_eq!(exchange(&one).followed, [""; 0]);
    say(&store, &follows(&first, second.key_id(), 2, true));
    assert_eq!(exchange(&one).followed, ["a"]);
    let now = one.provider("a");
    assert_eq!((now.key_id, now.key_version), (third.key_id(), 3));
    assert!(one.would_start(&guest) && next_key(&one).is_none());
    assert_eq!(exchange(&one).followed, [""; 0]);
}

#[test]
fn a_key_that_does_not_open_here_is_not_followed() {
    let store = SharedStore::new();
    let one = store.host("one");
    let first = present(&one);
    let nowhere = Kek::generate().unwrap();
    say(&store, &follows(&first, nowhere.key_id(), 9, true));
    assert_eq!(exchange(&one).followed, [""; 0]);
    // Nor one that another provider of this host has.
    let other = one.provider("b").key_id;
    say(&store, &follows(&first, other, 3, true));
    assert_eq!(exchange(&one).followed, [""; 0]);
    // Present or previous.
    let created = one.store().create_provider(
        &NewProvider {
            uuid: ProviderUuid::random(),
            name: previous_key_name("b", nowhere.key_id()),
            key_id: nowhere.key_id(),
            key_version: 1,
            is_default: false,
            exported_at: None,
        },
        &[],
        Timestamp::now(),
    );
    created.unwrap();
    one.put_key(&nowhere);
    assert_eq!(exchange(&one).followed, [""; 0]);
    let lost = opens(&one);
    one.host.keyring().remove(lost.key_id()).unwrap();
    say(&store, &follows(&first, lost.key_id(), 10, true));
    assert_eq!(exchange(&one).followed, [""; 0]);
    assert_eq!(one.provider("a").key_id, first.key_id());
}

#[test]
fn what_a_rotation_that_was_killed_did_not_say_is_said_by_the_next_exchange() {
    let store = SharedStore::new();
    let (one, two) = (store.host("one"), Fixture::new());
    two.adopt_provider_of(&one, "a");
    store.join(&two, "two");
    let first = present(&one);
    // It has begun here, and another one of another provider has ended.
    let second = opens(&one);
    let next = next_key(&one).unwrap();
    bring(&one, &next, &two);
    say(&store, &follows(&first, second.key_id(), 2, false));
    let (other, after) = (Kek::generate().unwrap(), Kek::generate().unwrap());
    say(&store, &follows(&other, after.key_id(), 2, true));
    // That this one has, too, is said by a key that has no say in it.
    let lie = Signed::new(successor(&first, second.key_id(), 2, true), &other);
    say(&store, &Claim::Successor(lie));
    // Nor that the present key follows that of another provider.
    let of_b = one.provider("b").key_id;
    let of_b = one.host.keyring().open(of_b, default_deadline()).unwrap();
    let lie = Signed::new(successor(&of_b, first.key_id(), 2, false), &other);
    say(&store, &Claim::Successor(lie));
    // That another one of the same key has ended says nothing of this one, which has the later version.
    say(&store, &follows(&first, after.key_id(), 1, true));
    for host in [&one, &two] {
        exchange(host);
    }
    let of_a = || {
        let said = store.claims(Kind::Successor).into_iter();
        let said = said.filter_map(|claim| match claim {
            Claim::Successor(signed) => {
                let says = signed.check(&first).ok()?;
                (says.new == second.key_id()).then_some(says.finished)
            }
            other => panic!("{other:?}"),
        });
        said.collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(of_a(), [false], "it has not ended");
    let before = one.provider("a");
    let promoted = one.store().promote_key(&before, &next, 2, Timestamp::now());
    promoted.unwrap();
    assert_eq!(exchange(&two).followed, [""; 0]);
    assert_eq!(of_a(), [false], "not here");
    exchange(&one);
    assert_eq!(of_a(), [false, true]);
    assert_eq!(exchange(&two).followed, ["a"]);
    let of_b = store
        .claims(Kind::Successor)
        .into_iter()
        .filter(|claim| matches!(claim, Claim::Successor(signed) if signed.check(&of_b).is_ok()));
    assert_eq!(of_b.count(), 0);
}

#[test]
fn a_host_that_was_taken_for_lost_is_there_all_the_same() {
    let store = SharedStore::new();
    let (one, two) = (store.host("one"), store.host("two"));
    exchange(&one);
    let names = || -> Vec<String> {
        exchange(&two);
        let hosts = status(&two.host).unwrap().hosts;
        hosts.into_iter().map(|it| it.name).collect()
    };
    assert_eq!(names(), ["one", "two"]);
    let said = || store.claims(Kind::Host).len();
    let before = said();
    exchange(&one);
    assert_eq!(said(), before, "it was said");
    let member = one.store().membership().unwrap().unwrap();
    let left = HostClaim::new(member.host, "one", Timestamp::now(), true);
    say(&store, &Claim::Host(left));
    assert_eq!(names(), ["two"]);
    exchange(&one);
    assert_eq!(names(), ["one", "two"]);
}

/// What the clone said as it left, was its own word, which it did not hear: the others missed it for ever.
#[test]
fn a_host_whose_clone_has_left_is_there_all_the_same() {
    let store = SharedStore::new();
    let (one, two) = (store.host("one"), store.host("two"));
    exchange(&one);
    let image = one.root().join("image");
    backup(&one.host, &image).unwrap();
    let clone = store.host("clone");
    restore(&clone.host, &image).unwrap();
    assert_eq!(leave(&clone.host, false).unwrap().name, "one");
    let names = || -> Vec<String> {
        exchange(&two);
        let hosts = status(&two.host).unwrap().hosts;
        hosts.into_iter().map(|it| it.name).collect()
    };
    assert_eq!(names(), ["two"]);
    exchange(&one);
    assert_eq!(names(), ["one", "two"]);
    join(&clone.host, Some("clone")).unwrap();
    assert_eq!(names(), ["clone", "one", "two"]);
}

#[test]
fn a_provider_key_that_does_not_open_is_named_once_as_long_as_it_does_not() {
    let store = SharedStore::new();
    let (one, two) = (store.host("one"), store.host("two"));
    one.guest_in_use("vm1");
    exchange(&one);
    let key_id = two.provider("a").key_id;
    let file = two.host.state_dir().keys().join(key_id.to_string());
    let away = file.with_extension("away");
    let mut follower = Follower::default();
    let mut trouble = || {
        round(&two.host, &mut follower, true)
            .unwrap()
            .unwrap()
            .trouble
    };
    assert_eq!(trouble(), [""; 0]);
    for _ in 0..2 {
        std::fs::rename(&file, &away).unwrap();
        let named = trouble();
        assert!(
            matches!(&named[..], [one] if one.contains("provider \"a\"")),
            "{named:?}"
        );
        assert_eq!(trouble(), [""; 0], "it was said");
        std::fs::rename(&away, &file).unwrap();
        assert_eq!(trouble(), [""; 0]);
    }
}

/// The reports of a host, the oldest first.
fn reports(store: &SharedStore, host: HostUuid) -> Vec<ReportClaim> {
    let said = store.claims(Kind::Report).into_iter();
    let mut said: Vec<_> = said
        .filter_map(|claim| match claim {
            Claim::Report(report) if report.host == host => Some(report),
            _ => None,
        })
        .collect();
    said.sort_by_key(|report| report.at);
    said
}

#[test]
fn a_host_says_how_it_is_when_its_keys_change_and_else_from_time_to_time() {
    let store = SharedStore::new();
    let one = Fixture::new();
    let host = store.join(&one, "one");
    one.guest_in_use("vm1");
    one.define("vm2");
    exchange(&one);
    let said = reports(&store, host);
    let [report] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!((report.guests, report.refused.len()), (Some(2), 1));
    assert_eq!(report.refused[0].name, "vm2");
    assert!(report.proves(&present(&one)));
    // Not again, nor by another process.
    exchange(&one);
    assert_eq!(reports(&store, host).len(), 1);
    let mut follower = Follower::default();
    let mut go_on = || drop(round(&one.host, &mut follower, false).unwrap());
    go_on();
    assert_eq!(reports(&store, host).len(), 1);
    one.make_provider("c");
    go_on();
    assert_eq!(reports(&store, host).len(), 2);
    go_on();
    assert_eq!(reports(&store, host).len(), 2);
}

/// With ten thousand guests, on a busy host, a rotation ended with "another run of sync has not ended".
#[test]
fn others_need_not_wait_while_a_host_looks_at_its_guests_for_its_report() {
    let (store, one) = (SharedStore::new(), Fixture::new());
    let host = store.join(&one, "one");
    for number in 0..100 {
        one.guest_in_use(&format!("vm{number}"));
    }
    thread::scope(|threads| {
        threads.spawn(|| {
            let soon = Deadline::after(Duration::from_secs(60));
            // What is said before the report.
            let is_there = || (!store.claims(Kind::Host).is_empty()).then_some(());
            poll(Duration::from_millis(1), soon, is_there).unwrap();
            let _exclusive = exclusive(&one.host, Some(soon)).unwrap();
            assert!(reports(&store, host).is_empty(), "it has waited");
        });
        exchange(&one);
    });
    assert_eq!(reports(&store, host).len(), 1);
}

/// A report in the name of a host, with these keys and their proofs.
fn report_of(host: HostUuid, at: i64, keks: &[Kek]) -> ReportClaim {
    let mut report = ReportClaim {
        host,
        name: "one".to_owned(),
        at,
        version: String::new(),
        keks: keks.iter().map(|kek| kek.key_id().to_string()).collect(),
        proofs: BTreeMap::new(),
        guests: None,
        refused: Vec::new(),
        outbox: 0,
    };
    for kek in keks {
        report.prove(kek);
    }
    report
}

#[test]
fn only_what_a_host_itself_has_said_lately_spares_it_a_report() {
    let store = SharedStore::new();
    let fixture = Fixture::new();
    let own = store.join(&fixture, "one");
    let providers: Vec<Provider> = fixture.store().providers().unwrap();
    let keks = || -> Vec<Kek> {
        let opened = providers.iter().map(|it| {
            let kek = fixture.host.keyring().open(it.key_id, default_deadline());
            kek.unwrap()
        });
        opened.collect()
    };
    let now = Timestamp::now().0;
    let minutes = |number: i64| now + number * 60 * 1000;
    let unproved = ReportClaim {
        proofs: BTreeMap::new(),
        ..report_of(own, minutes(-5), &keks())
    };
    let of_others = report_of(HostUuid::random(), minutes(-5), &keks());
    let said = [
        ("long ago", report_of(own, minutes(-16), &keks()), true),
        ("in the future", report_of(own, minutes(60), &keks()), true),
        ("without proof", unproved, true),
        ("of another host", of_others, true),
        ("lately", report_of(own, minutes(-5), &keks()), false),
        (
            "lately with fewer keys",
            report_of(own, minutes(-5), &keks()[..1]),
            true,
        ),
    ];
    for (which, report, is_due) in said {
        let reports: fn(&SharedStore) -> usize = |store| store.claims(Kind::Report).len();
        store
            .memory()
            .facts
            .retain(|_, (_, fact)| fact.kind != Kind::Report);
        store.put(Claim::Report(report).write(own, Timestamp(now)));
        exchange(&fixture);
        assert_eq!(reports(&store) == 2, is_due, "{which}");
    }
}

#[test]
fn one_program_serves_many_exchanges_with_one_store() {
    let (store, other) = (SharedStore::new(), SharedStore::new());
    let one = store.host("one");
    let mut follower = Follower::default();
    let mut go_on = || round(&one.host, &mut follower, false).unwrap().unwrap();
    go_on();
    go_on();
    assert_eq!(store.conversations(), 1);
    other.configure(&one, "");
    other.memory().system = 1;
    assert!(go_on().exchanged.compared, "another database");
    assert_eq!((store.conversations(), other.conversations()), (1, 1));
    // Another certificate wants another connection.
    let ca = one.root().join("ca.pem");
    other.configure(&one, &format!("ca = {ca:?}\n"));
    go_on();
    go_on();
    assert_eq!(other.conversations(), 2);
    // After an error nobody knows what it will say next.
    other.cut_off();
    assert!(round(&one.host, &mut follower, false).is_err());
    other.memory().fails_after = None;
    round(&one.host, &mut follower, false).unwrap();
    assert_eq!(other.conversations(), 3);
}

#[test]
fn a_host_without_the_address_is_not_told_to_join() {
    let store = SharedStore::new();
    let one = store.host("one");
    let asked = || {
        let exchanged = round_of_member(&one.host, &mut Follower::default(), false);
        exchanged.map(drop)
    };
    asked().unwrap();
    let path = one.root().join("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.split("[fleet]").next().unwrap()).unwrap();
    assert!(matches!(asked(), Err(FleetCommandError::NoAddress)));
    let exchanged = round(&one.host, &mut Follower::default(), false);
    assert!(exchanged.unwrap().is_none());
    fs::write(&path, config).unwrap();
    one.sql("DELETE FROM fleet");
    assert!(matches!(asked(), Err(FleetCommandError::NoMember)));
    let exchanged = round(&one.host, &mut Follower::default(), false);
    assert!(exchanged.unwrap().is_none());
}
