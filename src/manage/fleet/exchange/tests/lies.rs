//! What a host does not take from a store that may say anything.

use super::super::super::status::hosts;
use super::super::is_of_the_future;
use super::host::{Host, dek, guest, kek};
use super::pair::{A, B, NOW, pair, sync, sync_both};
use crate::clock::Timestamp;
use crate::fleet::claim::{
    Claim, HostClaim, KeyClaim, PlacementClaim, ProviderClaim, Signed, SlotClaim, StatusClaim,
    SuccessorClaim,
};
use crate::fleet::status::KeyStatus;
use crate::fleet::{Fact, FactId, Kind};
use crate::ids::HostUuid;
use crate::key::wrap::{Generation, WrappedDek};

#[test]
fn a_hostile_store_adds_nothing_and_retires_nothing() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    let row = one.rows(guest(1)).remove(0);
    let wrapped = row.key_ref.wrapped_dek.unwrap();
    let host = HostUuid::random();
    let status = |signer: [u8; 32], named: [u8; 32]| {
        let says = StatusClaim {
            key: FactId::of_key(guest(1), &wrapped),
            domain: guest(1),
            revision: 99,
            status: KeyStatus::Retired,
            host,
        };
        let fact = Claim::Status(Signed::new(says, &kek(&signer))).write(host, NOW);
        Fact {
            key_id: Some(kek(&named).key_id()),
            ..fact
        }
    };
    let placement = PlacementClaim {
        domain: guest(1),
        name: "vm1".to_owned(),
        host,
        host_name: "elsewhere".to_owned(),
        at: NOW.0 + 1,
        running: true,
    };
    let key_of = |kek_bytes: [u8; 32], written_for| {
        let made = WrappedDek::wrap(&kek(&kek_bytes), &dek(b"evil"), guest(9), Generation(9));
        KeyClaim::new(written_for, made.unwrap(), "nkp-a", Some(1)).unwrap()
    };
    two.add_provider("nkp-b", B);
    shared.lies = vec![
        // Signed with a key of the forger's, or with another tenant's that this host holds.
        status([9; 32], A),
        status([9; 32], [9; 32]),
        status(B, B),
        status(B, A),
        Claim::Placement(Signed::new(placement.clone(), &kek(&B))).write(host, NOW),
        Claim::Placement(Signed::new(placement, &kek(&[9; 32]))).write(host, NOW),
        // A key of another guest, one that nobody can open, and one that is not what its id says.
        Claim::Key(key_of(A, guest(1))).write(host, NOW),
        Claim::Key(key_of([9; 32], guest(1))).write(host, NOW),
        Fact {
            id: FactId([0; 32]),
            ..Claim::Key(key_of(A, guest(9))).write(host, NOW)
        },
        Fact {
            body: "{".repeat(1000),
            ..status(A, A)
        },
    ];
    let done = two.sync(&mut shared, true, NOW).unwrap();
    assert!(done.rejected > 0);
    assert_eq!((done.added, done.changed), (0, 0));
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
    assert_eq!(two.rows(guest(1)).len(), 1);
    assert_eq!(two.rows(guest(9)), []);
    assert_eq!(two.store.placements(guest(1)).unwrap(), []);
    // It can withhold: then nothing changes either.
    shared.facts.clear();
    shared.lies.clear();
    two.sync(&mut shared, false, NOW).unwrap();
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
}

#[test]
fn whatever_junk_there_is_what_a_provider_key_has_signed_is_heard() {
    let (mut one, mut two, mut shared) = pair();
    let host = HostUuid::random();
    // More than is kept of a kind.
    for number in 0..10_050 {
        let says = ProviderClaim {
            name: format!("junk {number}"),
            key_id: kek(&[9; 32]).key_id(),
            key_version: 1,
        };
        let junk = Claim::Provider(Signed::new(says, &kek(&[9; 32]))).write(host, NOW);
        shared.facts.insert(junk.id, (0, junk));
    }
    sync(&mut two, &mut shared);
    let known = |host: &Host, kind| host.store.count_facts(kind).unwrap();
    assert_eq!(known(&two, Kind::Provider), 10_000);
    let says = SuccessorClaim {
        name: "nkp-a".to_owned(),
        old: kek(&A).key_id(),
        new: kek(&B).key_id(),
        key_version: 2,
        finished: false,
    };
    let successor = Claim::Successor(Signed::new(says.clone(), &kek(&A))).write(host, NOW);
    let name = ProviderClaim {
        name: "nkp-a, too".to_owned(),
        key_id: kek(&A).key_id(),
        key_version: 1,
    };
    let name = Claim::Provider(Signed::new(name, &kek(&A))).write(host, NOW);
    for fact in [successor, name] {
        shared.facts.insert(fact.id, (9, fact));
    }
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    assert_eq!(known(&two, Kind::Successor), 1);
    assert_eq!(known(&two, Kind::Provider), 10_001);
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
}

#[test]
fn a_guest_that_has_too_many_keys_here_gets_none_of_other_hosts() {
    let (mut one, mut two, mut shared) = pair();
    for number in 0..64 {
        two.make_key(guest(1), "nkp-a", &[number; 16], NOW);
    }
    for number in 0..63 {
        two.make_key(guest(2), "nkp-a", &[number; 16], NOW);
    }
    for number in [1, 2] {
        one.make_key(guest(number), "nkp-a", b"of another host", NOW);
    }
    sync_both(&mut one, &mut two, &mut shared);
    assert_eq!(two.with_dek(guest(1), b"of another host"), []);
    assert_eq!(two.rows(guest(1)).len(), 64);
    assert_eq!(two.with_dek(guest(2), b"of another host").len(), 1);
}

#[test]
fn what_others_say_in_this_hosts_name_is_not_said_again_once_it_was_removed() {
    let (mut one, mut two, mut shared) = pair();
    let host = one.store.membership().unwrap().unwrap().host;
    sync_both(&mut one, &mut two, &mut shared);
    let nobody = |left| Claim::Host(HostClaim::new(HostUuid::random(), "nobody", NOW, left));
    let name = |name: &str| {
        let says = ProviderClaim {
            name: name.to_owned(),
            key_id: kek(&[9; 32]).key_id(),
            key_version: 1,
        };
        Claim::Provider(Signed::new(says, &kek(&[9; 32])))
    };
    let slot = Claim::Slot(SlotClaim {
        key_id: kek(&[9; 32]).key_id(),
        kind: "transit".to_owned(),
        label: None,
        kms: "vault".to_owned(),
        remote_key: "junk".to_owned(),
        remote_version: None,
        blob: vec![1],
    });
    let lies = [
        nobody(false),
        nobody(true),
        slot,
        name("junk"),
        name("nkp-a"),
    ];
    let mut lies = lies.map(|claim| claim.write(host, NOW));
    // As if a key had signed it that is here.
    lies[4].key_id = Some(kek(&A).key_id());
    for lie in &lies {
        shared.facts.insert(lie.id, (100, lie.clone()));
    }
    for host in [&mut one, &mut two] {
        host.sync(&mut shared, true, NOW).unwrap();
    }
    for lie in &lies {
        assert!(one.store.knows_fact(lie.id).unwrap(), "{}", lie.body);
        shared.facts.remove(&lie.id);
    }
    for host in [&mut one, &mut two] {
        assert_eq!(host.sync(&mut shared, true, NOW).unwrap().pushed, 0);
    }
    assert!(lies.iter().all(|lie| !shared.facts.contains_key(&lie.id)));
}

#[test]
fn who_has_the_key_of_one_guest_cannot_say_where_another_one_is() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    let host = HostUuid::random();
    let says = PlacementClaim {
        domain: guest(2),
        name: "vm2".to_owned(),
        host,
        host_name: "elsewhere".to_owned(),
        at: NOW.0,
        running: true,
    };
    let lie = Claim::Placement(Signed::new(says, &kek(&A))).write(host, NOW);
    shared.facts.insert(lie.id, (100, lie));
    two.tpms.defined.insert(guest(2));
    assert_eq!(sync(&mut two, &mut shared).rejected, 1);
    assert_eq!(two.store.placements(guest(2)).unwrap(), []);
}

/// Nothing that the host says later would count.
#[test]
fn no_host_is_gone_by_a_word_of_the_future() {
    let (mut one, _, mut shared) = pair();
    let host = HostUuid::random();
    let far = Timestamp(NOW.0 + 2 * 24 * 60 * 60 * 1000);
    let says = |at, left| Claim::Host(HostClaim::new(host, "two", at, left)).write(host, NOW);
    let (word, lie) = (says(NOW, false), says(far, true));
    for fact in [&word, &lie] {
        shared.facts.insert(fact.id, (100, fact.clone()));
    }
    assert!(sync(&mut one, &mut shared).rejected > 0);
    assert!(one.store.knows_fact(word.id).unwrap() && !one.store.knows_fact(lie.id).unwrap());
    let known = hosts(&one.store).unwrap();
    assert_eq!(known.get(&host).map(String::as_str), Some("two"));
}

#[test]
fn a_clock_may_be_a_day_ahead() {
    let day = 24 * 60 * 60 * 1000;
    assert!(!is_of_the_future(NOW.0 + day, NOW));
    assert!(is_of_the_future(NOW.0 + day + 1, NOW));
}
