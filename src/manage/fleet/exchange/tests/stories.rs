//! What becomes of keys between two or three hosts, one story each.

use super::super::{Exchanged, is_of_the_future};
use super::host::{Host, dek, guest, kek};
use super::shared::Memory;
use crate::clock::Timestamp;
use crate::domain::TpmVersion;
use crate::fleet::claim::{
    Claim, EventClaim, HostClaim, KeyClaim, PlacementClaim, ProviderClaim, Signed, SlotClaim,
    StatusClaim, SuccessorClaim,
};
use crate::fleet::status::KeyStatus;
use crate::fleet::tpm_state::{SignedState, StateNote};
use crate::fleet::{Fact, FactId, Kind};
use crate::ids::{DomainUuid, HostUuid};
use crate::key::kek::Kek;
use crate::key::wrap::{Generation, WrappedDek};
use crate::store::{Event, KnownFact, Merge, Origin, Prune, QueuedState, previous_key_name};
use crate::swtpm::Backend;

const A: [u8; 32] = [1; 32];
const B: [u8; 32] = [2; 32];
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn pair() -> (Host, Host, Memory) {
    let host = |name| Host::new(name, &[("nkp-a", A)]);
    (host("one"), host("two"), Memory::default())
}

fn sync(host: &mut Host, shared: &mut Memory) -> Exchanged {
    host.sync(shared, false, NOW).unwrap()
}

/// As `key prune` does.
fn prune(host: &mut Host, guest: DomainUuid) {
    let seen = host.rows(guest);
    let event = Event::new(NOW, Origin::Prune, guest, "vm1", "pruned");
    let prune = Prune {
        domain: guest,
        seen: &seen,
        event: &event,
    };
    host.store.prune(&[prune]).unwrap();
}

#[test]
fn a_key_of_one_host_is_a_candidate_on_another_one_that_holds_the_kek() {
    let (mut one, mut two, mut shared) = pair();
    let mut stranger = Host::new("three", &[("nkp-b", B)]);
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    for host in [&mut one, &mut two, &mut stranger] {
        sync(host, &mut shared);
    }
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
    assert_eq!(two.rows(guest(1)).len(), 1);
    assert_eq!(two.rows(guest(1))[0].key_ref.provider_name, "nkp-a");
    assert_eq!(stranger.rows(guest(1)), []);
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    // Nothing is left to say, and nothing is learnt twice.
    for host in [&mut one, &mut two] {
        let again = sync(host, &mut shared);
        assert_eq!((again.pushed, again.pulled, again.added), (0, 0, 0));
    }
    // Once the KEK is there, so is what was said before.
    stranger.add_provider("nkp-a", A);
    assert_eq!(sync(&mut stranger, &mut shared).added, 1);
    assert_eq!(stranger.candidates(guest(1), b"first").len(), 1);
}

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

#[test]
fn a_renewed_key_replaces_the_old_one_everywhere_but_where_the_state_needs_that() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    one.make_key(guest(1), "nkp-a", b"second", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    assert_eq!(two.candidates(guest(1), b"first"), []);
    assert_eq!(two.with_dek(guest(1), b"first").len(), 1, "it is kept");
    assert_eq!(two.candidates(guest(1), b"second").len(), 1);

    // Host two has a state under the key that host one retires: both go on.
    two.tpms.defined.insert(guest(1));
    two.tpms.states.insert(guest(1), b"second".to_vec());
    one.make_key(guest(1), "nkp-a", b"third", NOW);
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    sync(&mut one, &mut shared);
    assert_eq!(two.candidates(guest(1), b"second").len(), 1);
    assert_eq!(two.candidates(guest(1), b"third").len(), 1);
    assert_eq!(
        one.candidates(guest(1), b"second").len(),
        1,
        "it was told so"
    );
}

#[test]
fn a_state_that_the_guest_has_left_behind_keeps_no_key() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    two.tpms.defined.insert(guest(1));
    two.tpms.states.insert(guest(1), b"first".to_vec());
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    one.store
        .note_placement(guest(1), "vm1", true, NOW)
        .unwrap();
    one.make_key(guest(1), "nkp-a", b"second", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    assert_eq!(two.candidates(guest(1), b"first"), []);
    assert_eq!(two.candidates(guest(1), b"second").len(), 1);
    let placements = two.store.placements(guest(1)).unwrap();
    assert_eq!(placements[0].placement.host_name, "one");
}

#[test]
fn a_tpm_state_goes_with_the_words_that_its_host_has_signed() {
    let (mut one, _, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    let queue = |one: &mut Host, number: u8, data: &[u8]| {
        let note = StateNote {
            name: "vm1".to_owned(),
            tpm_version: TpmVersion::V2_0,
            backend: Backend::Directory,
        };
        let queued = QueuedState {
            domain: guest(number),
            at: NOW,
            body: note.to_json(),
            data: data.to_vec(),
        };
        one.store.queue_state(&queued).unwrap();
    };
    queue(&mut one, 1, b"old");
    queue(&mut one, 1, b"new");
    // Nobody would believe what is said of this one: the guest has no key here.
    queue(&mut one, 2, b"other");
    assert_eq!(sync(&mut one, &mut shared).states, 1);
    let [state] = &shared.states[..] else {
        panic!("{:?}", shared.states)
    };
    assert_eq!(state.data.as_deref(), Some(&b"new"[..]));
    let signed = SignedState::read(&state.info, guest(1)).unwrap();
    let claim = signed.check(&kek(&A)).unwrap();
    assert_eq!((claim.at, claim.host_name.as_str()), (NOW.0, "one"));
    assert_eq!(signed.check(&kek(&B)), None);
    assert_eq!(sync(&mut one, &mut shared).states, 0);
    assert_eq!(one.store.queued_states(9).unwrap().len(), 1, "it waits");
}

#[test]
fn a_guest_that_one_host_prunes_keeps_its_key_on_the_host_that_defines_it() {
    let (mut one, mut two, mut shared) = pair();
    let mut three = Host::new("three", &[("nkp-a", A)]);
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    one.tpms.defined.insert(guest(1));
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    prune(&mut two, guest(1));
    sync(&mut two, &mut shared);
    for host in [&mut one, &mut three, &mut two] {
        sync(host, &mut shared);
    }
    for host in [&one, &two, &three] {
        assert_eq!(host.candidates(guest(1), b"first").len(), 1);
    }
    // Where nobody defines it, nobody learns it any more; who has it keeps it.
    one.tpms.defined.clear();
    prune(&mut two, guest(1));
    let mut four = Host::new("four", &[("nkp-a", A)]);
    for host in [&mut two, &mut one, &mut four] {
        sync(host, &mut shared);
    }
    assert_eq!(two.rows(guest(1)), []);
    assert_eq!(four.rows(guest(1)), []);
    assert_eq!(one.candidates(guest(1), b"first").len(), 1);
}

#[test]
fn a_guest_that_is_pruned_where_its_key_has_another_form_keeps_its_key() {
    for pushes_before_it_is_cut_off in [0, 1, 2, 9] {
        let (mut one, mut two, mut shared) = pair();
        one.make_key(guest(1), "nkp-a", b"first", NOW);
        one.tpms.defined.insert(guest(1));
        sync(&mut one, &mut shared);
        sync(&mut two, &mut shared);
        // Each wraps the key again before it hears of the other.
        one.rotate("nkp-a", B, NOW);
        two.rotate("nkp-a", B, NOW);
        sync(&mut one, &mut shared);
        sync(&mut two, &mut shared);
        sync(&mut one, &mut shared);
        let forms = [&one, &two].map(|host| host.rows(guest(1)));
        assert_ne!(
            forms[0][0].key_ref.wrapped_dek,
            forms[1][0].key_ref.wrapped_dek
        );
        prune(&mut two, guest(1));
        shared.fails_after = Some(pushes_before_it_is_cut_off);
        let _cut_off = two.sync(&mut shared, false, NOW);
        shared.fails_after = None;
        for _ in 0..2 {
            sync(&mut one, &mut shared);
            sync(&mut two, &mut shared);
        }
        for host in [&one, &two] {
            assert_eq!(host.candidates(guest(1), b"first").len(), 1);
        }
    }
}

#[test]
fn rows_follow_a_rotation_without_a_second_row() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    one.rotate("nkp-a", B, NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    // Without the new key it goes on with what it has.
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
    two.rotate("nkp-a", B, NOW);
    sync(&mut two, &mut shared);
    sync(&mut one, &mut shared);
    for host in [&one, &two] {
        let rows = host.rows(guest(1));
        assert_eq!(rows.len(), 1);
        let wrapped = rows[0].key_ref.wrapped_dek.as_ref().unwrap();
        assert_eq!(wrapped.key_id().unwrap(), kek(&B).key_id());
        assert_eq!(rows[0].retired_at, None);
    }
}

#[test]
fn rows_follow_a_rotation_that_was_heard_of_before_the_provider_has_the_next_key() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    // It opens the next key, and hears of the keys under it; only then is it told that it follows.
    let next = previous_key_name("nkp-a", kek(&B).key_id());
    two.add_provider(&next, B);
    one.rotate("nkp-a", B, NOW);
    sync(&mut one, &mut shared);
    sync(&mut two, &mut shared);
    let (provider, next) = (two.provider("nkp-a"), two.provider(&next));
    two.store.promote_key(&provider, &next, 2, NOW).unwrap();
    assert_eq!(sync(&mut two, &mut shared).changed, 1);
    let rows = two.rows(guest(1));
    let wrapped = rows[0].key_ref.wrapped_dek.as_ref().unwrap();
    assert_eq!(wrapped.key_id().unwrap(), kek(&B).key_id());
    assert_eq!((rows.len(), rows[0].retired_at), (1, None));
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

/// The provider keys of a host stop opening, as those of a key manager that is away.
fn close(host: &mut Host) -> Vec<[u8; 32]> {
    std::mem::take(&mut host.keks)
}

#[test]
fn a_provider_key_that_does_not_open_judges_nothing_and_all_comes_when_it_does() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    // Of a guest that is defined here facts come whether a key opens or not.
    two.tpms.defined.insert(guest(1));
    let keks = close(&mut two);
    assert_eq!(sync(&mut two, &mut shared).rejected, 0);
    assert_eq!(two.rows(guest(1)), []);

    two.keks = keks;
    assert_eq!(sync(&mut two, &mut shared).added, 1);
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
}

#[test]
fn a_row_that_an_exchange_left_to_the_next_one_waits_for_its_provider_key() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync(&mut one, &mut shared);
    // It ended after the facts were kept, and before the row.
    let fact = one.store.facts_of_kind(&[Kind::Key]).unwrap().remove(0);
    let (claim, id) = (Claim::read(&fact).unwrap(), fact.id);
    let merge = Merge {
        facts: vec![KnownFact { fact, claim }],
        pending: vec![id],
        ..Merge::default()
    };
    two.store.merge(&merge, NOW).unwrap();

    let keks = close(&mut two);
    sync(&mut two, &mut shared);
    assert_eq!(two.rows(guest(1)), []);
    two.keks = keks;
    assert_eq!(sync(&mut two, &mut shared).added, 1);
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
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
fn a_key_that_cannot_be_signed_waits_while_its_provider_is_here() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    let row = one.rows(guest(1)).remove(0);
    one.store.retire(row.key_ref.id, NOW).unwrap();
    let held = std::mem::take(&mut one.keks);
    sync(&mut one, &mut shared);
    assert_eq!(one.store.outbox_len().unwrap(), 1);
    // It opens again.
    one.keks = held;
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    assert_eq!(one.store.outbox_len().unwrap(), 0);
    assert_eq!(two.candidates(guest(1), b"first"), []);
    // Without the provider nobody will ever sign it.
    one.make_key(guest(2), "nkp-a", b"second", NOW);
    sync(&mut one, &mut shared);
    let row = one.rows(guest(2)).remove(0);
    one.store.retire(row.key_ref.id, NOW).unwrap();
    one.store
        .note_placement(guest(2), "vm2", true, NOW)
        .unwrap();
    one.keks.clear();
    let provider = one.provider("nkp-a");
    one.store.delete_provider(provider.uuid).unwrap();
    sync(&mut one, &mut shared);
    assert_eq!(one.store.outbox_len().unwrap(), 0);
}

#[test]
fn while_libvirt_is_silent_a_key_that_another_host_retires_stays() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    let row = one.rows(guest(1)).remove(0);
    one.store.retire(row.key_ref.id, NOW).unwrap();
    sync(&mut one, &mut shared);
    two.tpms.are_unknown = true;
    sync(&mut two, &mut shared);
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
    // It answers again, and no state here needs the key.
    two.tpms.are_unknown = false;
    sync(&mut two, &mut shared);
    assert_eq!(two.candidates(guest(1), b"first"), []);
    assert_eq!(two.rows(guest(1)).len(), 1);
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
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    assert_eq!(two.with_dek(guest(1), b"of another host"), []);
    assert_eq!(two.rows(guest(1)).len(), 64);
    assert_eq!(two.with_dek(guest(2), b"of another host").len(), 1);
}

#[test]
fn a_key_that_another_tool_has_retired_here_stays_retired_where_nobody_has_said_more_of_it() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    let wrapped = one.rows(guest(1)).remove(0).key_ref.wrapped_dek.unwrap();
    sync(&mut two, &mut shared);
    let other = rusqlite::Connection::open(two.dir.path().join("store.db")).unwrap();
    let sql = "INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek, retired_at)
               VALUES (?1, 'nkp-a', ?2, 1)";
    let row = rusqlite::params![guest(1).to_string(), wrapped.as_bytes()];
    other.execute(sql, row).unwrap();
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    assert_eq!(two.rows(guest(1)).len(), 1);
    assert_eq!(two.candidates(guest(1), b"first"), []);
}

#[test]
fn what_others_say_in_this_hosts_name_is_not_kept() {
    let (mut one, mut two, mut shared) = pair();
    let host = one.store.membership().unwrap().unwrap().host;
    let lie = Claim::Host(HostClaim::new(HostUuid::random(), "nobody", NOW, false));
    let lie = lie.write(host, NOW);
    shared.facts.insert(lie.id, (0, lie));
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    let known = |host: &Host| host.store.count_facts(Kind::Host).unwrap();
    assert_eq!((known(&one), known(&two)), (0, 1));
}

#[test]
fn the_last_form_of_a_key_that_counts_is_missed_when_it_is_pruned_elsewhere() {
    let (mut one, mut two, mut shared) = pair();
    two.make_key(guest(1), "nkp-a", b"first", NOW);
    two.tpms.defined.insert(guest(1));
    let own = two.rows(guest(1)).remove(0).key_ref.wrapped_dek.unwrap();
    // The same key, wrapped once more on another host.
    let other = WrappedDek::wrap(&kek(&A), &dek(b"first"), guest(1), Generation(0)).unwrap();
    let said = KeyClaim::new(guest(1), other.clone(), "nkp-a", Some(1)).unwrap();
    let host = HostUuid::random();
    let tell = |shared: &mut Memory, claim: &Claim, at: u64| {
        let fact = claim.write(host, NOW);
        shared.facts.insert(fact.id, (at, fact));
    };
    tell(&mut shared, &Claim::Key(said), 0);
    let pruned = |wrapped: &WrappedDek| {
        let says = StatusClaim {
            key: FactId::of_key(guest(1), wrapped),
            domain: guest(1),
            revision: 5,
            status: KeyStatus::Pruned,
            host,
        };
        Claim::Status(Signed::new(says, &kek(&A)))
    };
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    let status = |host: &Host| {
        let stated = host.store.stated_key(FactId::of_key(guest(1), &own));
        stated.unwrap().stated.status
    };
    tell(&mut shared, &pruned(&own), 100);
    sync(&mut two, &mut shared);
    assert_eq!(status(&two), KeyStatus::Pruned, "the other form counts");
    tell(&mut shared, &pruned(&other), 101);
    sync(&mut two, &mut shared);
    assert_eq!(status(&two), KeyStatus::Live);
}

#[test]
fn where_a_guest_is_waits_until_it_can_be_signed() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    one.store
        .note_placement(guest(1), "vm1", true, NOW)
        .unwrap();
    let held = std::mem::take(&mut one.keks);
    sync(&mut one, &mut shared);
    assert_eq!(one.store.outbox_len().unwrap(), 1);
    one.keks = held;
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    assert!(two.store.placements(guest(1)).unwrap()[0].placement.running);
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
}

#[test]
fn an_exchange_of_hosts_that_have_nothing_to_say_is_a_few_questions() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
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

#[test]
fn each_host_heals_a_store_of_its_own_words_and_of_those_that_a_key_of_it_vouches_for() {
    let (_, mut two, _) = pair();
    let host = two.store.membership().unwrap().unwrap().host;
    let other = HostUuid::random();
    let unknown = kek(&[9; 32]);
    let says_host = |name: &str| Claim::Host(HostClaim::new(HostUuid::random(), name, NOW, false));
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
        (says_host("own"), host, true),
        (says_host("another"), other, false),
        (slot(unknown.key_id(), "own"), host, true),
        (slot(kek(&A).key_id(), "of a key that is here"), other, true),
        (slot(unknown.key_id(), "junk"), other, false),
        (successor(&kek(&A)), other, true),
        (successor(&unknown), other, false),
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

#[test]
fn keys_that_concern_a_host_no_more_are_not_told_again() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    for host in [&mut one, &mut two] {
        sync(host, &mut shared);
    }
    let provider = two.provider("nkp-a");
    two.store.delete_provider(provider.uuid).unwrap();
    two.keks.clear();
    sync(&mut two, &mut shared);
    let compared = two.sync(&mut shared, true, NOW).unwrap();
    assert_eq!((compared.compared, compared.pushed), (true, 0));
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

#[test]
fn of_two_forms_of_a_key_under_one_provider_key_the_newer_one_is_taken() {
    let forms = |generation: u32, by: [u8; 32]| {
        let (_, mut two, mut shared) = pair();
        two.add_provider("nkp-b", B);
        for _ in 0..2 {
            two.make_key(guest(1), "nkp-a", b"before", NOW);
        }
        two.make_key(guest(1), "nkp-a", b"first", NOW);
        let own = two.candidates(guest(1), b"first");
        let before = two.with_dek(guest(1), b"first").remove(0);
        let before = before.key_ref.wrapped_dek.unwrap();
        assert_eq!(before.generation().unwrap(), Generation(2));
        let generation = Generation(generation);
        let form = WrappedDek::wrap(&kek(&by), &dek(b"first"), guest(1), generation).unwrap();
        let key = KeyClaim::new(guest(1), form.clone(), "nkp-a", Some(1)).unwrap();
        let fact = Claim::Key(key).write(HostUuid::random(), NOW);
        shared.facts.insert(fact.id, (0, fact));
        sync(&mut two, &mut shared);
        let rows = two.with_dek(guest(1), b"first");
        assert_eq!((rows.len(), rows[0].key_ref.id), (1, own[0]));
        rows[0].key_ref.wrapped_dek.as_ref() == Some(&form)
    };
    assert!(forms(3, A), "it was chosen again");
    for (generation, by) in [(2, A), (1, A), (3, B)] {
        assert!(!forms(generation, by), "{generation}");
    }
}

#[test]
fn a_clock_may_be_a_day_ahead() {
    let day = 24 * 60 * 60 * 1000;
    assert!(!is_of_the_future(NOW.0 + day, NOW));
    assert!(is_of_the_future(NOW.0 + day + 1, NOW));
}
