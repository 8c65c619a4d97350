//! `key renew`.

use std::fs;

use super::fixture::{Defined, Fixture};
use super::{kill, meanwhile};
use crate::clock::Timestamp;
use crate::host::crash;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::fake::{Call, Failure};
use crate::libvirt::secret;
use crate::manage::guests::GuestError;
use crate::manage::host::HostError;
use crate::manage::renew::{RenewError, Renewed, renew};
use crate::manage::stopped_guest::StoppedError;
use crate::store::{Event, Origin};

fn renewed(fixture: &Fixture) -> Result<Renewed, RenewError> {
    renew(&fixture.host, "vm1")
}

fn in_use(fixture: &Fixture) -> Defined {
    fixture.guest_in_use("vm1")
}

#[test]
fn the_state_gets_a_new_key_and_the_old_one_is_retired() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    let old = fixture.opening_row(&guest).unwrap();
    let done = renewed(&fixture).unwrap();
    assert_eq!((done.replaced, &done.retired[..]), (old, &[old][..]));
    assert_eq!(fixture.opening_row(&guest), Some(done.key_ref));
    assert!(done.not_retired.is_none() && done.not_recorded.is_none());
    assert_eq!(done.provider.name, "a");
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_kill_at_any_moment_leaves_a_guest_that_starts() {
    let guest = |fixture: &Fixture| fixture.defined("vm1");
    kill::everywhere(
        |fixture| drop(in_use(fixture)),
        |fixture| drop(renewed(fixture).unwrap()),
        |fixture| assert!(fixture.would_start(&guest(fixture))),
        |fixture| fixture.assert_starts_with_one_key(&guest(fixture)),
    );
}

#[test]
fn what_is_not_a_stopped_guest_with_an_encrypted_state_is_refused() {
    let fixture = Fixture::new();
    let refused = || renewed(&fixture).unwrap_err();
    let not_found = refused();
    assert!(
        matches!(
            &not_found,
            RenewError::Stopped(StoppedError::Guest(GuestError::NotFound(text))) if text == "vm1"
        ),
        "{not_found:?}"
    );

    let guest = fixture.define("vm1");
    assert!(matches!(refused(), RenewError::NoState(_)));
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    assert!(matches!(refused(), RenewError::NoKeyOpens(_, None)));
    let dek = Dek::generate().unwrap();
    fixture.add_key(&guest, "a", &dek);
    fixture.encrypt_state(&guest, &dek);
    fixture.lose_key("a");
    let lost = refused();
    assert!(
        matches!(&lost, RenewError::NoKeyOpens(_, Some(why)) if why.contains("key")),
        "{lost:?}"
    );

    fixture.libvirt.guests.start("vm1");
    let running = refused();
    assert!(matches!(
        running,
        RenewError::Stopped(StoppedError::Running(_))
    ));
    fixture.libvirt.guests.save("vm1");
    let saved = refused();
    assert!(matches!(
        saved,
        RenewError::Stopped(StoppedError::ManagedSave(_))
    ));
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.stop("vm1");
    fixture.libvirt.guests.snapshot("vm1", "one");
    let snapshots = refused();
    assert!(matches!(
        snapshots,
        RenewError::Stopped(StoppedError::Snapshots(_, 1))
    ));

    let plain = fixture.define_with("vm2", DomainUuid::random(), SecretUuid::random(), "");
    assert!(matches!(
        renew(&fixture.host, &plain.name),
        Err(RenewError::NotEncrypted(_))
    ));
}

#[test]
fn a_transient_guest_and_one_without_a_tpm_are_refused() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    fixture.libvirt.guests.start(&guest.name);
    fixture.libvirt.guests.undefine(&guest.name);
    assert!(matches!(
        renewed(&fixture),
        Err(RenewError::Stopped(StoppedError::Transient(_)))
    ));
    let uuid = DomainUuid::random();
    fixture.libvirt.guests.define(&format!(
        "<domain type='qemu'><name>vm2</name><uuid>{uuid}</uuid></domain>"
    ));
    assert!(matches!(
        renew(&fixture.host, "vm2"),
        Err(RenewError::Stopped(StoppedError::NoEmulatedTpm(_)))
    ));
}

#[test]
fn a_key_that_libvirt_keeps_itself_is_to_be_adopted_first() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    let definition = secret::definition(guest.secret, guest.uuid);
    let persistent = definition.replace("ephemeral='yes'", "ephemeral='no'");
    fixture.libvirt.secrets.define(&persistent).unwrap();
    assert!(matches!(
        renewed(&fixture),
        Err(RenewError::KeptByLibvirt { secret, .. }) if secret == guest.secret
    ));
}

#[test]
fn a_state_that_is_damaged_or_has_a_volatile_one_beside_it_is_left_alone() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    let state = fixture.state_file(&guest);
    let volatile = state.with_extension("volatilestate");
    fs::write(&volatile, "").unwrap();
    assert!(matches!(
        renewed(&fixture),
        Err(RenewError::Stopped(StoppedError::Locked(..)))
    ));
    fs::remove_file(volatile).unwrap();
    fs::write(&state, "no state").unwrap();
    assert!(matches!(
        renewed(&fixture),
        Err(RenewError::Stopped(StoppedError::Recrypt(..)))
    ));
    assert_eq!(fs::read(&state).unwrap(), b"no state");
}

#[test]
fn a_libvirt_that_does_not_answer_or_refuses_changes_nothing() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    let (rows, state) = (
        fixture.rows(&guest),
        fs::read(fixture.state_file(&guest)).unwrap(),
    );
    for (failure, words) in [
        (Failure::Unreachable, "libvirt is unreachable: "),
        (Failure::Refused, "libvirt refused: "),
    ] {
        for call in [Call::GuestsCalled, Call::SavedRuns] {
            fixture.libvirt.fail_each(call, failure);
            let error = renewed(&fixture).unwrap_err();
            let RenewError::Stopped(StoppedError::Guest(GuestError::Host(host))) = error else {
                panic!("{error:?}");
            };
            assert!(matches!(host, HostError::Libvirt(_)));
            assert!(host.to_string().starts_with(words), "{host}");
            fixture.libvirt.recover();
        }
    }
    assert_eq!(fixture.rows(&guest), rows);
    assert_eq!(fs::read(fixture.state_file(&guest)).unwrap(), state);
}

#[test]
fn a_start_at_any_moment_gets_a_key_that_opens_the_state_at_the_end() {
    let (mut renewals, mut stopped) = (0, 0);
    meanwhile::everywhere(
        |fixture| drop(in_use(fixture)),
        |fixture| meanwhile::start(fixture, &fixture.defined("vm1")),
        renewed,
        |fixture, result| {
            let guest = fixture.defined("vm1");
            match result {
                Ok(_) => renewals += 1,
                Err(RenewError::Starting(_)) => stopped += 1,
                Err(error) => panic!("{error:?}"),
            }
            let opening = fixture.opening_row(&guest);
            let rows = fixture.rows(&guest);
            let in_use = rows.iter().filter(|row| row.retired_at.is_none());
            assert_eq!(
                in_use.map(|row| Some(row.key_ref.id)).collect::<Vec<_>>(),
                [opening]
            );
            if let Some(key) = fixture.libvirt.secrets.value(guest.secret) {
                assert!(fixture.is_opened_by(&guest, &key));
            }
        },
    );
    assert!(renewals > 0 && stopped > 0, "{renewals}, {stopped}");
}

#[test]
fn a_start_is_seen_by_when_it_was_recorded_and_not_by_its_time() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    let record = |domain, at| {
        let event = Event::new(at, Origin::Prepare, domain, "vm", "healthy");
        fixture.store().record_event(&event).unwrap();
    };
    // It began earlier than another one, and was recorded later.
    let now = Timestamp::now();
    record(DomainUuid::random(), now);
    record(guest.uuid, Timestamp(now.0 - 1000));
    renewed(&fixture).unwrap();

    // One in the future, of a clock that was ahead, hides none that comes during it.
    meanwhile::everywhere(
        |fixture| {
            let guest = in_use(fixture);
            let ahead = Timestamp(Timestamp::now().0 + 3_600_000);
            let event = Event::new(ahead, Origin::Prepare, guest.uuid, "vm1", "healthy");
            fixture.store().record_event(&event).unwrap();
        },
        |fixture| meanwhile::start(fixture, &fixture.defined("vm1")),
        renewed,
        |fixture, _| {
            let guest = fixture.defined("vm1");
            if let Some(key) = fixture.libvirt.secrets.value(guest.secret) {
                assert!(fixture.is_opened_by(&guest, &key));
            }
        },
    );
}

#[test]
fn a_state_that_cannot_be_replaced_keeps_its_key_and_the_new_one_is_retired() {
    let mut failed = 0;
    meanwhile::everywhere(
        |fixture| drop(in_use(fixture)),
        |fixture| meanwhile::obstruct(fixture, &fixture.defined("vm1")),
        renewed,
        |fixture, result| {
            let guest = fixture.defined("vm1");
            match result {
                // Too early or too late.
                Ok(_) | Err(RenewError::Stopped(StoppedError::Locked(..))) => {}
                Err(RenewError::Stopped(StoppedError::Write(..))) => {
                    failed += 1;
                    meanwhile::clear(fixture, &guest);
                    let rows = fixture.rows(&guest);
                    assert_eq!(
                        rows.iter().filter(|row| row.retired_at.is_some()).count(),
                        1
                    );
                }
                Err(error) => panic!("{error:?}"),
            }
            meanwhile::clear(fixture, &guest);
            assert!(fixture.would_start(&guest));
        },
    );
    assert!(failed > 0);
}

/// Nobody knows which state will be found: the key of each opens it.
#[track_caller]
fn assert_both_keys_stay(fixture: &Fixture, guest: &Defined) {
    let before = fs::read(fixture.state_file(guest)).unwrap();
    let error = renewed(fixture).unwrap_err();
    assert!(
        matches!(error, RenewError::Stopped(StoppedError::NotDurable(..))),
        "{error:?}"
    );
    let after = fs::read(fixture.state_file(guest)).unwrap();
    assert_ne!(before, after);
    for state in [after, before] {
        fixture.write_state(guest, &state);
        assert!(fixture.would_start(guest));
    }
}

#[test]
fn a_state_that_may_come_back_after_a_power_cut_keeps_its_key() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    crash::armed::fail_at(1);
    assert_both_keys_stay(&fixture, &guest);
}

/// As NFS does it: the new state is in its place, and the rename is said to have failed.
#[test]
fn a_state_whose_rename_was_done_and_denied_is_installed() {
    let fixture = Fixture::new();
    let guest = in_use(&fixture);
    crash::armed::lose_answer_of_rename();
    renewed(&fixture).unwrap();
    fixture.assert_starts_with_one_key(&guest);

    // Whether it is in its place cannot be told: both keys stay.
    crash::armed::lose_answer_of_rename();
    crash::armed::fail_at(1);
    assert_both_keys_stay(&fixture, &guest);
}
