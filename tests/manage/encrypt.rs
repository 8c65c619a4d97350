//! `encrypt`.

use std::fs;

use super::fixture::{Defined, Fixture};
use super::{kill, meanwhile};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::fake::{Call, Failure};
use crate::manage::encrypt::{EncryptAction, EncryptError, EncryptResult, encrypt};
use crate::manage::guests::GuestError;
use crate::manage::host::{HostError, default_deadline};
use crate::manage::providers::ProviderError;
use crate::manage::stopped_guest::StoppedError;
use crate::store::{EventFilter, StoreError};
use crate::swtpm::TpmData;

fn run(fixture: &Fixture) -> Result<EncryptResult, EncryptError> {
    encrypt(&fixture.host, "vm1", None)
}

fn define(fixture: &Fixture, encryption: &str) -> Defined {
    fixture.define_with(
        "vm1",
        DomainUuid::random(),
        SecretUuid::random(),
        encryption,
    )
}

/// A guest that has used its plain TPM.
fn plain(fixture: &Fixture) -> Defined {
    let guest = define(fixture, "");
    fixture.plain_state(&guest);
    guest
}

fn state(fixture: &Fixture, guest: &Defined) -> Vec<u8> {
    fs::read(fixture.state_file(guest)).unwrap()
}

fn secret_in_xml(fixture: &Fixture, guest: &Defined) -> Option<SecretUuid> {
    let domain = fixture.domain(guest);
    domain.encrypted_vtpm().map(|(_, secret)| secret)
}

/// The key in this row.
fn dek(fixture: &Fixture, guest: &Defined, id: KeyRefId) -> Dek {
    let rows = fixture.rows(guest).into_iter().map(|row| row.key_ref);
    let providers = fixture.store().providers().unwrap();
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let opened = unlocker.open_rows(rows, &providers, guest.uuid, default_deadline());
    let mut opened = opened.into_iter().filter(|key| key.key_ref.id == id);
    opened.next().unwrap().dek
}

fn saved_plain_states(fixture: &Fixture) -> usize {
    let all = crate::guard::plain_state::list(fixture.host.state_dir());
    all.unwrap().len()
}

/// The XML, the state and the keys in use are what they were, and no plain state is kept.
#[track_caller]
fn assert_unchanged(fixture: &Fixture, guest: &Defined, before: &[u8]) {
    assert_eq!(secret_in_xml(fixture, guest), None);
    assert_eq!(state(fixture, guest), before);
    let rows = fixture.rows(guest);
    assert!(rows.iter().all(|row| row.retired_at.is_some()), "{rows:#?}");
    assert_eq!(saved_plain_states(fixture), 0);
    assert!(fixture.is_allowed(guest));
}

#[test]
fn a_plain_state_is_encrypted_and_the_xml_says_so() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    let before = state(&fixture, &guest);
    let done = run(&fixture).unwrap();
    assert_eq!(done.action, EncryptAction::Encrypted);
    assert_eq!((&*done.provider.name, done.guest.uuid), ("a", guest.uuid));
    assert_eq!(secret_in_xml(&fixture, &guest), Some(done.secret_uuid));
    assert!(done.not_recorded.is_none());
    assert_eq!(fs::read(done.plain_state.unwrap()).unwrap(), before);

    let rows = fixture.rows(&guest);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert!(rows[0].key_ref.first_used_at.is_some());
    assert_eq!(rows[0].key_ref.secret_uuid, Some(done.secret_uuid));
    assert_eq!(fixture.opening_row(&guest), Some(done.key_ref));
    let dek = dek(&fixture, &guest, done.key_ref);
    let data = TpmData::decrypt(&state(&fixture, &guest), &dek).unwrap();
    assert!(data.same_as(&TpmData::from_plain(&before).unwrap().unwrap()));
    assert!(fixture.would_start(&guest));
    let events = fixture.store().history(EventFilter::All, 9).unwrap();
    assert!(
        events[0]
            .message
            .contains("encrypted with a key of provider \"a\"")
    );

    let again = run(&fixture).unwrap();
    assert_eq!(again.action, EncryptAction::None);
    assert_eq!(
        (again.key_ref, again.secret_uuid),
        (done.key_ref, done.secret_uuid)
    );
    assert_eq!(fixture.rows(&guest), rows);
}

#[test]
fn a_kill_at_any_moment_leaves_a_guest_that_starts_or_that_the_next_run_completes() {
    kill::everywhere(
        |fixture| drop(plain(fixture)),
        |fixture| drop(run(fixture).unwrap()),
        |fixture| {
            let guest = fixture.defined("vm1");
            let is_plain = TpmData::from_plain(&state(fixture, &guest))
                .unwrap()
                .is_some();
            let half_done = is_plain && secret_in_xml(fixture, &guest).is_some();
            assert!(half_done != fixture.is_allowed(&guest));
            assert!(is_plain || fixture.opening_row(&guest).is_some());
        },
        |fixture| {
            let guest = fixture.defined("vm1");
            assert!(fixture.would_start(&guest));
            let rows = fixture.rows(&guest);
            assert_eq!(rows.len(), 1, "{rows:#?}");
            assert_eq!(saved_plain_states(fixture), 1);
        },
    );
}

#[test]
fn a_state_that_cannot_be_replaced_stays_plain_and_the_next_run_completes_it() {
    let mut failed = 0;
    meanwhile::everywhere(
        |fixture| drop(plain(fixture)),
        |fixture| meanwhile::obstruct(fixture, &fixture.defined("vm1")),
        run,
        |fixture, result| {
            let guest = fixture.defined("vm1");
            meanwhile::clear(fixture, &guest);
            if let Err(error) = result {
                failed += usize::from(matches!(error, EncryptError::Unfinished { .. }));
                let is_plain = TpmData::from_plain(&state(fixture, &guest)).unwrap();
                assert!(is_plain.is_some(), "{error:?}");
                run(fixture).unwrap();
            }
            assert!(fixture.would_start(&guest));
        },
    );
    assert!(failed > 0);
}

#[test]
fn the_placeholder_gets_the_key_and_names_the_provider_unless_another_is_asked_for() {
    for (named, used) in [(None, "b"), (Some("a"), "a")] {
        let fixture = Fixture::new();
        let guest = plain(&fixture);
        let b = fixture.provider("b").uuid;
        fixture
            .store()
            .bind(guest.uuid, b, Timestamp::now())
            .unwrap();
        let placeholder = fixture.rows(&guest)[0].key_ref.id;
        let done = encrypt(&fixture.host, "vm1", named).unwrap();
        assert_eq!((done.key_ref, &*done.provider.name), (placeholder, used));
        assert!(fixture.would_start(&guest));

        // The placeholder stays one, where it comes to nothing.
        let fixture = Fixture::new();
        let guest = plain(&fixture);
        let b = fixture.provider("b").uuid;
        fixture
            .store()
            .bind(guest.uuid, b, Timestamp::now())
            .unwrap();
        fixture
            .libvirt
            .fail_each(Call::EncryptVtpm, Failure::Refused);
        encrypt(&fixture.host, "vm1", named).unwrap_err();
        let rows = fixture.rows(&guest);
        let mut in_use = rows.iter().filter(|row| row.retired_at.is_none());
        assert!(
            in_use.next().unwrap().key_ref.wrapped_dek.is_none(),
            "{rows:#?}"
        );
        assert!(in_use.next().is_none(), "{rows:#?}");
    }
}

#[test]
fn a_key_of_the_guest_is_used_if_it_is_of_the_provider_that_was_named() {
    for (named, is_used) in [(None, true), (Some("a"), true), (Some("b"), false)] {
        let fixture = Fixture::new();
        let guest = plain(&fixture);
        let key_ref = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
        let done = encrypt(&fixture.host, "vm1", named).unwrap();
        assert_eq!(done.key_ref == key_ref, is_used);
        assert_eq!(done.secret_uuid == guest.secret, is_used);
        assert!(fixture.would_start(&guest));
    }
}

#[test]
fn a_run_that_stopped_half_way_is_completed_by_the_next_one() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    let before = state(&fixture, &guest);
    let first = run(&fixture).unwrap();

    // libvirt has the new XML, the state is still plain.
    fixture.write_state(&guest, &before);
    assert!(!fixture.is_allowed(&guest));
    let second = run(&fixture).unwrap();
    assert_eq!(second.action, EncryptAction::Encrypted);
    assert_eq!(
        (second.key_ref, second.secret_uuid),
        (first.key_ref, first.secret_uuid)
    );
    assert!(fixture.would_start(&guest));

    // Somebody put the old XML back.
    fixture.define_with("vm1", guest.uuid, guest.secret, "");
    assert!(!fixture.is_allowed(&guest));
    fixture.libvirt.fail_at(3, Failure::Refused);
    let failed = run(&fixture).unwrap_err();
    assert!(
        matches!(failed, EncryptError::NotRedefined(..)),
        "{failed:?}"
    );
    fixture.libvirt.fail_at(3, Failure::AnswerLost);
    let failed = run(&fixture).unwrap_err();
    assert!(
        matches!(failed, EncryptError::Unfinished { .. }),
        "{failed:?}"
    );
    fixture.define_with("vm1", guest.uuid, guest.secret, "");
    let third = run(&fixture).unwrap();
    assert_eq!(third.action, EncryptAction::Completed);
    assert_eq!(
        (third.key_ref, third.secret_uuid),
        (first.key_ref, first.secret_uuid)
    );
    assert!(fixture.would_start(&guest));
}

#[test]
fn an_attempt_that_fails_before_the_xml_changes_leaves_everything_and_its_key_is_used_again() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    let before = state(&fixture, &guest);
    fixture
        .libvirt
        .fail_each(Call::EncryptVtpm, Failure::Refused);
    let failed = run(&fixture).unwrap_err();
    assert!(
        matches!(failed, EncryptError::NotRedefined(..)),
        "{failed:?}"
    );
    assert_unchanged(&fixture, &guest, &before);
    fixture.libvirt.recover();

    let directory = fixture
        .host
        .state_dir()
        .plain_states()
        .join(guest.uuid.to_string());
    fs::create_dir_all(directory.join("tpm2-00.permall/in-the-way")).unwrap();
    let failed = run(&fixture).unwrap_err();
    assert!(matches!(failed, EncryptError::NotSaved(_)), "{failed:?}");
    assert_unchanged(&fixture, &guest, &before);

    let retired = fixture.rows(&guest);
    assert_eq!(
        retired.len(),
        1,
        "the second attempt took the key of the first"
    );
    run(&fixture).unwrap();
    let rows = fixture.rows(&guest);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0].key_ref.wrapped_dek, retired[0].key_ref.wrapped_dek);
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_libvirt_whose_answer_is_lost_leaves_it_to_the_next_run() {
    for failure in [Failure::Unreachable, Failure::AnswerLost] {
        let fixture = Fixture::new();
        let guest = plain(&fixture);
        fixture.libvirt.fail_each(Call::EncryptVtpm, failure);
        let failed = run(&fixture).unwrap_err();
        assert!(
            matches!(failed, EncryptError::Unfinished { .. }),
            "{failed:?}"
        );
        fixture.libvirt.recover();
        assert_eq!(run(&fixture).unwrap().action, EncryptAction::Encrypted);
        assert_eq!(fixture.rows(&guest).len(), 1);
        assert!(fixture.would_start(&guest));
    }
}

#[test]
fn a_store_that_fails_once_the_xml_has_changed_leaves_it_to_the_next_run() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    fixture.guest_in_use("vm2");
    // No second key can be used.
    fixture.sql("CREATE UNIQUE INDEX one ON key_ref (first_used_at IS NULL)");
    let failed = run(&fixture).unwrap_err();
    assert!(
        matches!(&failed, EncryptError::Unfinished { cause, .. } if matches!(**cause, StoppedError::Guest(_))),
        "{failed:?}"
    );
    fixture.sql("DROP INDEX one");
    assert_eq!(run(&fixture).unwrap().action, EncryptAction::Encrypted);
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_key_that_cannot_be_removed_again_is_used_by_the_next_run() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    let other = fixture.define("vm2");
    let row = fixture.add_key(&other, "a", &Dek::generate().unwrap());
    fixture.store().retire(row, Timestamp::now()).unwrap();
    // No second key can be retired.
    fixture.sql("CREATE UNIQUE INDEX one ON key_ref (retired_at IS NULL)");
    fixture
        .libvirt
        .fail_each(Call::EncryptVtpm, Failure::Refused);
    let failed = run(&fixture).unwrap_err();
    let EncryptError::NotUndone { error, left } = failed else {
        panic!("{failed:?}");
    };
    assert!(
        matches!(*error, EncryptError::NotRedefined(..)),
        "{error:?}"
    );
    assert!(matches!(left, HostError::Store(_)), "{left:?}");
    let key_ref = fixture.rows(&guest)[0].key_ref.id;
    fixture.sql("DROP INDEX one");
    fixture.libvirt.recover();
    assert_eq!(run(&fixture).unwrap().key_ref, key_ref);
    assert!(fixture.would_start(&guest));
}

#[test]
fn a_history_that_cannot_be_written_is_reported_and_the_guest_starts() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    fixture.sql("CREATE UNIQUE INDEX one ON event (operation IS NOT NULL)");
    fixture.sql("INSERT INTO event (domain_name, operation) VALUES ('vm2', 'check')");
    let done = run(&fixture).unwrap();
    assert!(done.not_recorded.is_some());
    assert!(fixture.would_start(&guest));
}

#[test]
fn what_cannot_be_encrypted_is_refused() {
    let fixture = Fixture::new();
    let refused = || run(&fixture).unwrap_err();
    let error = refused();
    assert!(
        matches!(
            &error,
            EncryptError::Stopped(StoppedError::Guest(GuestError::NotFound(text))) if text == "vm1"
        ),
        "{error:?}"
    );
    let guest = define(&fixture, "");
    let is_without_state = |expected| matches!(refused(), EncryptError::NoState { is_encrypted, .. } if is_encrypted == expected);
    assert!(is_without_state(false));
    fixture.write_state(&guest, b"no TPM state");
    let error = refused();
    assert!(
        matches!(error, EncryptError::Stopped(StoppedError::Recrypt(..))),
        "{error:?}"
    );
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    assert!(matches!(refused(), EncryptError::NoKeyOpens(..)));
    fixture.libvirt.guests.start("vm1");
    assert!(matches!(
        refused(),
        EncryptError::Stopped(StoppedError::Running(_))
    ));
    fixture.libvirt.guests.stop("vm1");

    fs::remove_file(fixture.state_file(&guest)).unwrap();
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    fixture.define_with("vm1", guest.uuid, guest.secret, &encryption);
    assert!(is_without_state(true));
    assert!(fixture.rows(&guest).is_empty());
}

#[test]
fn without_a_provider_or_a_store_nothing_is_encrypted() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    let before = state(&fixture, &guest);
    assert!(matches!(
        encrypt(&fixture.host, "vm1", Some("c")),
        Err(EncryptError::Provider(ProviderError::Host(_)))
    ));
    fixture.sql("UPDATE key_provider SET is_default = 0");
    assert!(matches!(
        run(&fixture),
        Err(EncryptError::Provider(ProviderError::NoDefault))
    ));
    fixture.lose_key("b");
    let error = encrypt(&fixture.host, "vm1", Some("b")).unwrap_err();
    assert!(
        matches!(
            error,
            EncryptError::Stopped(StoppedError::Guest(GuestError::Host(HostError::MakeKey(_))))
        ),
        "{error:?}"
    );
    assert_unchanged(&fixture, &guest, &before);
    fs::remove_file(fixture.host.state_dir().store()).unwrap();
    let error = run(&fixture).unwrap_err();
    assert!(
        matches!(
            error,
            EncryptError::Stopped(StoppedError::Guest(GuestError::Host(HostError::Store(
                StoreError::Missing
            ))))
        ),
        "{error:?}"
    );
}
