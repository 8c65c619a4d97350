//! What a failed start leaves of a transient guest's TPM state: hard links and a copy, which belong to
//! that start and to no later one.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::fixture::{Defined, Fixture};
use super::starts::called;
use crate::guard::{Ending, Guard, Mode, Operation, follow_up, prepare, restore_links};
use crate::host::crash::armed;
use crate::ids::{DomainUuid, SecretUuid};
use crate::keyring::unlock::Unlocker;
use crate::manage::encrypt::encrypt;
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

/// What the guest has changed of its TPM, under its key. The new state.
fn write_newer_state(fixture: &Fixture, guest: &Defined) -> Vec<u8> {
    let rows = fixture.rows(guest).into_iter().map(|row| row.key_ref);
    let providers = fixture.store().providers().unwrap();
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let opened = unlocker.open_rows(rows, &providers, guest.uuid, default_deadline());
    fixture.encrypt_state(guest, &opened[0].dek);
    fs::read(fixture.state_file(guest)).unwrap()
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

/// What a start saves is saved of the state that it has; what it has written since is in the links.
#[test]
fn a_state_that_comes_back_leaves_no_older_copy_for_a_later_start() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    let state = fs::read(fixture.state_file(&guest)).unwrap();
    let newer = write_newer_state(&fixture, &guest);
    assert_ne!(newer, state);
    fail(&fixture, &guest, &first);
    fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    start(&fixture, &guest);
    assert_eq!(fs::read(fixture.state_file(&guest)).unwrap(), newer);
    let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
    let (copies, _) = copies.copies().unwrap();
    assert_eq!(copies.len(), 1, "of the second start alone");
}

#[test]
fn a_start_before_libvirt_has_deleted_the_state_leaves_the_links_to_whoever_waits() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    fail(&fixture, &guest, &first);
    start(&fixture, &guest);
    assert!(links(&fixture, &guest).exists());
}

#[test]
fn a_state_that_another_host_uses_comes_back_from_its_links_alone() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let file = || fs::metadata(fixture.state_file(&guest)).unwrap().ino();
    let used = file();
    armed::lock_elsewhere(usize::MAX);
    let domain = fixture.domain(&guest);
    let (guard, ended) = (called(&fixture), Operation::Released(Ending::Ended));
    follow_up(&guard, ended, &domain, default_deadline()).unwrap();
    armed::lock_elsewhere(0);
    let arguments = restore_links::arguments(&guard, &domain).unwrap();
    fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
    assert!(restore_links::run(fixture.host.state_dir(), &arguments));
    assert_eq!(file(), used, "with the locks that are held on it");
}

/// In the linear format libvirt deletes the file alone.
#[test]
fn a_linear_state_comes_back_from_its_link() {
    let fixture = Fixture::new();
    let state = fixture.root().join("state.linear");
    let plain = include_bytes!("../vectors/tpm-state/linear-plain/state.linear");
    fs::write(&state, plain).unwrap();
    let source = format!("<source type='file' path='{}'/>", state.display());
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    let guest = fixture.define_with("vm1", uuid, secret, &source);
    encrypt(&fixture.host, "vm1", None).unwrap();
    let encrypted = fs::read(&state).unwrap();
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.undefine("vm1");
    let first = start(&fixture, &guest);
    let arguments = fail(&fixture, &guest, &first);
    assert_eq!(arguments[4], "0");
    fs::remove_file(&state).unwrap();
    assert!(restore_links::run(fixture.host.state_dir(), &arguments));
    assert_eq!(fs::read(&state).unwrap(), encrypted);
}

/// Without hard links a copy is all that there is.
#[test]
fn the_copy_stays_as_long_as_libvirt_has_not_deleted_the_state() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    let arguments = fail(&fixture, &guest, &first);
    fs::remove_dir_all(links(&fixture, &guest)).unwrap();
    let deleted = directory(&fixture, &guest);
    armed::meanwhile(2, move || fs::remove_dir_all(deleted).unwrap());
    assert!(restore_links::run(fixture.host.state_dir(), &arguments));
    assert!(!armed::forget() && fixture.state_file(&guest).exists());
}

#[test]
fn links_that_vanish_leave_the_copy_to_restore() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    let arguments = fail(&fixture, &guest, &first);
    let (state, links) = (fixture.state_file(&guest), links(&fixture, &guest));
    let directory = directory(&fixture, &guest);
    armed::meanwhile(1, move || {
        fs::remove_file(state).unwrap();
        fs::remove_dir_all(links).unwrap();
        armed::meanwhile(1, || fs::remove_dir_all(directory).unwrap());
    });
    assert!(restore_links::run(fixture.host.state_dir(), &arguments));
    assert!(!armed::forget() && fixture.state_file(&guest).exists());
}

/// Here or on another host: the links are gone, the state is there, and nobody deletes it any more.
#[test]
fn a_start_that_was_faster_ends_the_waiting_and_the_copy_goes() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    let first = start(&fixture, &guest);
    let arguments = fail(&fixture, &guest, &first);
    let links = links(&fixture, &guest);
    armed::meanwhile(1, move || fs::remove_dir_all(links).unwrap());
    assert!(restore_links::run(fixture.host.state_dir(), &arguments));
    assert!(!armed::forget() && fixture.state_file(&guest).exists());
    assert!(!CopyStore::of(fixture.host.state_dir(), guest.uuid).exists());
}

#[test]
fn copies_of_earlier_runs_are_as_old_as_they_were_when_a_state_is_back() {
    for (outdated, has_earlier) in [(false, true), (true, true), (true, false)] {
        let fixture = Fixture::new();
        let guest = transient(&fixture);
        let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
        if has_earlier {
            fixture.save_copy(&guest);
            write_newer_state(&fixture, &guest);
        }
        let before = RunRecord {
            outdated,
            ..RunRecord::default()
        };
        copies.write_run(before.clone()).unwrap();
        let first = start(&fixture, &guest);
        let arguments = fail(&fixture, &guest, &first);
        fs::remove_dir_all(directory(&fixture, &guest)).unwrap();
        assert!(restore_links::run(fixture.host.state_dir(), &arguments));
        assert!(fixture.state_file(&guest).exists());
        assert_eq!(copies.exists(), has_earlier);
        if has_earlier {
            assert_eq!(run(&fixture, &guest), before);
            assert!(copies.has_copies().unwrap());
        }
    }
}

#[test]
fn only_a_start_that_had_a_state_and_is_not_over_gets_its_copy_back() {
    let fixture = Fixture::new();
    let guest = transient(&fixture);
    fixture.save_copy(&guest);
    let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
    let (found, _) = copies.copies().unwrap();
    let state = Some(found[0].manifest.sha256().to_owned());
    for (starting, had_state) in [(true, true), (true, false), (false, true)] {
        let record = RunRecord {
            starting,
            had_state,
            state: state.clone(),
            ..RunRecord::default()
        };
        copies.write_run(record).unwrap();
        let found = restore_links::arguments(&called(&fixture), &fixture.domain(&guest));
        assert_eq!(found.is_some(), starting && had_state);
    }
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
