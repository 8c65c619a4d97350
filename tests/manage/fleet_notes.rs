//! What a run leaves for the fleet: where the guest is, and its TPM state.

use std::fs;

use super::fixture::{Defined, Fixture};
use super::fleet_program::FleetStore;
use super::starts::called;
use crate::clock::Timestamp;
use crate::config::FleetConfig;
use crate::fleet::MAX_STATE;
use crate::fleet::tpm_state::StateNote;
use crate::guard::{Ending, Guard, Mode, Operation, follow_up, prepare};
use crate::host::crash::armed;
use crate::key::dek::Dek;
use crate::manage::host::default_deadline;
use crate::store::{Origin, QueuedState, Subject};

/// A host that is in a fleet, with these lines of `[fleet]`.
fn member(more: &str) -> (Fixture, FleetStore) {
    let fixture = Fixture::new();
    let store = FleetStore::with(&[], &[]);
    store.configure(&fixture, more);
    let now = Timestamp::now();
    fixture.store().join_fleet("host1", now).unwrap();
    (fixture, store)
}

/// A hook of libvirt's after `prepare`, by a guard that was changed so.
fn follow_up_by(
    fixture: &Fixture,
    guest: &Defined,
    operation: Operation,
    change: impl FnOnce(&mut Guard),
) {
    let (mut guard, domain) = (called(fixture), fixture.domain(guest));
    change(&mut guard);
    follow_up(&guard, operation, &domain, default_deadline()).unwrap();
}

/// libvirt's hooks of a start, as far as these operations.
fn call(fixture: &Fixture, guest: &Defined, operations: &[Operation]) {
    for operation in operations {
        if *operation == Operation::Prepare {
            let (guard, domain) = (called(fixture), fixture.domain(guest));
            let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
            let outcome = prepare(&guard, &Ok(domain), origin, mode, default_deadline());
            assert!(outcome.is_allowed(), "{outcome:?}");
        } else {
            follow_up_by(fixture, guest, *operation, |_| ());
        }
    }
}

fn released(ending: Ending) -> [Operation; 2] {
    [Operation::Ended, Operation::Released(ending)]
}

/// Whether it runs here, as this host says.
fn says(fixture: &Fixture, guest: &Defined) -> Option<bool> {
    let placements = fixture.store().placements(guest.uuid).unwrap();
    placements
        .iter()
        .find(|it| it.is_own)
        .map(|it| it.placement.running)
}

fn queued(fixture: &Fixture) -> Vec<QueuedState> {
    let store = fixture.store();
    let guests = store.queued_states().unwrap();
    let state = |guest| store.queued_state(guest).unwrap().unwrap();
    guests.into_iter().map(state).collect()
}

const RUN: [Operation; 2] = [Operation::Prepare, Operation::Started];

#[test]
fn a_run_is_told_from_its_beginning_to_its_end_with_the_state_of_the_tpm() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    assert_eq!(says(&fixture, &guest), Some(true));
    assert_eq!(queued(&fixture), []);
    call(&fixture, &guest, &released(Ending::Ended));
    assert_eq!(says(&fixture, &guest), Some(false));
    let first = queued(&fixture);
    let [state] = &first[..] else {
        panic!("{first:?}")
    };
    assert_eq!(state.data, fs::read(fixture.state_file(&guest)).unwrap());
    assert_eq!(StateNote::from_json(&state.body).unwrap().name, "vm1");
    let stopped = fixture.store().placements(guest.uuid).unwrap();
    assert!(stopped[0].placement.at <= state.at.0 + 1);
    let store = fixture.store();
    let waits = store.outbox(0, 100).unwrap();
    let placed = Subject::Placement(guest.uuid);
    assert!(waits.iter().any(|note| note.subject == placed));
    // Of the next run the newest state waits alone.
    call(&fixture, &guest, &RUN);
    call(&fixture, &guest, &released(Ending::Unknown));
    assert_eq!(queued(&fixture).len(), 1);
}

#[test]
fn a_start_that_fails_or_is_refused_says_nothing() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &[Operation::Prepare]);
    call(&fixture, &guest, &released(Ending::Failed));
    assert_eq!(says(&fixture, &guest), None);
    assert_eq!(queued(&fixture), []);
}

#[test]
fn a_host_that_is_configured_for_no_fleet_any_more_says_nothing_more() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    let ended = Operation::Released(Ending::Ended);
    follow_up_by(&fixture, &guest, ended, |guard| {
        guard.config.fleet.store = None;
    });
    assert_eq!(says(&fixture, &guest), Some(true));
    assert_eq!(queued(&fixture), []);
}

/// The hook under a configuration that nobody can read: the defaults apply.
fn call_broken(fixture: &Fixture, guest: &Defined, operation: Operation) {
    follow_up_by(fixture, guest, operation, |guard| {
        guard.config.fleet = FleetConfig::default();
        guard.config_error = Some("config.toml: line 3".to_owned());
    });
}

/// Or another host would restore the older state that the fleet has, as if this run had never been.
#[test]
fn a_run_under_a_broken_configuration_is_told_once_it_can_be() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call_broken(&fixture, &guest, Operation::Started);
    assert_eq!(says(&fixture, &guest), Some(true));
    let began = Timestamp::now();
    for operation in released(Ending::Ended) {
        call_broken(&fixture, &guest, operation);
    }
    assert_eq!(says(&fixture, &guest), Some(false));
    assert!(
        fixture
            .store()
            .has_own_run_since(guest.uuid, Timestamp(began.0 - 1))
    );
    // Whether states go to the fleet is not known.
    assert_eq!(queued(&fixture), []);
}

/// An older libvirt says so at `stopped` alone.
#[test]
fn that_a_guest_migrated_away_is_known_under_a_broken_configuration() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    let status = fixture.libvirt.dirs().running().join("vm1.xml");
    let job =
        "<domstatus>\n  <job type='none' async='migration out' phase='confirm3'/>\n</domstatus>\n";
    fs::write(&status, job).unwrap();
    call_broken(&fixture, &guest, Operation::Ended);
    fs::remove_file(status).unwrap();
    call(&fixture, &guest, &[Operation::Released(Ending::Unknown)]);
    assert_eq!(says(&fixture, &guest), Some(false));
    assert_eq!(queued(&fixture), []);
}

#[test]
fn a_broken_configuration_makes_no_host_a_member() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    call_broken(&fixture, &guest, Operation::Started);
    for operation in released(Ending::Ended) {
        call_broken(&fixture, &guest, operation);
    }
    assert_eq!(says(&fixture, &guest), None);
}

/// A libvirt that does not tell why a start has ended.
#[test]
fn a_refused_start_is_no_run_that_has_ended_here() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    fixture.lose_key("a");
    let (guard, domain) = (called(&fixture), Ok(fixture.domain(&guest)));
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    assert!(!prepare(&guard, &domain, origin, mode, default_deadline()).is_allowed());
    call(&fixture, &guest, &released(Ending::Unknown));
    assert_eq!(says(&fixture, &guest), Some(true), "as it said before");
    assert_eq!(queued(&fixture), []);
}

#[test]
fn the_state_of_a_guest_that_another_host_uses_is_not_given_to_the_fleet() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    armed::lock_elsewhere(usize::MAX);
    call(&fixture, &guest, &released(Ending::Ended));
    armed::lock_elsewhere(0);
    assert_eq!(says(&fixture, &guest), Some(false));
    assert_eq!(queued(&fixture), []);
}

#[test]
fn a_guest_that_migrates_away_leaves_no_state_for_the_fleet() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    call(&fixture, &guest, &released(Ending::Migrated));
    assert_eq!(says(&fixture, &guest), Some(false));
    assert_eq!(queued(&fixture), []);
}

#[test]
fn states_stay_here_unless_that_is_wanted_and_plain_ones_always() {
    let (fixture, store) = member("");
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    call(&fixture, &guest, &released(Ending::Ended));
    assert_eq!(queued(&fixture), []);
    store.configure(&fixture, "state = \"stopped\"\n");
    call(&fixture, &guest, &RUN);
    fixture.plain_state(&guest);
    call(&fixture, &guest, &released(Ending::Ended));
    assert_eq!(queued(&fixture), []);
    // Longer than the shared store takes.
    let mut long = b"\x02".to_vec();
    long.resize(600 << 10, 0);
    fixture.write_state(&guest, &long);
    call(&fixture, &guest, &[Operation::Started]);
    call(&fixture, &guest, &released(Ending::Ended));
    assert_eq!(queued(&fixture), []);
}

/// The state of a guest that stays in place is as well given as before.
#[test]
fn a_tpm_that_is_for_one_run_is_not_given_to_the_fleet() {
    for (policy, is_transient, given) in
        [("fresh", true, 0), ("keep", true, 1), ("fresh", false, 1)]
    {
        let (fixture, store) = member("");
        let path = fixture.root().join("config.toml");
        let config = fs::read_to_string(&path).unwrap();
        let policy = format!("[policy]\ntransient_state = \"{policy}\"\n");
        fs::write(path, format!("{policy}{config}")).unwrap();
        store.configure(&fixture, "state = \"stopped\"\n");
        let guest = fixture.guest_in_use("vm1");
        let domain = fixture.domain(&guest);
        fixture.libvirt.guests.start("vm1");
        if is_transient {
            fixture.libvirt.guests.undefine("vm1");
        }
        for operation in [Operation::Started, Operation::Released(Ending::Ended)] {
            follow_up(&called(&fixture), operation, &domain, default_deadline()).unwrap();
        }
        assert_eq!(queued(&fixture).len(), given, "{policy} {is_transient}");
    }
}

#[test]
fn a_host_in_no_fleet_and_a_guest_without_a_key_say_nothing() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    call(&fixture, &guest, &RUN);
    call(&fixture, &guest, &released(Ending::Ended));
    assert_eq!(says(&fixture, &guest), None);
    let (fixture, _store) = member("state = \"stopped\"\n");
    let unmanaged = fixture.define("vm2");
    fixture.encrypt_state(&unmanaged, &Dek::generate().unwrap());
    call(&fixture, &unmanaged, &[Operation::Started]);
    call(&fixture, &unmanaged, &released(Ending::Ended));
    assert_eq!(says(&fixture, &unmanaged), None);
    assert_eq!(queued(&fixture), []);
}

/// The state, made longer by a record that swtpm does not know.
fn of_length(state: &[u8], length: usize) -> Vec<u8> {
    let mut longer = state.to_vec();
    longer.extend_from_slice(&99_u16.to_be_bytes());
    let room = length - longer.len() - 4;
    longer.extend_from_slice(&u32::try_from(room).unwrap().to_be_bytes());
    longer.resize(length, 0);
    longer[6..10].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    longer
}

#[test]
fn a_state_is_queued_as_long_as_the_shared_store_takes_it() {
    let (fixture, _store) = member("state = \"stopped\"\n");
    let guest = fixture.guest_in_use("vm1");
    let state = fs::read(fixture.state_file(&guest)).unwrap();
    let run_with = |length| {
        fixture.write_state(&guest, &of_length(&state, length));
        call(&fixture, &guest, &RUN);
        call(&fixture, &guest, &released(Ending::Ended));
        queued(&fixture).iter().map(|it| it.data.len()).max()
    };
    assert_eq!(run_with(MAX_STATE), Some(MAX_STATE));
    fixture.sql("DELETE FROM fleet_state");
    assert_eq!(run_with(MAX_STATE + 1), None);
}
