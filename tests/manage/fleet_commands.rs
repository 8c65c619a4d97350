//! `fleet join`, `leave`, `init` and `status`, and what `--fleet` shows of all hosts.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fixture::Fixture;
use super::fleet_program::{FleetStore, Member};
use super::fleet_shared::{SharedStore, exchange};
use super::meanwhile::busy;
use crate::clock::{Deadline, Timestamp};
use crate::domain::TpmVersion;
use crate::fleet::claim::{Claim, EventClaim, HostClaim, RefusedGuest, ReportClaim};
use crate::fleet::tpm_state::StateNote;
use crate::fleet::{Fact, Kind};
use crate::host::crash::armed;
use crate::ids::{DomainUuid, HostUuid};
use crate::libvirt::fake::{Call, Failure};
use crate::manage::figures::figures;
use crate::manage::fleet::states::fleet_states;
use crate::manage::fleet::{
    FleetCommandError, FleetGuest, FleetHost, fleet_guests, fleet_history, init, join, leave, lost,
    sql, status,
};
use crate::manage::key_refs::retire;
use crate::manage::sync::exclusive;
use crate::store::{Membership, QueuedState};
use crate::swtpm::Backend;

fn membership(fixture: &Fixture) -> Option<Membership> {
    fixture.store().membership().unwrap()
}

/// A host that has the provider key `a` of another one.
fn second(store: &SharedStore, first: &Fixture, name: &str) -> Fixture {
    let fixture = Fixture::new();
    fixture.adopt_provider_of(first, "a");
    store.join(&fixture, name);
    fixture
}

#[test]
fn joining_says_who_is_called_the_same_and_what_was_learnt() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    exchange(&one);
    let two = Fixture::new();
    two.adopt_provider_of(&one, "a");
    store.configure(&two, "");
    let done = join(&two.host, Some("two")).unwrap();
    assert_eq!((done.name.as_str(), &done.namesakes[..]), ("two", &[][..]));
    assert_eq!((done.key_refs, two.rows(&guest).len()), (1, 1));
    assert_eq!(
        (done.server.as_str(), &done.to_accept[..]),
        ("memory", &[][..])
    );
    assert_eq!(membership(&two).unwrap().host, done.host);
    // A host that was installed again.
    let again = Fixture::new();
    store.configure(&again, "");
    let done = join(&again.host, Some("one")).unwrap();
    assert_eq!(done.namesakes, [membership(&one).unwrap().host]);
    // Without a name it has that of the machine.
    let unnamed = Fixture::new();
    store.configure(&unnamed, "");
    let done = join(&unnamed.host, None).unwrap();
    let machine = Command::new("uname").arg("-n").output().unwrap().stdout;
    assert_eq!(done.name, String::from_utf8(machine).unwrap().trim());
    assert!(done.namesakes.is_empty());
}

#[test]
fn a_host_that_cannot_reach_the_store_does_not_join() {
    let store = SharedStore::new();
    let one = Fixture::new();
    store.configure(&one, "");
    store.cut_off();
    let refused = join(&one.host, Some("one")).unwrap_err();
    assert!(
        matches!(refused, FleetCommandError::Shared(_)),
        "{refused:?}"
    );
    assert!(membership(&one).is_none());
}

#[test]
fn a_host_is_called_something_that_people_can_read_and_type() {
    let store = SharedStore::new();
    let (one, other) = (Fixture::new(), store.host("other"));
    store.configure(&one, "");
    let uuid = membership(&other).unwrap().host.to_string();
    for name in [&uuid, "", " one", "a\nb", "a\u{202e}b", "--force"] {
        let refused = join(&one.host, Some(name)).unwrap_err();
        let is_bad = matches!(&refused, FleetCommandError::BadName(said, _) if said == name);
        assert!(is_bad, "{refused:?}");
    }
    assert!(membership(&one).is_none());
    assert_eq!(store.conversations(), 0, "nobody was asked");
}

/// The names of the hosts that are there, as the shared store knows them.
fn present(store: &SharedStore) -> Vec<String> {
    let mut newest = BTreeMap::new();
    for claim in store.claims(Kind::Host) {
        let Claim::Host(said) = claim else {
            panic!("{claim:?}");
        };
        let is_newest = |known: &crate::fleet::claim::HostClaim| known.at < said.at;
        if newest.get(&said.host).is_none_or(is_newest) {
            newest.insert(said.host, said);
        }
    }
    let there = newest.into_values().filter(|said| !said.left);
    there.map(|said| said.name).collect()
}

#[test]
fn a_host_leaves_when_the_fleet_knows_all_that_it_has_to_say() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    exchange(&one);
    assert_eq!(present(&store), ["one"]);
    let left = leave(&one.host, false).unwrap();
    assert!(left.told && left.trouble.is_none());
    assert_eq!((left.name.as_str(), left.lost_facts), ("one", 0));
    assert!(membership(&one).is_none());
    assert_eq!(present(&store), [""; 0]);
    assert!(one.would_start(&guest), "its keys stay");
}

/// An exchange between what is said and what is forgotten would say that the host is there.
#[test]
fn no_exchange_comes_between_what_a_host_says_as_it_leaves_and_what_it_forgets() {
    for nth in 1.. {
        let store = Arc::new(SharedStore::new());
        let one = store.host("one");
        exchange(&one);
        let (said, root) = (Arc::clone(&store), one.root().to_owned());
        let gap = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&gap);
        armed::meanwhile(nth, move || {
            let one = Fixture::at(&root);
            let at_once = Deadline::after(Duration::ZERO);
            let is_free = exclusive(&one.host, Some(at_once)).is_ok();
            let is_between = present(&said).is_empty() && membership(&one).is_some();
            found.store(is_free && is_between, Ordering::Relaxed);
        });
        leave(&one.host, false).unwrap();
        if armed::forget() {
            assert!(nth > 1, "it has no step");
            return;
        }
        assert!(!gap.load(Ordering::Relaxed), "before its step {nth}");
    }
}

#[test]
fn what_cannot_be_signed_keeps_a_host_in_its_fleet_but_for_force() {
    let store = SharedStore::new();
    let one = store.host("one");
    exchange(&one);
    let guest = one.guest_in_use("vm1");
    one.lose_key("a");
    retire(&one.host, one.rows(&guest)[0].key_ref.id).unwrap();
    let refused = leave(&one.host, false).unwrap_err();
    let FleetCommandError::Untold(waiting) = refused else {
        panic!("{refused:?}");
    };
    assert!(waiting > 0 && membership(&one).is_some());
    assert_eq!(present(&store), ["one"]);
    let left = leave(&one.host, true).unwrap();
    assert!(left.told && left.trouble.is_none());
    assert_eq!(left.lost_facts, waiting);
    assert_eq!(present(&store), [""; 0]);
    assert!(membership(&one).is_none());
}

#[test]
fn a_host_that_nobody_hears_leaves_by_force_alone() {
    let store = SharedStore::new();
    let one = store.host("one");
    exchange(&one);
    store.cut_off();
    let refused = leave(&one.host, false).unwrap_err();
    assert!(
        matches!(refused, FleetCommandError::Shared(_)),
        "{refused:?}"
    );
    assert!(membership(&one).is_some());
    let left = leave(&one.host, true).unwrap();
    assert!(!left.told && left.trouble.unwrap().contains("cut off"));
    assert!(membership(&one).is_none());
}

#[test]
fn the_schema_is_made_at_the_address_that_is_given_or_configured() {
    let store = SharedStore::new();
    let one = Fixture::new();
    let address = store.address();
    let nowhere = init(&one.host, None).unwrap_err();
    assert!(
        matches!(nowhere, FleetCommandError::NoAddress),
        "{nowhere:?}"
    );
    let bad = sql(&one.host, Some("there")).unwrap_err();
    assert!(matches!(bad, FleetCommandError::BadAddress(text) if text == "there"));
    let made = init(&one.host, Some(&address)).unwrap();
    assert_eq!((made.schema_before, made.schema), (0, 1));
    assert_eq!(made.server, "memory");
    store.configure(&one, "");
    for address in [None, Some(&*address)] {
        assert_eq!(sql(&one.host, address).unwrap(), made.sql);
    }
    assert!(made.sql.contains("CREATE TABLE"));
}

#[test]
fn the_status_shows_what_each_host_said_last_and_what_is_of_the_future_not() {
    let store = SharedStore::new();
    let one = store.host("one");
    let two = second(&store, &one, "two");
    one.guest_in_use("vm1");
    for host in [&one, &two, &one] {
        exchange(host);
    }
    let far = Timestamp(Timestamp::now().0 + 48 * 60 * 60 * 1000);
    let host = membership(&two).unwrap().host;
    let lie = report(host, "two", far.0, Vec::new());
    store.put(lie.write(host, far));
    let found = status(&one.host).unwrap();
    assert_eq!((found.name.as_str(), found.outbox), ("one", 0));
    assert_eq!(found.server.as_deref(), Some("memory"));
    assert!(found.trouble.is_none() && found.synced_at.is_some());
    let row = |it: &FleetHost| (it.name.clone(), it.guests, it.reported_at.is_some());
    let hosts: Vec<_> = found.hosts.iter().map(row).collect();
    assert_eq!(hosts[0], ("one".to_owned(), Some(1), true));
    // The store gives the newest one alone: it is not believed.
    assert_eq!(hosts[1], ("two".to_owned(), None, false));
    store.cut_off();
    let found = status(&one.host).unwrap();
    assert!(found.trouble.is_some() && found.server.is_none());
    assert_eq!(found.hosts.len(), 2);
}

fn report(host: HostUuid, name: &str, at: i64, refused: Vec<RefusedGuest>) -> Claim {
    Claim::Report(ReportClaim {
        host,
        name: name.to_owned(),
        at,
        version: "1".to_owned(),
        keks: Vec::new(),
        proofs: BTreeMap::new(),
        guests: None,
        refused,
        outbox: 0,
    })
}

#[test]
fn the_guests_of_all_hosts_are_those_that_would_not_start_and_those_that_run() {
    let store = SharedStore::new();
    let one = store.host("one");
    let two = second(&store, &one, "two");
    let (runs, stopped) = (one.guest_in_use("vm1"), one.guest_in_use("vm2"));
    let refused = one.guest_in_use("vm3");
    fs::write(one.state_file(&refused), "no state").unwrap();
    let now = Timestamp::now();
    for (guest, running) in [(&runs, true), (&stopped, false), (&refused, true)] {
        let mut notes = one.store();
        notes
            .note_placement(guest.uuid, &guest.name, running, now)
            .unwrap();
    }
    // It is defined on another host too, and runs there.
    let mut elsewhere = two.store();
    for host in [&one, &two] {
        exchange(host);
    }
    elsewhere
        .note_placement(refused.uuid, "vm3", true, now)
        .unwrap();
    exchange(&two);
    // One that was taken for lost says nothing any more.
    let gone = RefusedGuest {
        domain: DomainUuid::random(),
        name: "vm4".to_owned(),
        code: "VG201".to_owned(),
        message: String::new(),
    };
    let host = HostUuid::random();
    store.put(report(host, "three", now.0, vec![gone]).write(host, now));
    let found = fleet_guests(&two.host).unwrap();
    assert!(found.unchecked.is_empty());
    let short = |it: &FleetGuest| {
        let is_refused = it.code.is_some() && it.message.is_some();
        (it.name.clone(), it.host.clone(), it.running, is_refused)
    };
    let found: Vec<_> = found.guests.iter().map(short).collect();
    let row = |name: &str, host: &str, is_refused| {
        (name.to_owned(), host.to_owned(), Some(true), is_refused)
    };
    assert_eq!(
        found,
        [
            row("vm1", "one", false),
            row("vm3", "one", true),
            row("vm3", "two", false)
        ]
    );
}

#[test]
fn a_guest_whose_xml_cannot_be_read_is_reported_as_one_that_would_not_start() {
    let store = SharedStore::new();
    let one = store.host("one");
    one.guest_in_use("vm1");
    one.libvirt.guests.spoil("vm1");
    exchange(&one);
    let found = fleet_guests(&one.host).unwrap().guests;
    let codes: Vec<_> = found
        .iter()
        .map(|it| (it.name.as_str(), it.code.as_deref()))
        .collect();
    assert_eq!(codes, [("vm1", Some("VG501"))]);
}

#[test]
fn a_host_whose_libvirt_is_silent_reports_no_guest_that_would_start() {
    let store = SharedStore::new();
    let one = store.host("one");
    one.guest_in_use("vm1");
    one.libvirt.fail_each(Call::Guests, Failure::Unreachable);
    exchange(&one);
    let found = fleet_guests(&one.host).unwrap();
    assert_eq!(
        (found.guests.len(), found.unchecked),
        (0, vec!["one".to_owned()])
    );
    let host = status(&one.host).unwrap().hosts.remove(0);
    assert_eq!((host.guests, host.refused), (None, None));
    assert!(host.reported_at.is_some());
}

/// A start of the guest `vm1`, by the number and the time that its host gave it.
fn event(
    host: HostUuid,
    (seq, at): (i64, i64),
    domain: DomainUuid,
    message: String,
    allowed: bool,
) -> Fact {
    let claim = Claim::Event(EventClaim {
        host,
        host_name: "there".to_owned(),
        seq,
        at,
        domain,
        name: "vm1".to_owned(),
        operation: "prepare".to_owned(),
        allowed,
        code: (!allowed).then(|| "VG201".to_owned()),
        message,
    });
    claim.write(host, Timestamp(at))
}

#[test]
fn the_history_of_all_hosts_shows_each_start_once_as_it_ended() {
    let store = SharedStore::new();
    let one = store.host("one");
    let (host, other) = (HostUuid::random(), HostUuid::random());
    let (guest, second) = (DomainUuid::random(), DomainUuid::random());
    let say = |host, seq, at, domain, message: &str, allowed: bool| {
        let message = format!("{seq} at {at}: {message}");
        store.put(event(host, (seq, at), domain, message, allowed));
    };
    // Allowed at first and then refused: the answer has them in one order and in the other.
    for seq in 1..=8 {
        say(host, seq, seq * 100, guest, "starts", true);
        say(host, seq, seq * 100, guest, "has failed", false);
    }
    say(other, 8, 850, guest, "starts", true);
    say(host, 9, 900, guest, "starts", true);
    // The store was restored from a backup: its numbers are used again, for others as well.
    say(host, 1, 1000, guest, "starts", true);
    say(host, 9, 900, second, "starts", true);
    let history = |guest, since, limit| {
        let found = fleet_history(&one.host, guest, since, None, limit).unwrap();
        let found = found.events;
        let row = |it: &crate::manage::fleet::FleetEvent| (it.message.clone(), it.is_allowed());
        found.iter().map(row).collect::<Vec<_>>()
    };
    let row = |message: &str, is_allowed| (message.to_owned(), is_allowed);
    let mut all = vec![
        row("1 at 1000: starts", true),
        row("9 at 900: starts", true),
        row("8 at 850: starts", true),
    ];
    let failed = |seq| row(&format!("{seq} at {seq}00: has failed"), false);
    all.extend((1..=8).rev().map(failed));
    assert_eq!(history(Some(guest), None, 20), all);
    assert_eq!(history(Some(guest), None, 2), all[..2]);
    assert_eq!(history(Some(guest), Some(Timestamp(850)), 10), all[..3]);
    let both = history(None, Some(Timestamp(900)), 10);
    assert_eq!(both, [&all[0], &all[1], &all[1]].map(Clone::clone));
    // Told twice, with another sentence.
    for message in ["has failed", "has failed, too"] {
        say(host, 10, 1100, guest, message, false);
    }
    let latest = history(Some(guest), None, 2);
    assert!(latest[0].0.starts_with("10 at 1100") && !latest[0].1);
    assert_eq!(latest[1], all[0]);
}

/// Of two facts about one start the first counts, unless the second says how it ended; and older ones are missing where the
/// store, and not the limit, has ended the answer.
#[test]
fn what_the_store_has_left_out_of_a_history_is_said() {
    let one = Fixture::new();
    let (host, guest) = (HostUuid::random(), DomainUuid::random());
    let fact =
        |seq, message: &str, allowed| event(host, (seq, seq), guest, message.to_owned(), allowed);
    let facts = [
        fact(3, "starts", true),
        fact(3, "starts, too", true),
        fact(2, "has failed", false),
        fact(2, "has failed, too", false),
        fact(1, "starts", true),
        fact(1, "has failed", false),
    ];
    let history = |more: bool, limit: u32| {
        let answer = serde_json::json!({ "ok": true, "facts": facts, "more": more });
        let store = FleetStore::answering(&answer.to_string(), Duration::ZERO);
        store.configure(&one, "");
        let found = fleet_history(&one.host, None, None, None, limit).unwrap();
        let messages = found.events.into_iter().map(|it| it.message);
        (messages.collect::<Vec<_>>(), found.is_cut)
    };
    let all = ["starts", "has failed", "has failed"].map(str::to_owned);
    for (more, limit, is_cut) in [
        (false, 4, false),
        (true, 4, true),
        (true, 3, false),
        (true, 2, false),
    ] {
        let shown = all[..all.len().min(limit as usize)].to_vec();
        assert_eq!(history(more, limit), (shown, is_cut), "{more}, {limit}");
    }
}

#[test]
fn the_states_in_the_store_are_listed_with_whose_they_are() {
    let store = SharedStore::new();
    let one = store.host("one");
    let (guest, other) = (one.guest_in_use("vm1"), one.guest_in_use("vm2"));
    let member = Member::new(&one, "there");
    let states = [member.state(&guest, 100), member.state(&other, 200)];
    store.memory().states.extend(states);
    let listed = fleet_states(&one.host).unwrap();
    assert!(!listed.is_cut);
    let listed = listed.states;
    let rows: Vec<_> = listed
        .iter()
        .map(|it| (it.guest.name.as_deref(), it.guest.uuid, it.saved_at.0))
        .collect();
    assert_eq!(
        rows,
        [
            (Some("vm2"), other.uuid, 200),
            (Some("vm1"), guest.uuid, 100)
        ]
    );
    assert_eq!(listed[0].host.as_deref(), Some("there"));
}

#[test]
fn a_key_that_another_host_retires_stays_where_a_state_needs_it() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    let key = one.opening_row(&guest).unwrap();
    let [needs, has_none, unknown] =
        ["two", "three", "four"].map(|name| second(&store, &one, name));
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    for host in [&needs, &has_none] {
        host.define_with(&guest.name, guest.uuid, guest.secret, &encryption);
    }
    needs.write_state(&guest, &fs::read(one.state_file(&guest)).unwrap());
    for host in [&one, &needs, &has_none, &unknown] {
        exchange(host);
    }
    retire(&one.host, key).unwrap();
    let is_in_use = |host: &Fixture| {
        exchange(host);
        let rows = host.rows(&guest);
        assert_eq!(rows.len(), 1);
        rows[0].retired_at.is_none()
    };
    for host in [&one, &has_none, &unknown] {
        assert!(!is_in_use(host));
    }
    assert!(is_in_use(&needs));
    // The others are told.
    for host in [&one, &has_none, &unknown] {
        assert!(is_in_use(host));
    }
    assert!(needs.would_start(&guest));
}

#[test]
fn while_libvirt_is_silent_a_host_goes_on_with_the_guests_it_had() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    exchange(&one);
    let scope = || one.store().fleet_scope().unwrap();
    let is_asked_for = |guest: DomainUuid| {
        let scope = scope();
        scope.contains(&("guest".to_owned(), guest.to_string()))
    };
    assert!(is_asked_for(guest.uuid));
    one.libvirt.fail_each(Call::Guests, Failure::Unreachable);
    exchange(&one);
    assert!(is_asked_for(guest.uuid));
    one.libvirt.recover();
    one.libvirt.guests.undefine("vm1");
    exchange(&one);
    assert!(!is_asked_for(guest.uuid));
}

#[test]
fn a_host_that_is_lost_takes_the_guests_of_no_other_host_with_it() {
    let store = SharedStore::new();
    let one = store.host("one");
    let others = ["two", "three"].map(|name| second(&store, &one, name));
    let now = Timestamp::now();
    let guests = ["vm2", "vm3"].map(|name| one.guest_in_use(name));
    exchange(&one);
    for (host, guest) in others.iter().zip(&guests) {
        exchange(host);
        let mut notes = host.store();
        notes
            .note_placement(guest.uuid, &guest.name, true, now)
            .unwrap();
        exchange(host);
    }
    exchange(&one);
    let before = one.store().placements(guests[0].uuid).unwrap();
    let (root, uuid) = (one.root().to_owned(), guests[0].uuid);
    let other_exchange = exclusive(&one.host, None).unwrap();
    let meanwhile = busy(other_exchange, move || {
        Fixture::at(&root).store().placements(uuid).unwrap()
    });
    let lost = lost(&one.host, "two").unwrap();
    assert_eq!(meanwhile.join().unwrap(), before);
    assert!(lost.told && lost.trouble.is_none());
    let uuids: Vec<_> = lost.guests.iter().map(|it| it.uuid).collect();
    assert_eq!(uuids, [guests[0].uuid]);
    let runs = |guest: DomainUuid| one.store().placements(guest).unwrap()[0].placement.running;
    assert_eq!(
        guests.each_ref().map(|guest| runs(guest.uuid)),
        [false, true]
    );
}

/// Each report has the sentences of up to two hundred guests; an answer of the shared store has 4 MiB.
#[test]
fn reports_that_do_not_fit_into_one_answer_are_all_seen() {
    const HOSTS: usize = 20;
    let store = SharedStore::new();
    let one = store.host("one");
    let now = Timestamp::now();
    for number in 0..HOSTS {
        let (host, name) = (HostUuid::random(), format!("host{number:02}"));
        let joined = Claim::Host(HostClaim::new(host, &name, now, false));
        store.put(joined.write(host, now));
        let refused = RefusedGuest {
            domain: DomainUuid::random(),
            name: format!("vm{number}"),
            code: "VG201".to_owned(),
            message: "x".repeat(250_000),
        };
        store.put(report(host, &name, now.0, vec![refused]).write(host, now));
    }
    exchange(&one);
    let found = status(&one.host).unwrap();
    assert_eq!(found.hosts.len(), HOSTS + 1);
    let silent = found.hosts.iter().filter(|it| it.reported_at.is_none());
    assert_eq!(silent.count(), 0);
    assert_eq!(fleet_guests(&one.host).unwrap().guests.len(), HOSTS);
}

/// What waits since before is not sent by a host that sends none, and keeps nobody from leaving.
#[test]
fn tpm_states_that_wait_stay_here_once_none_is_to_be_sent() {
    let store = SharedStore::new();
    let one = store.host("one");
    let guest = one.guest_in_use("vm1");
    store.configure(&one, "state = \"stopped\"\n");
    let data = fs::read(one.state_file(&guest)).unwrap();
    let note = StateNote {
        name: "vm1".to_owned(),
        tpm_version: TpmVersion::V2_0,
        backend: Backend::Directory,
    };
    let queue = || {
        let queued = QueuedState {
            domain: guest.uuid,
            at: Timestamp::now(),
            body: note.to_json(),
            data: data.clone(),
        };
        one.store().queue_state(&queued).unwrap();
    };
    queue();
    let outbox = || figures(&one.host, Timestamp::now()).fleet.unwrap().outbox;
    assert_eq!(exchange(&one).exchanged.states, 1);
    queue();
    assert_eq!(outbox(), 1);
    store.configure(&one, "");
    assert_eq!(exchange(&one).exchanged.states, 0);
    assert_eq!(
        one.store().queued_states().unwrap().len(),
        1,
        "nothing is lost"
    );
    assert_eq!(outbox(), 0);
    store.configure(&one, "state = \"stopped\"\n");
    assert_eq!(outbox(), 1);
    assert_eq!(exchange(&one).exchanged.states, 1);
    queue();
    store.configure(&one, "");
    let left = leave(&one.host, false).unwrap();
    assert_eq!((left.told, left.lost_facts), (true, 0));
}
