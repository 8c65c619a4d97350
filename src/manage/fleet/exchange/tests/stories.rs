//! What becomes of keys between two or three hosts, one story each.

use super::super::push::STATES_AT_ONCE;
use super::host::{Host, dek, guest, kek, one_of_many};
use super::pair::{A, B, NOW, pair, sync, sync_both};
use super::shared::Memory;
use crate::clock::Timestamp;
use crate::domain::TpmVersion;
use crate::fleet::claim::{Claim, KeyClaim, Signed, StatusClaim};
use crate::fleet::status::KeyStatus;
use crate::fleet::tpm_state::{SignedState, StateNote};
use crate::fleet::{FactId, Kind};
use crate::ids::{DomainUuid, HostUuid};
use crate::key::wrap::{Generation, WrappedDek};
use crate::store::{Event, KnownFact, Merge, Origin, Prune, QueuedState, previous_key_name};
use crate::swtpm::Backend;

/// As `key prune` does.
fn prune(host: &mut Host, guest: DomainUuid) {
    let seen = host.rows(guest);
    let event = Event::new(NOW, Origin::Prune, guest, "vm1", "pruned");
    let prune = Prune {
        domain: guest,
        seen: &seen,
        event: &event,
    };
    host.store.prune(&[prune], i64::MAX).unwrap();
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
    sync_both(&mut one, &mut two, &mut shared);
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
    sync_both(&mut one, &mut two, &mut shared);
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

fn queue(host: &mut Host, domain: DomainUuid, at: Timestamp, data: &[u8]) {
    let note = StateNote {
        name: "vm1".to_owned(),
        tpm_version: TpmVersion::V2_0,
        backend: Backend::Directory,
    };
    let queued = QueuedState {
        domain,
        at,
        body: note.to_json(),
        data: data.to_vec(),
    };
    host.store.queue_state(&queued).unwrap();
}

#[test]
fn states_that_nobody_here_can_sign_keep_no_other_one_waiting() {
    let (mut one, _, mut shared) = pair();
    for number in 0..=STATES_AT_ONCE {
        queue(&mut one, one_of_many(number), NOW, b"strange");
    }
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    queue(&mut one, guest(1), Timestamp(NOW.0 + 1), b"new");
    assert_eq!(sync(&mut one, &mut shared).states, 1);
    assert_eq!(shared.states[0].data.as_deref(), Some(&b"new"[..]));
    let waiting = one.store.queued_states().unwrap().len();
    assert_eq!(waiting, STATES_AT_ONCE + 1);
}

#[test]
fn one_exchange_sends_the_states_of_several_guests() {
    let (mut one, _, mut shared) = pair();
    for number in 0..5 {
        one.make_key(guest(number), "nkp-a", b"first", NOW);
        queue(&mut one, guest(number), NOW, b"state");
    }
    assert_eq!(sync(&mut one, &mut shared).states, 5);
    assert_eq!(one.store.queued_states().unwrap(), []);
}

#[test]
fn a_tpm_state_goes_with_the_words_that_its_host_has_signed() {
    let (mut one, _, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    queue(&mut one, guest(1), NOW, b"old");
    queue(&mut one, guest(1), NOW, b"new");
    // Nobody would believe what is said of this one: the guest has no key here.
    queue(&mut one, guest(2), NOW, b"other");
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
    assert_eq!(one.store.queued_states().unwrap().len(), 1, "it waits");
}

#[test]
fn of_a_guest_that_is_pruned_no_tpm_state_waits() {
    let (mut one, _, _) = pair();
    for number in [1, 2] {
        one.make_key(guest(number), "nkp-a", b"first", NOW);
        queue(&mut one, guest(number), NOW, b"state");
    }
    prune(&mut one, guest(1));
    assert_eq!(one.store.queued_states().unwrap(), [guest(2)]);
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
fn a_key_that_cannot_be_signed_waits_while_its_provider_is_here() {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync_both(&mut one, &mut two, &mut shared);
    let row = one.rows(guest(1)).remove(0);
    one.store.retire(row.key_ref.id, NOW).unwrap();
    let held = std::mem::take(&mut one.keks);
    sync(&mut one, &mut shared);
    assert_eq!(one.store.outbox_len().unwrap(), 1);
    // It opens again.
    one.keks = held;
    sync_both(&mut one, &mut two, &mut shared);
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
    one.store.delete_whoever_needs_it(provider.uuid).unwrap();
    sync(&mut one, &mut shared);
    assert_eq!(one.store.outbox_len().unwrap(), 0);
}

/// Another host has retired the key of a guest that both know.
fn retired_elsewhere() -> (Host, Memory) {
    let (mut one, mut two, mut shared) = pair();
    one.make_key(guest(1), "nkp-a", b"first", NOW);
    sync_both(&mut one, &mut two, &mut shared);
    let row = one.rows(guest(1)).remove(0);
    one.store.retire(row.key_ref.id, NOW).unwrap();
    sync(&mut one, &mut shared);
    (two, shared)
}

#[test]
fn while_libvirt_is_silent_a_key_that_another_host_retires_stays() {
    let (mut two, mut shared) = retired_elsewhere();
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
fn while_a_tpm_state_cannot_be_read_a_key_that_another_host_retires_stays() {
    let (mut two, mut shared) = retired_elsewhere();
    two.tpms.are_unreadable = true;
    sync(&mut two, &mut shared);
    assert_eq!(two.candidates(guest(1), b"first").len(), 1);
    two.tpms.are_unreadable = false;
    sync(&mut two, &mut shared);
    assert_eq!(two.candidates(guest(1), b"first"), []);
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
    sync_both(&mut one, &mut two, &mut shared);
    assert_eq!(two.rows(guest(1)).len(), 1);
    assert_eq!(two.candidates(guest(1), b"first"), []);
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
    sync_both(&mut one, &mut two, &mut shared);
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
    sync_both(&mut one, &mut two, &mut shared);
    one.store
        .note_placement(guest(1), "vm1", true, NOW)
        .unwrap();
    let held = std::mem::take(&mut one.keks);
    sync(&mut one, &mut shared);
    assert_eq!(one.store.outbox_len().unwrap(), 1);
    one.keks = held;
    sync_both(&mut one, &mut two, &mut shared);
    assert!(two.store.placements(guest(1)).unwrap()[0].placement.running);
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
