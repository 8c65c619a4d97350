//! What is reported in parts, and again: exchanges that end early, databases and hosts that have lost something.

use std::collections::BTreeSet;

use super::super::{Exchange, Exchanged};
use super::host::{Host, dek, guest, kek, new_provider, one_of_many};
use super::pair::{A, B, NOW, pair, sync, sync_both};
use super::shared::Memory;
use crate::clock::Timestamp;
use crate::fleet::claim::{
    Claim, EventClaim, HostClaim, KeyClaim, PlacementClaim, ProviderClaim, Signed, SlotClaim,
    StatusClaim, SuccessorClaim,
};
use crate::fleet::shared::SharedStore as _;
use crate::fleet::status::KeyStatus;
use crate::fleet::{Fact, FactId, Kind};
use crate::ids::HostUuid;
use crate::key::kek::Kek;
use crate::key::wrap::{Generation, WrappedDek};
use crate::manage::host::default_deadline;
use crate::store::testing::looks;
use crate::store::{Access, Event, KnownFact, Origin, Store};

#[test]
fn what_does_not_fit_into_one_document_is_told_in_several() {
    let (mut one, mut two, mut shared) = pair();
    shared.fits = Some(1);
    for number in 1..=5 {
        one.make_key(guest(number), "nkp-a", b"key", NOW);
    }
    sync(&mut one, &mut shared);
    assert_eq!(sync(&mut two, &mut shared).added, 5);
}

/// Another tool wrote both: the exchange of this host stood still for ever.
#[test]
fn what_is_too_long_for_the_shared_store_keeps_back_nothing_else() {
    let (mut one, mut two, mut shared) = pair();
    let mut event = Event::new(NOW, Origin::Prepare, guest(1), "vm1", "x".repeat(300_000));
    event.domain_name = "Ä".repeat(300_000);
    one.store.record_event(&event).unwrap();
    one.make_key(guest(1), "nkp-a", b"key", NOW);
    one.make_key(guest(2), "nkp-a", b"other", NOW);
    let other_tool = rusqlite::Connection::open(one.dir.path().join("store.db")).unwrap();
    let changed = other_tool.execute(
        "UPDATE key_ref SET provider_name = ?1 WHERE resource_uuid = ?2",
        ["x".repeat(300_000), guest(2).to_string()],
    );
    assert_eq!(changed.unwrap(), 1);
    one.store.announce_rows().unwrap();
    sync(&mut one, &mut shared);
    let told = shared.facts.values();
    let told = told.filter(|(_, fact)| fact.kind == Kind::Event).count();
    assert_eq!(told, 1);
    assert_eq!(sync(&mut two, &mut shared).added, 1);
    // Nothing that was sent is missed there, as if the database had been restored.
    assert!(!sync(&mut one, &mut shared).compared);
}

#[test]
fn another_database_is_given_all_again_and_what_it_lacks_is_healed_by_the_hosts() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    let backup = shared.clone();
    one.make_key(guest(2), "nkp-a", b"other", NOW);
    one.make_key(guest(1), "nkp-a", b"second", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    let before = shared.facts.clone();
    // Restored from yesterday, and then new and empty.
    for old in [backup, Memory::default()] {
        shared.replace_by(old);
        assert!(sync(&mut two, &mut shared).compared);
        assert!(sync(&mut one, &mut shared).compared);
        let kept = |fact: &Fact| fact.kind != Kind::Event;
        let all = |facts: &std::collections::BTreeMap<FactId, (u64, Fact)>| -> Vec<FactId> {
            let facts = facts.values().filter(|(_, fact)| kept(fact));
            facts.map(|(_, fact)| fact.id).collect()
        };
        assert_eq!(all(&shared.facts), all(&before));
        let mut new = Host::new("new", &[("nkp-a", A)]);
        sync(&mut new, &mut shared);
        assert_eq!(new.candidates(guest(1), b"second").len(), 1);
        assert_eq!(new.candidates(guest(1), b"first"), []);
        assert_eq!(new.candidates(guest(2), b"other").len(), 1);
    }
}

#[test]
fn a_store_that_was_restored_without_saying_so_is_given_all_again_by_who_lost_something() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    let backup = shared.clone();
    one.make_key(guest(2), "nkp-a", b"other", NOW);
    let noted = one.store.note_placement(guest(2), "vm2", true, NOW);
    noted.unwrap();
    assert!(!sync(&mut one, &mut shared).compared, "not due");
    shared.go_back_to(backup);
    sync(&mut two, &mut shared);
    assert_eq!(two.rows(guest(2)), [], "it was lost");
    assert!(sync(&mut one, &mut shared).compared);
    sync(&mut two, &mut shared);
    assert_eq!(two.candidates(guest(2), b"other").len(), 1);
    let placements = two.store.placements(guest(2)).unwrap();
    assert!(placements[0].placement.running);
    // Once.
    let again = sync(&mut one, &mut shared);
    assert_eq!((again.compared, again.pushed), (false, 0));
}

#[test]
fn an_exchange_that_ends_anywhere_is_continued_by_the_next_one() {
    for fails_late in [false, true] {
        for fails_after in 0..12 {
            let (mut one, mut two, mut shared) = pair();
            one.make_key(guest(1), "nkp-a", b"first", NOW);
            shared.fails_late = fails_late;
            for host in [&mut one, &mut two] {
                shared.fails_after = Some(fails_after);
                // It fails, or had less to say.
                let _ = host.sync(&mut shared, true, NOW);
                shared.fails_after = None;
                host.sync(&mut shared, true, NOW).unwrap();
            }
            assert_eq!(two.candidates(guest(1), b"first").len(), 1);
            assert_eq!(two.rows(guest(1)).len(), 1);
            assert_eq!(one.store.outbox_len().unwrap(), 0);
        }
    }
}

#[test]
fn an_exchange_did_something_where_anything_was_told_or_learnt() {
    let nothing = Exchanged {
        compared: true,
        ..Exchanged::default()
    };
    assert!(!nothing.did_something());
    let counts: [fn(&mut Exchanged) -> &mut usize; 6] = [
        |it| &mut it.pushed,
        |it| &mut it.states,
        |it| &mut it.pulled,
        |it| &mut it.rejected,
        |it| &mut it.added,
        |it| &mut it.changed,
    ];
    for count in counts {
        let mut one = nothing;
        *count(&mut one) = 1;
        assert!(one.did_something(), "{one:?}");
    }
}

#[test]
fn what_two_exchanges_did_is_what_both_did() {
    let first = Exchanged {
        pushed: 1,
        states: 2,
        pulled: 3,
        rejected: 4,
        added: 5,
        changed: 6,
        compared: false,
    };
    let mut both = first;
    both.add(Exchanged {
        compared: true,
        ..first
    });
    both.add(first);
    let thrice = Exchanged {
        pushed: 3,
        states: 6,
        pulled: 9,
        rejected: 12,
        added: 15,
        changed: 18,
        compared: true,
    };
    assert_eq!(both, thrice);
}

#[test]
fn everything_is_compared_once_a_day_and_when_somebody_asks_for_it() {
    let (mut one, _, mut shared) = pair();
    let day = 24 * 60 * 60 * 1000;
    let mut compared = |compare, after: i64| {
        let now = Timestamp(NOW.0 + after);
        one.sync(&mut shared, compare, now).unwrap().compared
    };
    assert!(compared(false, 0), "the first time");
    assert!(!compared(false, day - 1));
    assert!(compared(false, day));
    assert!(!compared(false, day + 1));
    assert!(compared(true, day + 2));
    // By a clock that was a day ahead: otherwise nothing would be compared for two.
    assert!(compared(false, 0));
    assert!(!compared(false, 1));
}

#[test]
fn an_exchange_of_hosts_that_have_nothing_to_say_is_a_few_questions() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync_both(&mut one, &mut two, &mut shared);
    sync(&mut one, &mut shared);
    for host in [&mut one, &mut two] {
        shared.fails_after = Some(100);
        sync(host, &mut shared);
        // What it is, whether it was restored, and what is new.
        assert!(100 - shared.fails_after.unwrap() <= 3);
    }
}

#[test]
fn history_is_told_and_again_where_another_database_lacks_it() {
    let (mut one, _, mut shared) = pair();
    let host = one.store.membership().unwrap().unwrap().host;
    let record = |one: &mut Host, after: i64| {
        let event = Event::new(
            Timestamp(NOW.0 + after),
            Origin::Renew,
            guest(1),
            "vm1",
            "done",
        );
        one.store.record_event(&event).unwrap();
    };
    let events = |shared: &Memory| {
        let facts = shared.facts.values().map(|(_, fact)| fact);
        let own = facts.filter(|fact| fact.kind == Kind::Event && fact.host == host);
        let seqs = own.filter_map(|fact| match Claim::read(fact) {
            Ok(Claim::Event(event)) if event.host == host => Some(event.seq),
            _ => None,
        });
        let mut seqs: Vec<_> = seqs.collect();
        seqs.sort_unstable();
        seqs
    };
    record(&mut one, 0);
    sync(&mut one, &mut shared);
    let backup = shared.clone();
    record(&mut one, 1);
    sync(&mut one, &mut shared);
    let all = events(&shared);
    assert_eq!(all.len(), 2);
    // What is there is not said again.
    let same = shared.clone();
    shared.replace_by(same);
    assert_eq!(sync(&mut one, &mut shared).pushed, 0);
    // Nor does it count what others have said in this host's name.
    shared.replace_by(backup);
    let lie = Claim::Event(EventClaim {
        host: HostUuid::random(),
        host_name: "nobody".to_owned(),
        seq: all[1],
        at: NOW.0 + 2,
        domain: guest(1),
        name: "vm1".to_owned(),
        operation: "prepare".to_owned(),
        allowed: true,
        code: None,
        message: String::new(),
    });
    let lie = lie.write(host, NOW);
    shared.facts.insert(lie.id, (0, lie));
    sync(&mut one, &mut shared);
    assert_eq!(events(&shared), all);
}

/// The numbers of its events are used again: what it had told of those that are gone is nothing that it has told of these.
#[test]
fn history_that_is_written_after_a_restore_is_told_another_database_too() {
    let (mut one, _, mut shared) = pair();
    let record = |one: &mut Host, at: i64| {
        let event = Event::new(Timestamp(at), Origin::Renew, guest(1), "vm1", "done");
        one.store.record_event(&event).unwrap();
    };
    record(&mut one, NOW.0);
    sync(&mut one, &mut shared);
    let backup = one.backup();
    for after in 1..=2 {
        record(&mut one, NOW.0 + after);
    }
    sync(&mut one, &mut shared);
    let older = shared.clone();
    one.restore(&backup);
    for after in 11..=13 {
        record(&mut one, NOW.0 + after);
    }
    sync(&mut one, &mut shared);
    // Restored, too, to before that.
    shared.replace_by(older);
    sync(&mut one, &mut shared);
    let facts = shared.facts.values().map(|(_, fact)| fact);
    let events = facts.filter(|fact| fact.kind == Kind::Event);
    let mut told: Vec<_> = events.map(|fact| fact.at.0 - NOW.0).collect();
    told.sort_unstable();
    assert_eq!(told, [0, 1, 2, 11, 12, 13]);
}

#[test]
fn each_host_heals_a_store_of_its_own_words_and_of_those_that_a_key_of_it_vouches_for() {
    let (_, mut two, _) = pair();
    let host = two.store.membership().unwrap().unwrap().host;
    let other = HostUuid::random();
    let unknown = kek(&[9; 32]);
    let says_host = |of, after, left| {
        let at = Timestamp(NOW.0 + after);
        Claim::Host(HostClaim::new(of, "a name", at, left))
    };
    let slot = |key_id, remote_key: &str| {
        Claim::Slot(SlotClaim {
            key_id,
            kind: "transit".to_owned(),
            label: None,
            kms: "vault".to_owned(),
            remote_key: remote_key.to_owned(),
            remote_version: None,
            blob: vec![1],
        })
    };
    let successor = |signer: &Kek| {
        let says = SuccessorClaim {
            name: "nkp-a".to_owned(),
            old: signer.key_id(),
            new: kek(&B).key_id(),
            key_version: 2,
            finished: false,
        };
        Claim::Successor(Signed::new(says, signer))
    };
    let name = |signer: &Kek| {
        let says = ProviderClaim {
            name: "its name elsewhere".to_owned(),
            key_id: signer.key_id(),
            key_version: 1,
        };
        Claim::Provider(Signed::new(says, signer))
    };
    // One of its keys, which does not open now.
    let closed = kek(&[3; 32]);
    two.add_provider("nkp-c", [3; 32]);
    two.keks.pop();
    let wrapped = WrappedDek::wrap(&kek(&A), &dek(b"first"), guest(1), Generation(0)).unwrap();
    let key = KeyClaim::new(guest(1), wrapped.clone(), "nkp-a", Some(1)).unwrap();
    let status = StatusClaim {
        key: FactId::of_key(guest(1), &wrapped),
        domain: guest(1),
        revision: 1,
        status: KeyStatus::Live,
        host: other,
    };
    let said = [
        (says_host(host, 1, false), host, true),
        // It has said something else since.
        (says_host(host, 0, false), host, false),
        (says_host(other, 0, false), other, false),
        // That it took the other one for lost, and one that was never there.
        (says_host(other, 1, true), host, true),
        (says_host(HostUuid::random(), 1, true), host, false),
        (slot(kek(&A).key_id(), "own"), host, true),
        (slot(unknown.key_id(), "junk in its name"), host, false),
        (slot(kek(&A).key_id(), "of a key that is here"), other, true),
        (slot(unknown.key_id(), "junk"), other, false),
        (successor(&kek(&A)), other, true),
        (successor(&unknown), other, false),
        (name(&kek(&A)), host, true),
        (name(&closed), host, true),
        (successor(&closed), other, false),
        (name(&unknown), host, false),
        (Claim::Key(key), other, true),
        (Claim::Status(Signed::new(status, &kek(&A))), other, true),
    ];
    let facts = said
        .iter()
        .map(|(claim, host, _)| KnownFact::said(claim.clone(), *host, NOW));
    let facts: Vec<_> = facts.collect();
    two.store.mark_sent(&facts, &[]).unwrap();
    let mut shared = Memory::default();
    two.sync(&mut shared, true, NOW).unwrap();
    for (known, (claim, _, is_healed)) in facts.iter().zip(&said) {
        let is_there = shared.facts.contains_key(&known.fact.id);
        assert_eq!(is_there, *is_healed, "{claim:?}");
    }
    // Of what is lost again nothing else is said again.
    let lost = facts[0].fact.id;
    shared.facts.remove(&lost);
    assert_eq!(two.sync(&mut shared, true, NOW).unwrap().pushed, 1);
    assert!(shared.facts.contains_key(&lost));
}

#[test]
fn a_host_that_has_lost_what_it_knew_is_healed_by_the_store() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    let first = sync(&mut two, &mut shared);
    assert_eq!((first.added, first.changed), (1, 0));
    // As after the restore of an older backup, with a cursor that is further.
    let other = rusqlite::Connection::open(two.dir.path().join("store.db")).unwrap();
    other
        .execute_batch("DELETE FROM fleet_fact; DELETE FROM key_ref")
        .unwrap();
    two.sync(&mut shared, true, NOW).unwrap();
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
}

/// What this host has said last of where a guest is: since when, and whether it runs.
fn own_word(host: &Host) -> (i64, bool) {
    let placements = host.store.placements(guest(1)).unwrap();
    let own = placements.into_iter().find(|it| it.is_own).unwrap();
    (own.placement.at, own.placement.running)
}

#[test]
fn a_host_whose_store_was_restored_learns_which_runs_it_has_had_since() {
    let (mut one, _, mut shared) = pair();
    let note = |host: &mut Host, running, after: i64| {
        let at = Timestamp(NOW.0 + after);
        let noted = host.store.note_placement(guest(1), "vm1", running, at);
        noted.unwrap();
    };
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    note(&mut one, true, 0);
    note(&mut one, false, 1);
    sync(&mut one, &mut shared);
    let backup = one.backup();
    for (running, after) in [(true, 2), (false, 3)] {
        note(&mut one, running, after);
        sync(&mut one, &mut shared);
        // To those who know it already it is no news.
        assert_eq!(sync(&mut one, &mut shared).pulled, 0);
        one.restore(&backup);
        assert_eq!(own_word(&one), (NOW.0 + 1, false));
        sync(&mut one, &mut shared);
        assert_eq!(own_word(&one), (NOW.0 + after, running));
    }
}

/// Somebody took it for lost (`fleet lost`): the end of its run is for it to say.
#[test]
fn a_run_that_a_host_knows_is_ended_by_nobody_else() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    let noted = one.store.note_placement(guest(1), "vm1", true, NOW);
    noted.unwrap();
    sync_both(&mut one, &mut two, &mut shared);
    let placements = one.store.placements(guest(1)).unwrap();
    let ended = PlacementClaim {
        at: NOW.0 + 1,
        running: false,
        ..placements[0].placement.clone()
    };
    let host = ended.host;
    let ended = Claim::Placement(Signed::new(ended, &kek(&A))).write(host, NOW);
    shared.facts.insert(ended.id, (100, ended));
    sync_both(&mut one, &mut two, &mut shared);
    let heard = two.store.placements(guest(1)).unwrap();
    assert_eq!(heard[0].placement.at, NOW.0 + 1);
    assert_eq!(own_word(&one), (NOW.0, true));
}

/// While libvirt does not say which guests are defined, no key is retired because others say so: those wait, and each page
/// of facts went through all that waited since the pages before.
#[test]
fn keys_that_wait_are_not_gone_through_again_with_each_page() {
    let learn = |pages: usize| {
        let (_, mut two, mut shared) = pair();
        let (kek, host) = (kek(&A), HostUuid::random());
        let (mut keys, mut retired) = (Vec::new(), Vec::new());
        for number in 0..500 * pages {
            let domain = one_of_many(number);
            let wrapped = WrappedDek::wrap(&kek, &dek(b"key"), domain, Generation(0)).unwrap();
            let says = StatusClaim {
                key: FactId::of_key(domain, &wrapped),
                domain,
                revision: 1,
                status: KeyStatus::Retired,
                host,
            };
            let key = KeyClaim::new(domain, wrapped, "nkp-a".to_owned(), None).unwrap();
            keys.push(Claim::Key(key).write(host, NOW));
            retired.push(Claim::Status(Signed::new(says, &kek)).write(host, NOW));
        }
        shared.push(&keys, &[], default_deadline()).unwrap();
        assert_eq!(sync(&mut two, &mut shared).added, keys.len());
        two.tpms.are_unknown = true;
        shared.push(&retired, &[], default_deadline()).unwrap();
        let cost = looks(|| assert_eq!(sync(&mut two, &mut shared).pulled, retired.len()));
        assert_eq!(two.store.pending_keys().unwrap().len(), retired.len());
        cost
    };
    let (few, many) = (learn(1), learn(4));
    assert!(many < few * 5, "{few} for one page, {many} for four");
}

#[test]
fn keys_that_concern_a_host_no_more_are_not_told_again() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync_both(&mut one, &mut two, &mut shared);
    let provider = two.provider("nkp-a");
    two.store.delete_whoever_needs_it(provider.uuid).unwrap();
    two.keks.clear();
    sync(&mut two, &mut shared);
    let compared = two.sync(&mut shared, true, NOW).unwrap();
    assert_eq!((compared.compared, compared.pushed), (true, 0));
}

#[test]
fn an_exchange_goes_on_with_the_providers_that_there_are() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"key", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    one.make_key(guest(2), "nkp-a", b"other", NOW);
    sync(&mut one, &mut shared);
    two.keks.push(B);
    let mut unlocker = two.unlocker();
    let mut another = Store::open(two.dir.path(), Access::Write, default_deadline()).unwrap();
    let mut exchange = Exchange::new(
        &mut two.store,
        &mut unlocker,
        &mut two.tpms,
        &mut shared,
        NOW,
    )
    .unwrap();
    let gone = another.provider("nkp-a").unwrap();
    another
        .delete_provider(gone.uuid, &BTreeSet::from([guest(1)]))
        .unwrap();
    let new = new_provider("nkp-b", &B);
    another.create_provider(&new, &[], NOW).unwrap();
    let done = exchange.run(false).unwrap();
    assert_eq!((done.added, done.changed), (0, 0));
    // The fleet has heard of the one that came, or will.
    let told = shared.facts.values().map(|(_, fact)| fact);
    let told = told.filter_map(|fact| Claim::read(fact).ok());
    let mut told =
        told.filter(|claim| matches!(claim, Claim::Provider(it) if it.says.name == "nkp-b"));
    assert!(told.next().is_some());
    assert_eq!(two.rows(guest(2)), []);
    // When it is imported again, it has what was told while it was gone.
    two.add_provider("nkp-a", A);
    assert_eq!(sync(&mut two, &mut shared).added, 1);
    assert_eq!(two.rows(guest(2)).len(), 1);
}
