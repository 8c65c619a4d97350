//! `adopt` where something fails, or changes while it runs: libvirt's secret is removed only when
//! everything still holds.

use super::super::meanwhile::rotation;
use super::*;
use crate::key::kek::Kek;
use crate::libvirt::fake::{Call, Failure};
use crate::libvirt::secret::SecretError;
use crate::manage::adopt::NotAdopted;
use crate::manage::host::HostError;
use crate::verdict::facts::NotOpened;

/// Runs it, and does something to the host between its two halves. The secret stays.
#[track_caller]
fn disturbed(meanwhile: impl Fn(&Fixture, &Defined)) -> NotAdopted {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    let results = adopt(&fixture.host, &all(), &mut |step| {
        if let Step::Verify(_) = step {
            meanwhile(&fixture, &guest);
        }
    });
    let result = results.unwrap().remove(0);
    let stored = result.stored.unwrap();
    assert_eq!(stored.secret, SecretOutcome::ToRemove);
    assert!(fixture.libvirt.secrets.definition(guest.secret).is_some());
    assert!(events(&fixture).is_empty());
    result.error.unwrap()
}

#[test]
fn a_key_is_wrapped_with_the_key_that_its_provider_has_when_its_turn_comes() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    let new = Kek::generate().unwrap();
    let rotated = rotation(&fixture, &new);
    let result = only(&fixture, &keeping());
    rotated.join().unwrap();
    assert!(result.error.is_none(), "{result:?}");
    let wrapped = fixture.rows(&guest)[0].key_ref.wrapped_dek.clone();
    assert_eq!(wrapped.unwrap().key_id().unwrap(), new.key_id());
}

#[test]
fn a_key_that_is_not_what_it_was_costs_no_secret() {
    let changes: [fn(&Fixture, &Defined); 5] = [
        |fixture, guest| set_value(fixture, guest, b"another value"),
        |fixture, guest| fixture.encrypt_state(guest, &Dek::generate().unwrap()),
        |fixture, guest| std::fs::remove_file(fixture.state_file(guest)).unwrap(),
        |fixture, _| fixture.sql("UPDATE key_provider SET exported_at = NULL"),
        |fixture, guest| {
            let row = fixture.rows(guest)[0].key_ref.id;
            fixture.store().retire(row, Timestamp::now()).unwrap();
        },
    ];
    for change in changes {
        let error = disturbed(change);
        assert!(matches!(error, NotAdopted::Changed), "{error:?}");
    }
}

#[test]
fn a_stored_key_that_does_not_open_once_more_costs_no_secret() {
    let error = disturbed(|fixture, _| fixture.lose_key("a"));
    assert!(
        matches!(
            &error,
            NotAdopted::NotOpened {
                error: NotOpened::NotHere { .. },
                ..
            }
        ),
        "{error:?}"
    );
    let error = disturbed(|fixture, _| {
        fixture.sql("UPDATE key_ref SET wrapped_dek = zeroblob(length(wrapped_dek))");
    });
    assert!(
        matches!(
            &error,
            NotAdopted::NotOpened {
                error: NotOpened::Corrupt { .. },
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_store_that_cannot_be_read_once_more_costs_no_secret() {
    let error = disturbed(|fixture, _| fixture.sql("ALTER TABLE key_ref RENAME TO gone"));
    assert!(
        matches!(error, NotAdopted::Host(HostError::Store(_))),
        "{error:?}"
    );
}

#[test]
fn a_store_that_cannot_be_written_leaves_the_secret_alone() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    fixture.guest_in_use("vm2");
    let results = adopt(&fixture.host, &all(), &mut |step| {
        if let Step::TakeOver(_) = step {
            // No second row.
            fixture.sql("CREATE UNIQUE INDEX one ON key_ref (resource_type)");
        }
    });
    let result = results.unwrap().remove(0);
    assert!(
        matches!(result.error, Some(NotAdopted::Host(HostError::Store(_)))),
        "{result:?}"
    );
    assert!(result.stored.is_none());
    assert_untouched(&fixture, &guest);
}

#[test]
fn a_provider_key_that_is_lost_wraps_nothing() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    fixture.lose_key("a");
    let result = only(&fixture, &all());
    assert!(
        matches!(result.error, Some(NotAdopted::Host(HostError::Wrap(_)))),
        "{result:?}"
    );
    assert_untouched(&fixture, &guest);
}

#[test]
fn a_libvirt_that_is_silent_is_waited_for_once() {
    let fixture = exported();
    let guests = ["vm1", "vm2", "vm3"].map(|name| guest(&fixture, name));
    fixture
        .libvirt
        .fail_each(Call::Reveal, Failure::Unreachable);
    for result in run(&fixture, &all()).unwrap() {
        assert!(
            matches!(
                result.error,
                Some(NotAdopted::Host(HostError::Libvirt(
                    SecretError::Unreachable(_)
                )))
            ),
            "{result:?}"
        );
    }
    assert_eq!(fixture.libvirt.calls_of(Call::Reveal), 1);
    for guest in &guests {
        assert_untouched(&fixture, guest);
    }
    fixture.libvirt.recover();
    assert_eq!(run(&fixture, &all()).unwrap().len(), 3);
    for guest in &guests {
        assert_adopted(&fixture, guest);
    }
}

#[test]
fn a_libvirt_that_knows_no_guests_fails_before_anything_is_changed() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    fixture.libvirt.go_down();
    assert!(matches!(run(&fixture, &all()), Err(AdoptError::Guest(_))));
    assert_untouched(&fixture, &guest);
}

#[test]
fn a_secret_that_libvirt_does_not_undefine_is_removed_by_the_next_run() {
    for (failure, later) in [
        (Failure::Refused, SecretOutcome::Removed),
        (Failure::AnswerLost, SecretOutcome::Absent),
    ] {
        let fixture = exported();
        let guest = guest(&fixture, "vm1");
        fixture.libvirt.fail_each(Call::Undefine, failure);
        let result = only(&fixture, &all());
        assert!(
            matches!(result.error, Some(NotAdopted::NotUndefined(_))),
            "{result:?}"
        );
        assert_eq!(result.stored.unwrap().secret, SecretOutcome::ToRemove);
        assert!(fixture.would_start(&guest));
        fixture.libvirt.recover();
        assert_eq!(adopted(&fixture, &all()).secret, later);
        assert_adopted(&fixture, &guest);
    }
}

#[test]
fn files_that_libvirt_leaves_are_named_until_they_are_gone() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    // Redefined as ephemeral, it leaves its definition behind.
    define_secret(&fixture, &guest, READABLE[2], &vtpm_usage(guest.secret));
    let file = fixture
        .libvirt
        .dirs()
        .secrets()
        .join(format!("{}.xml", guest.secret));
    for outcome in [SecretOutcome::Removed, SecretOutcome::Absent] {
        let result = only(&fixture, &all());
        assert_eq!(result.stored.as_ref().unwrap().secret, outcome);
        assert!(
            matches!(&result.error, Some(NotAdopted::FilesLeft(files)) if *files == [file.clone()]),
            "{result:?}"
        );
    }
    std::fs::remove_file(file).unwrap();
    adopted(&fixture, &all());
    assert_adopted(&fixture, &guest);
}

#[test]
fn a_secret_of_the_guards_own_that_libvirt_does_not_take_is_reported() {
    let fixture = exported();
    configure_keep(&fixture);
    let guest = guest(&fixture, "vm1");
    fixture.libvirt.fail_each(Call::Provide, Failure::Refused);
    let result = only(&fixture, &all());
    assert!(
        matches!(result.error, Some(NotAdopted::NotProvided(_))),
        "{result:?}"
    );
    assert_adopted(&fixture, &guest);
}

#[test]
fn a_history_that_cannot_be_written_is_reported_and_the_guest_starts() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    let results = adopt(&fixture.host, &all(), &mut |step| {
        if let Step::Verify(_) = step {
            fixture.sql("ALTER TABLE event RENAME TO gone");
        }
    });
    let result = results.unwrap().remove(0);
    assert!(
        matches!(result.error, Some(NotAdopted::NotRecorded(_))),
        "{result:?}"
    );
    fixture.sql("ALTER TABLE gone RENAME TO event");
    assert_adopted(&fixture, &guest);
}
