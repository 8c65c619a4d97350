//! What a start saves of a guest's TPM state, what it restores, and what is dropped when the guest runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::ended_runs::outdated;
use super::fixture::Fixture;
use super::run::Run;
use super::starts::called;
use crate::domain::Domain;
use crate::guard::{Ending, Mode, Operation, prepare};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::manage::host::default_deadline;
use crate::store::{Event, Origin};
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyStore, KEPT_RUNS, RunRecord};
use crate::verdict::Decision;
use crate::verdict::code::Code;
use crate::verdict::facts::{CopyReason, Permission, TransientState};
use crate::verdict::outcome::Outcome;
use crate::verdict::refusal::Refusal;
use CopyReason::{Release, Start};

fn code(outcome: &Outcome) -> Option<Code> {
    match outcome.verdict.decision() {
        Decision::Allow(_) => None,
        Decision::Deny(why) => Some(why.code()),
    }
}

/// Which copies this key opens, the latest first.
fn opened_by(run: &Run, dek: &Dek) -> Vec<bool> {
    let (copies, _) = run.copies.copies().unwrap();
    let opened = copies.into_iter().map(|copy| match copy.state() {
        StateFile::Encrypted(state) => state.is_opened_by(dek),
        other => panic!("{other:?}"),
    });
    opened.collect()
}

#[test]
fn a_guest_that_runs_needs_no_copies_of_its_tpm_and_loses_none_of_another() {
    let run = Run::of_transient();
    let (other, own) = (Dek::generate().unwrap(), run.dek.copy());
    let run = run.with_copy_under(&other).with_copy_under(&own);
    run.fixture.encrypt_state(&run.guest, &own);
    let run = run.started();
    assert_eq!(run.saved(), [Start, Release, Release]);
    let run = run.follow_up(Operation::Started);
    assert_eq!(opened_by(&run, &other), [true]);
    assert_eq!(run.record(), RunRecord::default());
}

#[test]
fn where_every_run_is_saved_the_copies_stay_while_the_guest_runs_and_are_outdated() {
    for run in [Run::of_persistent(), Run::of_transient()] {
        let run = run.keeping_all().with_earlier_copy().started();
        let saved = run.saved();
        let run = run.follow_up(Operation::Started);
        assert_eq!(run.saved(), saved);
        assert_eq!(run.record(), outdated());
    }
}

/// A default drops nothing: nobody could read what this host wants.
#[test]
fn under_a_broken_configuration_the_copies_of_every_run_stay_and_the_run_is_saved() {
    for run in [Run::of_persistent(), Run::of_transient()] {
        let run = run.keeping_all().with_earlier_copy();
        let run = run.under_a_broken_configuration().started();
        let saved = run.saved();
        let run = run.follow_up(Operation::Started);
        assert_eq!(run.saved(), saved);
        assert_eq!(run.record(), outdated());
        // What it is now is what a later start needs.
        run.fixture.encrypt_state(&run.guest, &run.dek);
        let run = run.released(Ending::Ended);
        assert_eq!(run.saved().len(), saved.len() + 1);
        assert!(!run.record().outdated);
    }
}

#[test]
fn under_a_broken_configuration_no_run_is_saved_of_a_guest_that_had_no_copy() {
    let run = Run::of_persistent().under_a_broken_configuration();
    let run = run.started().follow_up(Operation::Started);
    let run = run.released(Ending::Ended);
    assert!(!run.copies.exists());
}

#[test]
fn under_a_broken_configuration_as_many_copies_stay_as_under_any() {
    let run = Run::of_transient().under_a_broken_configuration();
    let other = Dek::generate().unwrap();
    let mut run = run.with_copy_under(&other);
    for _ in 0..=KEPT_RUNS {
        run.fixture.encrypt_state(&run.guest, &run.dek);
        run = run.released(Ending::Ended);
    }
    assert_eq!(run.saved(), [Release; KEPT_RUNS]);
}

#[test]
fn of_too_many_copies_the_present_one_stays_and_the_latest_that_a_key_opens() {
    let run = Run::of_transient();
    let (other, own) = (Dek::generate().unwrap(), run.dek.copy());
    let run = run
        .with_copy_under(&other)
        .with_copy_under(&own)
        .with_copy_under(&other)
        .with_copy_under(&other);
    run.fixture.encrypt_state(&run.guest, &other);
    assert_eq!(code(&run.prepared()), Some(Code::KeyDoesNotOpenTpm));
    assert_eq!(run.saved(), [Start, Release]);
    assert_eq!(opened_by(&run, &own), [false, true]);
}

#[test]
fn where_every_run_is_saved_the_newest_stay() {
    let mut run = Run::of_persistent().keeping_all();
    for _ in 0..=KEPT_RUNS {
        run.fixture.encrypt_state(&run.guest, &run.dek);
        run = run.released(Ending::Ended);
    }
    assert_eq!(run.saved(), [Release; KEPT_RUNS]);
}

/// An orchestrator starts it again and again, with other bytes each time.
#[test]
fn while_the_keys_cannot_be_tried_a_start_drops_none_of_the_copies_between() {
    type Trouble = fn(&Run);
    let troubles: [(Trouble, usize); 5] = [
        (|_| (), 2),
        (|run| run.fixture.lose_key("a"), 5),
        (|run| run.fixture.sql("DELETE FROM key_provider"), 5),
        (
            |run| fs::write(run.fixture.host.state_dir().store(), "damaged").unwrap(),
            5,
        ),
        // What one key opens need not be tried with another.
        (
            |run| {
                let dek = Dek::generate().unwrap();
                run.fixture.add_key(&run.guest, "b", &dek);
                run.fixture.lose_key("b");
            },
            2,
        ),
    ];
    for (cause, left) in troubles {
        let run = Run::of_transient();
        let (other, own) = (Dek::generate().unwrap(), run.dek.copy());
        let run = run.with_copy_under(&other).with_copy_under(&own);
        let run = run.with_copy_under(&other).with_copy_under(&other);
        run.fixture.encrypt_state(&run.guest, &other);
        cause(&run);
        assert!(!run.prepared().is_allowed());
        let opened = opened_by(&run, &own);
        assert_eq!(opened.len(), left);
        assert!(opened.contains(&true));
    }
}

/// Until then it is what the next start has: a state that is there may be another one.
#[test]
fn a_copy_of_an_earlier_start_stays_until_a_start_has_succeeded() {
    for has_rubble in [false, true] {
        let run = Run::of_transient().with_earlier_copy();
        let (copies, _) = run.copies.copies().unwrap();
        let state = Some(copies[0].manifest.sha256().to_owned());
        let run = run.with_record(RunRecord {
            starting: true,
            started_at: Some(1),
            state,
            had_state: true,
            ..RunRecord::default()
        });
        if has_rubble {
            // Not a directory that was moved away: nothing can be restored from it.
            let states = run.fixture.libvirt.dirs().tpm_states();
            let moved = format!(".vtpm-guard.moved.{}", run.guest.uuid);
            fs::write(states.join(moved), "").unwrap();
        }
        let run = run.started();
        assert_eq!(run.saved(), [Start, Release], "{has_rubble}");
    }
}

#[test]
fn that_the_last_run_ended_normally_holds_until_a_start_has_a_state() {
    let ended = || RunRecord {
        ended_normally: true,
        ..RunRecord::default()
    };
    let still_holds = |run: Run| {
        run.prepared();
        run.record().ended_normally
    };
    let without_state = || Run::of_transient().without_state();
    assert!(still_holds(without_state().with_record(ended())));
    assert!(!still_holds(
        without_state().with_record(RunRecord::default())
    ));
    assert!(!still_holds(Run::of_transient().with_record(ended())));
}

#[test]
fn a_new_tpm_for_each_run_is_only_for_a_transient_guest_whose_last_run_ended_normally() {
    let ended = |ended_normally| RunRecord {
        ended_normally,
        ..RunRecord::default()
    };
    for (run, record, refused) in [
        (Run::of_transient(), ended(true), None),
        (
            Run::of_transient(),
            ended(false),
            Some(Code::TpmStateMissing),
        ),
        // It has been defined since.
        (
            Run::of_persistent(),
            ended(true),
            Some(Code::TpmStateMissing),
        ),
    ] {
        let mut run = run.with_record(record).without_state();
        run.guard.config.policy.transient_state = TransientState::Fresh;
        assert_eq!(code(&run.prepared()), refused);
    }
}

#[test]
fn a_start_that_is_refused_for_its_state_notes_it_for_what_libvirt_deletes() {
    let damaged = |run: &Run| {
        run.fixture.write_state(&run.guest, b"damaged");
        assert_eq!(code(&run.prepared()), Some(Code::TpmStateDamaged));
    };
    let run = Run::of_transient();
    damaged(&run);
    let record = run.record();
    assert_eq!(record.refused.as_deref(), Some("VG207"));
    assert!(record.starting);
    assert!(run.released(Ending::Unknown).is_linked());
    // Nothing is deleted of a guest that is defined, and another refusal is none of the state's.
    let run = Run::of_persistent();
    damaged(&run);
    assert!(!run.copies.exists());
    let run = Run::of_transient();
    run.fixture.lose_key("a");
    assert_eq!(code(&run.prepared()), Some(Code::ProviderSealed));
    assert_eq!(run.record().refused, None);
}

#[test]
fn only_a_start_that_may_fail_saves_a_copy() {
    let run = Run::of_transient();
    let judged = |origin, mode| {
        let domain = Ok(run.domain.clone());
        prepare(&run.guard, &domain, origin, mode, default_deadline());
        run.copies.exists()
    };
    // The guest runs: its start is played again.
    assert!(!judged(Origin::Replay, Mode::CarryOut));
    run.fixture.libvirt.guests.stop("vm1");
    assert!(!judged(Origin::Check, Mode::DryRun));
    assert!(!judged(Origin::Repair, Mode::RepairOnly));
    assert!(judged(Origin::Replay, Mode::CarryOut));
    assert_eq!(run.saved(), [Start]);
}

#[test]
fn a_copy_that_a_run_has_followed_is_not_restored() {
    for has_run in [false, true] {
        let run = Run::of_persistent();
        run.fixture.save_copy(&run.guest);
        let run = run.without_state();
        run.fixture.libvirt.guests.stop("vm1");
        if has_run {
            // No hook has seen how it went on.
            let (copies, _) = run.copies.copies().unwrap();
            let mut at = copies[0].manifest.kept_at();
            at.0 += 1;
            let event = Event::new(at, Origin::Prepare, run.guest.uuid, "vm1", "allowed");
            run.fixture.store().record_start(&event).unwrap();
        }
        let outcome = run.prepared();
        assert_eq!(outcome.is_allowed(), !has_run, "{outcome:?}");
        if has_run {
            let why = outcome.verdict.decision();
            let is_outdated = matches!(why, Decision::Deny(Refusal::SavedCopyOutdated { .. }));
            assert!(is_outdated, "{why:?}");
        }
    }
}

#[test]
fn a_start_waits_for_a_copy_that_cannot_be_read() {
    let run = Run::of_persistent();
    run.fixture.save_copy(&run.guest);
    let run = run.without_state();
    run.fixture.libvirt.guests.stop("vm1");
    let open_to_others =
        |mode| fs::set_permissions(run.copies.path(), Permissions::from_mode(mode));
    open_to_others(0o777).unwrap();
    let outcome = run.prepared();
    let Decision::Deny(Refusal::TpmStateNotRestored { reason }) = outcome.verdict.decision() else {
        panic!("{outcome:?}");
    };
    let copies = run.copies.path().display().to_string();
    assert!(reason.starts_with(&copies), "{reason}");

    open_to_others(0o700).unwrap();
    assert!(run.prepared().is_allowed());
}

/// A transient guest whose vTPM is not encrypted: its XML, and its copies.
fn unencrypted(fixture: &Fixture) -> (Domain, CopyStore) {
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    let guest = fixture.define_with("vm1", uuid, secret, "");
    let domain = fixture.domain(&guest);
    fixture.plain_state(&guest);
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.undefine("vm1");
    (domain, CopyStore::of(fixture.host.state_dir(), uuid))
}

fn judged(fixture: &Fixture, domain: &Domain, unencrypted: Permission) -> Option<Code> {
    let mut guard = called(fixture);
    guard.config.policy.unencrypted = unencrypted;
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    let domain = Ok(domain.clone());
    code(&prepare(&guard, &domain, origin, mode, default_deadline()))
}

#[test]
fn of_a_guest_without_encryption_a_state_is_saved_where_its_start_may_be_refused() {
    let fixture = Fixture::new();
    let (domain, copies) = unencrypted(&fixture);
    assert_eq!(judged(&fixture, &domain, Permission::Allow), None);
    assert!(!copies.exists());

    // libvirt deletes it then. It is back as soon as the guest may start.
    let refused = judged(&fixture, &domain, Permission::Deny);
    assert_eq!(refused, Some(Code::UnencryptedVtpm));
    let states = fixture.libvirt.dirs().tpm_states();
    let directory = states.join(domain.uuid.to_string());
    let state = directory.join("tpm2/tpm2-00.permall");
    let bytes = fs::read(&state).unwrap();
    fs::remove_dir_all(directory).unwrap();
    assert_eq!(judged(&fixture, &domain, Permission::Allow), None);
    assert_eq!(fs::read(state).unwrap(), bytes);
}

#[test]
fn an_encrypted_state_under_an_xml_that_does_not_say_so_is_saved() {
    let fixture = Fixture::new();
    let (domain, copies) = unencrypted(&fixture);
    let encrypted = Run::without_key();
    let state = fs::read(encrypted.fixture.state_file(&encrypted.guest)).unwrap();
    let states = fixture.libvirt.dirs().tpm_states();
    let place = states.join(domain.uuid.to_string());
    fs::write(place.join("tpm2/tpm2-00.permall"), state).unwrap();
    let refused = judged(&fixture, &domain, Permission::Allow);
    assert_eq!(refused, Some(Code::EncryptionMismatch));
    assert!(copies.has_copies().unwrap());
}
