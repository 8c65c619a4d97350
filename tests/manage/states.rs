//! `reset`, `state list`, `state show`, `state restore`, `state drop`.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::fixture::{Defined, Fixture};
use super::{kill, meanwhile};
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::manage::copies::JudgedCopy;
use crate::manage::drop_state::{DropStateError, DroppedState, drop_state};
use crate::manage::encrypt::encrypt;
use crate::manage::guests::GuestError;
use crate::manage::host::HostError;
use crate::manage::reset::{ResetError, reset};
use crate::manage::restore_state::{CopiesError, restore, show};
use crate::store::{Event, Origin};
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyStore, RestoreError, SavedCopy};

/// A guest that has used its TPM, and a saved copy of its state.
fn guest_with_copy(fixture: &Fixture) -> Defined {
    let guest = fixture.guest_in_use("vm1");
    fixture.save_copy(&guest);
    guest
}

fn copies(fixture: &Fixture) -> Vec<JudgedCopy> {
    fixture.host.all_copies().unwrap().judged
}

fn is_unused(fixture: &Fixture, guest: &Defined) -> bool {
    let rows = fixture.rows(guest);
    rows.iter().all(|row| row.key_ref.first_used_at.is_none())
}

#[test]
fn a_reset_lets_a_new_tpm_be_made_and_sets_copies_aside() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    let done = reset(&fixture.host, "vm1").unwrap();
    assert!(done.changed && done.has_key && done.was_used);
    assert_eq!(done.copies_set_aside, 1);
    assert!(is_unused(&fixture, &guest));
    assert!(!copies(&fixture)[0].copy.is_available());
    let again = reset(&fixture.host, "vm1").unwrap();
    assert!(!again.changed && again.copies_set_aside == 0);
}

#[test]
fn why_a_copy_could_not_be_tried_is_in_the_answer() {
    let fixture = Fixture::new();
    guest_with_copy(&fixture);
    let untried = || {
        let shown = serde_json::to_value(show(&fixture.host, "vm1").unwrap()).unwrap();
        let listed = serde_json::to_value(copies(&fixture)).unwrap();
        assert_eq!(listed[0]["untried"], shown["copies"][0]["untried"]);
        listed[0]["untried"].clone()
    };
    assert!(untried().is_null());
    fixture.lose_key("a");
    let why = untried();
    assert!(why.as_str().unwrap().contains("does not hold key"), "{why}");
}

#[test]
fn no_key_could_not_be_tried_on_a_copy_that_needs_none() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.plain_state(&guest);
    fixture.save_copy(&guest);
    fixture.lose_key("a");
    let copies = copies(&fixture);
    let [copy] = &copies[..] else {
        panic!("{copies:?}")
    };
    assert!(matches!(copy.content, StateFile::Plain), "{copy:?}");
    assert_eq!((copy.opened, &copy.untried), (false, &None));
}

#[test]
fn a_copy_of_a_tpm_of_another_version_is_not_restored_beside_the_guests_own() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    let defined = fixture.host.defined_guest("vm1").unwrap().xml;
    let of_other_version = defined.replace("version='2.0'", "version='1.2'");
    fixture.libvirt.guests.define(&of_other_version);
    for is_down in [false, true] {
        if is_down {
            fixture.libvirt.go_down();
        }
        let refused = restore(&fixture.host, &guest.uuid.to_string(), None).unwrap_err();
        assert!(
            matches!(refused, CopiesError::NotRestored(_, RestoreError::OtherTpm)),
            "{refused:?}"
        );
    }
    fixture.libvirt.recover();
    fixture.libvirt.guests.define(&defined);
    assert!(restore(&fixture.host, "vm1", None).unwrap().changed);
}

#[test]
fn the_later_copy_is_restored_even_if_the_clock_was_set_back_since_the_earlier_one() {
    let fixture = Fixture::new();
    let (guest, last) = fixture.guest_with_postdated_copy("vm1");
    assert!(restore(&fixture.host, "vm1", None).unwrap().changed);
    assert!(fs::read(fixture.state_file(&guest)).unwrap() == last);
}

#[test]
fn a_reset_names_the_directory_in_which_libvirt_would_make_no_tpm() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    let state = fixture.state_file(&guest);
    fs::remove_file(&state).unwrap();
    let directory = state.parent().unwrap();
    // Nobody's lock.
    fs::create_dir(directory.join(".lock")).unwrap();
    let done = reset(&fixture.host, "vm1").unwrap();
    let left: Vec<_> = done.left_directories.iter().map(|(left, _)| left).collect();
    assert_eq!(left, [directory]);
    fs::remove_dir(directory.join(".lock")).unwrap();
    assert!(
        reset(&fixture.host, "vm1")
            .unwrap()
            .left_directories
            .is_empty()
    );
    assert!(!directory.exists());
}

#[test]
fn a_reset_is_refused_where_the_tpm_is_not_gone_or_was_never_kept() {
    let fixture = Fixture::new();
    assert!(matches!(
        reset(&fixture.host, "nobody"),
        Err(ResetError::Guest(_))
    ));
    fixture.define("plain");
    assert!(matches!(
        reset(&fixture.host, "plain"),
        Err(ResetError::NoKey(_))
    ));
    let guest = fixture.guest_in_use("vm1");
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.save("vm1");
    assert!(matches!(
        reset(&fixture.host, "vm1"),
        Err(ResetError::ManagedSave(_))
    ));
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.stop("vm1");

    // Its XML names the other version of the TPM.
    let own = fixture.state_file(&guest);
    let other = own.parent().unwrap().with_file_name("tpm1.2");
    fs::create_dir_all(&other).unwrap();
    fs::rename(own, other.join("tpm-00.permall")).unwrap();
    assert!(matches!(
        reset(&fixture.host, "vm1"),
        Err(ResetError::StateElsewhere(..))
    ));
    assert!(!is_unused(&fixture, &guest));
    // That is in libvirt's files, too.
    let uuid = guest.uuid.to_string();
    fixture.libvirt.go_down();
    assert!(matches!(
        reset(&fixture.host, &uuid),
        Err(ResetError::StateElsewhere(..))
    ));
    fixture.libvirt.recover();

    // Nor where it cannot be looked for.
    fs::remove_dir_all(&other).unwrap();
    symlink(&other, &other).unwrap();
    let refused = reset(&fixture.host, &uuid);
    assert!(
        matches!(&refused, Err(ResetError::Unseen(_, path, _)) if path.starts_with(&other)),
        "{refused:?}"
    );
    assert!(!is_unused(&fixture, &guest));

    // Nor where a broken configuration does not say where it is.
    fs::write(fixture.root().join("config.toml"), "nonsense = 1\n").unwrap();
    let error = reset(&fixture.host, "vm1").unwrap_err();
    assert!(
        matches!(
            &error,
            ResetError::Guest(GuestError::Host(HostError::Config(_)))
        ),
        "{error:?}"
    );
    assert!(!is_unused(&fixture, &guest));
}

#[test]
fn a_kill_leaves_a_guest_reset_or_not() {
    kill::everywhere(
        |fixture| drop(guest_with_copy(fixture)),
        |fixture| drop(reset(&fixture.host, "vm1").unwrap()),
        |fixture| assert_eq!(copies(fixture).len(), 1, "no copy is lost"),
        |fixture| {
            assert!(is_unused(fixture, &fixture.defined("vm1")));
            assert!(!copies(fixture)[0].copy.is_available());
        },
    );
}

#[test]
fn the_copy_is_restored_once_and_over_nothing() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    let state = fixture.state_file(&guest);
    let bytes = fs::read(&state).unwrap();
    assert!(!restore(&fixture.host, "vm1", None).unwrap().changed);
    fs::remove_file(&state).unwrap();
    let done = restore(&fixture.host, "vm1", None).unwrap();
    assert!(done.changed && done.copy.opened);
    assert_eq!(fs::read(&state).unwrap(), bytes);

    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    assert!(matches!(
        restore(&fixture.host, "vm1", None),
        Err(CopiesError::NotRestored(_, RestoreError::Occupied { .. }))
    ));
    fixture.libvirt.guests.start("vm1");
    assert!(matches!(
        restore(&fixture.host, "vm1", None),
        Err(CopiesError::Running(_))
    ));
    fixture.define("vm2");
    assert!(matches!(
        restore(&fixture.host, "vm2", None),
        Err(CopiesError::None(_))
    ));
    assert!(matches!(
        show(&fixture.host, "nobody"),
        Err(CopiesError::Guest(_))
    ));
    assert_eq!(show(&fixture.host, "vm1").unwrap().copies.len(), 1);
}

#[test]
fn a_kill_leaves_the_state_restored_or_absent() {
    let state = |fixture: &Fixture| fixture.state_file(&fixture.defined("vm1"));
    kill::everywhere(
        |fixture| {
            let guest = guest_with_copy(fixture);
            fs::remove_dir_all(fixture.state_file(&guest).parent().unwrap()).unwrap();
        },
        |fixture| drop(restore(&fixture.host, "vm1", None).unwrap()),
        |fixture| {
            let guest = fixture.defined("vm1");
            assert!(!state(fixture).exists() || fixture.opening_row(&guest).is_some());
        },
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
    );
}

#[test]
fn the_last_state_that_a_key_opens_is_dropped_by_force_alone() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    let drop_it = |named: &[&str], force| {
        let named: Vec<_> = named.iter().map(|&digits| digits.to_owned()).collect();
        drop_state(&fixture.host, "vm1", &named, force)
    };
    assert!(matches!(
        drop_it(&[], false),
        Err(DropStateError::Needed(_, 1, None))
    ));
    let sha256 = copies(&fixture)[0].sha256.clone();
    let short = sha256[..2].to_owned();
    assert!(matches!(
        drop_it(&[&short], false),
        Err(DropStateError::Ambiguous(_))
    ));
    assert!(matches!(
        drop_it(&["zzzz"], false),
        Err(DropStateError::NoSuchCopy(_))
    ));
    let damaged = fixture.damaged_state(&guest);
    let done = drop_it(&[], true).unwrap();
    assert_eq!((done.number(), done.kept), (1, 0));
    assert!(copies(&fixture).is_empty() && !damaged.exists());
    assert!(matches!(drop_it(&[], true), Err(DropStateError::None(_))));
}

/// What a kill, or `state drop` without `--force`, leaves.
#[test]
fn damaged_states_are_dropped_where_no_copy_is_left() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let damaged = fixture.damaged_state(&guest);
    let plainly = drop_state(&fixture.host, "vm1", &[], false);
    assert!(matches!(plainly, Err(DropStateError::None(_))));
    assert!(damaged.exists());
    let done = drop_state(&fixture.host, "vm1", &[], true).unwrap();
    assert!(done.damaged_states_dropped && done.number() == 0);
    assert!(!damaged.exists() && fixture.would_start(&guest));
    let again = drop_state(&fixture.host, "vm1", &[], true);
    assert!(matches!(again, Err(DropStateError::None(_))));
}

/// The case that this program is for: the provider was deleted, and will be imported again.
#[test]
fn a_state_whose_key_cannot_be_tried_now_is_dropped_by_force_alone() {
    let lost: [fn(&Fixture); 3] = [
        |fixture| fixture.lose_key("a"),
        |fixture| fixture.sql("DELETE FROM key_provider"),
        |fixture| {
            let key_id = fixture.provider("a").key_id.to_string();
            let sealed = fixture.host.state_dir().keys().join(key_id);
            fs::write(sealed, b"damaged").unwrap();
        },
    ];
    for lose in lost {
        let fixture = Fixture::new();
        let guest = guest_with_copy(&fixture);
        fs::remove_file(fixture.state_file(&guest)).unwrap();
        lose(&fixture);
        let needed = drop_all(&fixture, &guest, false).unwrap_err();
        let DropStateError::Needed(_, 1, Some(why)) = &needed else {
            panic!("{needed:?}");
        };
        assert!(!why.is_empty());
        assert_eq!(copies(&fixture).len(), 1);
        drop_all(&fixture, &guest, true).unwrap();
    }
}

#[test]
fn a_copy_beside_the_state_is_dropped_freely() {
    let fixture = Fixture::new();
    guest_with_copy(&fixture);
    let sha256 = copies(&fixture)[0].sha256.clone();
    let with_digits = |number: usize| {
        let named = sha256[..number].to_owned();
        drop_state(&fixture.host, "vm1", &[named], false)
    };
    assert!(matches!(with_digits(3), Err(DropStateError::Ambiguous(_))));
    let done = with_digits(4).unwrap();
    assert_eq!(done.dropped.len(), 1);
    assert!(!done.plain_state_dropped);
    let unknown = DomainUuid::random().to_string();
    assert!(matches!(
        drop_state(&fixture.host, &unknown, &[], false),
        Err(DropStateError::None(_))
    ));
}

#[test]
fn a_kill_leaves_the_copy_or_drops_it() {
    kill::everywhere(
        |fixture| drop(guest_with_copy(fixture)),
        |fixture| {
            let done = drop_state(&fixture.host, "vm1", &[], false);
            assert!(matches!(done, Ok(_) | Err(DropStateError::None(_))));
        },
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
        |fixture| assert!(copies(fixture).is_empty()),
    );
}

#[test]
fn a_copy_that_cannot_be_read_is_not_said_to_be_missing() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    let copies = fixture.host.state_dir().tpm_copies();
    let dir = copies.join(guest.uuid.to_string());
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|it| it == "json") {
            // As unreadable as one on a bad disk.
            fs::write(path, "not a manifest").unwrap();
        }
    }
    let unreadable = |error: &CopiesError| {
        let words = error.to_string();
        matches!(error, CopiesError::Guest(_)) && words.contains("json")
    };
    let restored = restore(&fixture.host, "vm1", None).unwrap_err();
    assert!(unreadable(&restored), "{restored:?}");
    let shown = show(&fixture.host, "vm1").unwrap_err();
    assert!(unreadable(&shown), "{shown:?}");
    let dropped = drop_state(&fixture.host, "vm1", &[], false).unwrap_err();
    assert!(matches!(dropped, DropStateError::Guest(_)), "{dropped:?}");
}

#[test]
fn a_copy_goes_also_where_another_one_cannot_be_read() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    let copies = fixture.host.state_dir().tpm_copies();
    let unreadable = copies.join(guest.uuid.to_string());
    let unreadable = unreadable.join(format!("{}.json", "0".repeat(64)));
    fs::write(&unreadable, "not a manifest").unwrap();
    let dropped = drop_state(&fixture.host, "vm1", &[], true).unwrap();
    assert_eq!(dropped.number(), 1);
}

#[test]
fn with_a_configuration_that_cannot_be_used_no_state_is_restored_or_dropped_elsewhere() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    // It names libvirt's directories.
    fs::write(fixture.root().join("config.toml"), "nonsense").unwrap();
    let is_config = |error: &GuestError| matches!(error, GuestError::Host(HostError::Config(_)));
    let restored = restore(&fixture.host, "vm1", None).unwrap_err();
    assert!(
        matches!(&restored, CopiesError::Guest(error) if is_config(error)),
        "{restored:?}"
    );
    let dropped = drop_state(&fixture.host, "vm1", &[], false).unwrap_err();
    assert!(
        matches!(&dropped, DropStateError::Guest(error) if is_config(error)),
        "{dropped:?}"
    );
}

#[test]
fn a_copy_of_a_guest_without_any_key_is_kept_for_one_that_libvirt_knows() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    fixture.sql("DELETE FROM key_ref");
    let uuid = guest.uuid.to_string();
    let needed = drop_state(&fixture.host, &uuid, &[], false).unwrap_err();
    assert!(
        matches!(needed, DropStateError::Needed(_, 1, _)),
        "{needed:?}"
    );
    fixture.libvirt.guests.undefine("vm1");
    let done = drop_state(&fixture.host, &uuid, &[], false).unwrap();
    assert_eq!(done.number(), 1);
}

#[test]
fn a_guest_without_a_key_is_reset_where_it_has_copies_and_else_not() {
    let fixture = Fixture::new();
    guest_with_copy(&fixture);
    fixture.sql("DELETE FROM key_ref");
    let done = reset(&fixture.host, "vm1").unwrap();
    assert!(done.changed && !done.has_key);
    assert_eq!(done.copies_set_aside, 1);
    let again = reset(&fixture.host, "vm1").unwrap_err();
    assert!(matches!(again, ResetError::NoKey(_)), "{again:?}");
}

#[test]
fn a_state_of_another_version_beside_the_guests_own_keeps_nobody_from_a_reset() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let own = fixture.state_file(&guest);
    let other = own.parent().unwrap().with_file_name("tpm1.2");
    fs::create_dir_all(&other).unwrap();
    fs::copy(&own, other.join("tpm-00.permall")).unwrap();
    assert!(reset(&fixture.host, "vm1").unwrap().changed);
    assert!(is_unused(&fixture, &guest));
    // Nor does one that cannot be looked for.
    let second = fixture.guest_in_use("vm2");
    let other = fixture.state_file(&second);
    let other = other.parent().unwrap().with_file_name("tpm1.2");
    symlink(&other, &other).unwrap();
    assert!(reset(&fixture.host, "vm2").unwrap().changed);
    assert!(is_unused(&fixture, &second));
}

fn drop_all(
    fixture: &Fixture,
    guest: &Defined,
    force: bool,
) -> Result<DroppedState, DropStateError> {
    drop_state(&fixture.host, &guest.uuid.to_string(), &[], force)
}

/// A guest whose plain state was encrypted a moment ago, and which has lost the encrypted one.
fn encrypted_and_lost(fixture: &Fixture) -> Defined {
    let guest = fixture.define_with("vm1", DomainUuid::random(), SecretUuid::random(), "");
    fixture.plain_state(&guest);
    encrypt(&fixture.host, "vm1", None).unwrap();
    fixture.save_copy(&guest);
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    guest
}

#[test]
fn the_unencrypted_state_of_before_counts_as_a_state_that_the_guest_may_need() {
    let fixture = Fixture::new();
    let guest = encrypted_and_lost(&fixture);
    let needed = drop_all(&fixture, &guest, false).unwrap_err();
    assert!(
        matches!(needed, DropStateError::Needed(_, 2, None)),
        "{needed:?}"
    );
    let done = drop_all(&fixture, &guest, true).unwrap();
    assert!(done.plain_state_dropped);
    assert_eq!((done.number(), done.dropped.len()), (2, 1));

    // A guest that libvirt knows no longer needs none.
    let fixture = Fixture::new();
    let guest = encrypted_and_lost(&fixture);
    let sha256 = copies(&fixture)[0].sha256.clone();
    drop_state(&fixture.host, "vm1", &[sha256], true).unwrap();
    fixture.libvirt.guests.undefine("vm1");
    let done = drop_all(&fixture, &guest, false).unwrap();
    assert!(done.plain_state_dropped);
    assert_eq!((done.number(), done.dropped.len()), (1, 0));
}

#[test]
fn copies_that_no_start_would_take_are_dropped_freely() {
    // No key of the guest opens it.
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    fixture.save_copy(&guest);
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    assert_eq!(drop_all(&fixture, &guest, false).unwrap().number(), 1);

    // It was reset: its next start makes a new TPM.
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    reset(&fixture.host, "vm1").unwrap();
    assert!(copies(&fixture)[0].opened);
    assert_eq!(drop_all(&fixture, &guest, false).unwrap().number(), 1);
}

#[test]
fn what_was_not_named_and_what_is_no_copy_stays() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    let damaged = fixture.damaged_state(&guest);
    assert_eq!(drop_all(&fixture, &guest, false).unwrap().number(), 1);
    assert!(damaged.exists());

    fixture.save_copy(&guest);
    let first = copies(&fixture)[0].sha256.clone();
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    fixture.save_copy(&guest);
    let done = drop_state(&fixture.host, "vm1", std::slice::from_ref(&first), true).unwrap();
    assert_eq!((done.number(), done.kept), (1, 1));
    assert!(damaged.exists());
    let left = copies(&fixture);
    assert!(left.len() == 1 && left[0].sha256 != first);
}

#[test]
fn a_copy_that_a_run_has_followed_is_shown_as_outdated() {
    let fixture = Fixture::new();
    let guest = guest_with_copy(&fixture);
    let is_outdated = || copies(&fixture)[0].outdated;
    assert!(!is_outdated());
    let mut at = copies(&fixture)[0].kept_at;
    at.0 += 1;
    let event = Event::new(at, Origin::Prepare, guest.uuid, "vm1", "allowed");
    fixture.store().record_start(&event).unwrap();
    assert!(is_outdated());
}

#[test]
fn a_copy_that_comes_while_others_are_dropped_stays_or_is_named() {
    meanwhile::everywhere(
        |fixture| drop(guest_with_copy(fixture)),
        |fixture| {
            let guest = fixture.defined("vm1");
            let copies = CopyStore::of(fixture.host.state_dir(), guest.uuid);
            // As the end of a run does, which waits for that.
            let soon = Deadline::after(Duration::from_millis(50));
            if copies.exclusive(soon).is_ok() {
                fixture.encrypt_state(&guest, &Dek::generate().unwrap());
                fixture.save_copy(&guest);
            }
        },
        |fixture| drop_state(&fixture.host, "vm1", &[], true).unwrap(),
        |fixture, done| {
            let left = copies(fixture);
            let bytes = fs::read(fixture.state_file(&fixture.defined("vm1"))).unwrap();
            let last_saved = SavedCopy::sha256_of(&bytes);
            let mut known = done.dropped.iter().chain(&left);
            assert!(known.any(|copy| copy.sha256 == last_saved), "{done:?}");
        },
    );
}
