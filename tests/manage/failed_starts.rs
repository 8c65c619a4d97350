//! What a failed start leaves of a transient guest's TPM state: hard links and a copy, which belong to
//! that start and to no later one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::fixture::{Defined, Fixture};
use super::starts::called;
use crate::guard::{Ending, Guard, Mode, Operation, follow_up, prepare, restore_links};
use crate::host::crash::armed;
use crate::manage::host::default_deadline;
use crate::manage::reset::reset;
use crate::store::Origin;
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyStore, RunRecord};
use crate::verdict::Decision;
use crate::verdict::code::Code;

/// A transient guest that has used its TPM.
fn transient(fixture: &Fixture) -> Defined {
    let guest = fixture.guest_in_use("vm1");
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.undefine("vm1");
    guest
}

/// A start that the guard allows; the guard that did it.
fn start(fixture: &Fixture, guest: &Defined) -> Guard {
    let (guard, domain) = (called(fixture), Ok(fixture.domain(guest)));
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    assert!(prepare(&guard, &domain, origin, mode, default_deadline()).is_allowed());
    guard
}

/// It fails: libvirt's last hook. What the hook would start then.
fn fail(fixture: &Fixture, guest: &Defined, guard: &Guard) -> [std::ffi::OsString; 6] {
    let domain = fixture.domain(guest);
    let ended = Operation::Released(Ending::Failed);
    follow_up(guard, ended, &domain, default_deadline()).unwrap();
    restore_links::arguments(guard, &domain).unwrap()
}

fn directory(fixture: &Fixture, guest: &Defined) -> PathBuf {
    let states = fixture.libvirt.dirs().tpm_states();
    states.join(guest.uuid.to_string())
}

fn links(fixture: &Fixture, guest: &Defined) -> PathBuf {
    let states = fixture.libvirt.dirs().tpm_states();
    states.join(format!(".vtpm-guard.{}", guest.uuid))
}

fn run(fixture: &Fixture, guest: &Defined) -> RunRecord {
    let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
    copies.run().unwrap()
}

#[test]
fn what_was_saved_for_the_next_start_is_none_of_an_earlier_ones() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    let earlier = fail(&fixture, &guest, &first);
    assert!(links(&fixture, &guest).exists());
    fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
    // The next start is faster than the process of the first: it takes the state back itself.
    std::thread::sleep(std::time::Duration::from_millis(2));
    let second = start(&fixture, &guest);
    assert!(fixture.state_file(&guest).exists() && !links(&fixture, &guest).exists());
    let record = run(&fixture, &guest);
    assert_eq!(record.started_at, Some(second.start_time.get().0));
    assert!(record.starting && record.state.is_some());
    // libvirt deletes the state again: that is for the process of the second start.
    fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
    let state_dir = fixture.host.state_dir();
    assert!(restore_links::run(state_dir, &earlier));
    assert_eq!(run(&fixture, &guest), record);
    assert!(!fixture.state_file(&guest).exists());

    let mut own = earlier;
    own[5] = record.started_at.unwrap().to_string().into();
    assert!(restore_links::run(state_dir, &own));
    assert!(fixture.state_file(&guest).exists());
    assert_eq!(run(&fixture, &guest), RunRecord::default());
}

#[test]
fn a_process_that_saw_the_links_leaves_the_record_of_the_next_start() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    let arguments = fail(&fixture, &guest, &first);
    std::thread::sleep(std::time::Duration::from_millis(2));
    let record = std::thread::scope(|scope| {
        let waits = scope.spawn(|| restore_links::run(fixture.host.state_dir(), &arguments));
        std::thread::sleep(std::time::Duration::from_millis(50));
        // libvirt deletes the state; whoever is faster restores it.
        fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
        let second = start(&fixture, &guest);
        assert!(waits.join().unwrap());
        second.start_time.get().0
    });
    assert!(fixture.state_file(&guest).exists());
    let run = run(&fixture, &guest);
    assert_eq!((run.starting, run.started_at), (true, Some(record)));
    let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
    assert!(run.state.is_some() && copies.has_copies().unwrap());
}

#[test]
fn a_reset_sets_aside_what_a_failed_start_has_left() {
    for moved in [false, true] {
        let fixture = Fixture::new();
        let guest = fixture.guest_in_use("vm1");
        // What a start on another host that shares the directory has left, and nobody restored.
        let states = fixture.libvirt.dirs().tpm_states();
        let left = if moved {
            states.join(format!(".vtpm-guard.moved.{}", guest.uuid))
        } else {
            links(&fixture, &guest)
        };
        fs::rename(directory(&fixture, &guest), &left).unwrap();
        if moved {
            fs::create_dir(directory(&fixture, &guest)).unwrap();
        }
        let done = reset(&fixture.host, "vm1").unwrap();
        assert_eq!((done.changed, done.copies_set_aside), (true, 1), "{moved}");
        assert!(!left.exists() && !fixture.state_file(&guest).exists());
        let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
        let (copies, _) = copies.copies().unwrap();
        assert!(matches!(copies[0].state(), StateFile::Encrypted(_)));
        assert!(!copies[0].is_available());
        // The next start makes a new TPM.
        start(&fixture, &guest);
        assert!(!fixture.state_file(&guest).exists());
        assert!(!fixture.state_file(&guest).parent().unwrap().exists());
    }
}

#[test]
fn a_reset_beside_a_state_leaves_young_links_to_whoever_waits_for_its_deletion() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    fail(&fixture, &guest, &first);
    fixture.libvirt.guests.stop("vm1");
    reset(&fixture.host, &guest.uuid.to_string()).unwrap();
    assert!(links(&fixture, &guest).exists());
    assert!(directory(&fixture, &guest).exists());
}

/// On NFS: the directory is back, and its rename is said to have failed.
#[test]
fn a_state_that_is_back_although_its_rename_was_denied_is_judged_as_it_is() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    // Of a start on another host that shares the directory.
    fs::rename(directory(&fixture, &guest), links(&fixture, &guest)).unwrap();
    armed::lose_answer_of_rename();
    start(&fixture, &guest);
    assert!(fixture.state_file(&guest).exists());
}

/// What it was is unknown: nothing is lost, and no start sets the TPM back by itself.
#[test]
fn a_run_whose_record_cannot_be_read_counts_as_one_that_nobody_knows() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
    let spoil = || fs::write(copies.path().join("run.json"), "{}").unwrap();
    fixture.save_copy(&guest);
    spoil();
    let listed = fixture.host.copies_of(guest.uuid).unwrap();
    assert!(listed.judged[0].outdated);
    assert_eq!(listed.unreadable.len(), 1, "it is said");

    // libvirt deletes the state when it stops: it is saved, for an administrator.
    let domain = fixture.domain(&guest);
    let ended = Operation::Released(Ending::Unknown);
    follow_up(&called(&fixture), ended, &domain, default_deadline()).unwrap();
    assert!(run(&fixture, &guest).outdated);
    fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
    spoil();
    let (guard, judged) = (called(&fixture), Ok(domain));
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    let outcome = prepare(&guard, &judged, origin, mode, default_deadline());
    let Decision::Deny(why) = outcome.verdict.decision() else {
        panic!("{:?}", outcome.verdict)
    };
    assert_eq!(why.code(), Code::TpmStateMissing);
    assert!(run(&fixture, &guest).outdated, "nor does the next start");
    assert!(copies.has_copies().unwrap());
}

/// On a bad disk, or without descriptors: what is written beside it would be all that is known afterwards.
#[test]
fn a_record_that_cannot_be_read_at_one_start_is_there_at_the_next_one() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
    fixture.save_copy(&guest);
    let record = RunRecord {
        ended_normally: true,
        ..RunRecord::default()
    };
    copies.write_run(record.clone()).unwrap();
    fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
    let path = copies.path().join("run.json");
    let may_be_of_anybody = |mode| fs::set_permissions(&path, Permissions::from_mode(mode));
    let start = || {
        let (guard, judged) = (called(&fixture), Ok(fixture.domain(&guest)));
        let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
        prepare(&guard, &judged, origin, mode, default_deadline())
    };

    may_be_of_anybody(0o666).unwrap();
    assert!(!start().is_allowed(), "who knows what it would restore");
    may_be_of_anybody(0o600).unwrap();
    assert_eq!(copies.run().unwrap(), record);
    assert!(start().is_allowed());
    assert!(fixture.state_file(&guest).exists());
}
