//! Starts by the hook's own way, and what follows them: which row the history has of each, and when
//! libvirt is asked.

use std::time::Duration;

use super::fixture::{Defined, Fixture};
use crate::clock::{Deadline, Timestamp};
use crate::guard::{Ending, Guard, HookCall, Mode, Operation, follow_up, prepare};
use crate::key::dek::Dek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::fake::{Call, Failure};
use crate::manage::bind::bind;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::store::{EventFilter, EventRow, Origin};
use crate::verdict::code::Code;
use crate::verdict::{Decision, Finding};

/// The guard as libvirtd calls it.
pub(super) fn called(fixture: &Fixture) -> Guard {
    let mut guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    guard.call = Some(HookCall {
        attempt: Box::new(|| "1 1 1".to_owned()),
        xml: [].into(),
    });
    guard
}

/// A start, as far as the guard judges it. The code of its refusal.
fn start(fixture: &Fixture, guest: &Defined) -> Option<Code> {
    let (guard, domain) = (called(fixture), Ok(fixture.domain(guest)));
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    let outcome = prepare(&guard, &domain, origin, mode, default_deadline());
    match outcome.verdict.decision() {
        Decision::Allow(_) => None,
        Decision::Deny(why) => Some(why.code()),
    }
}

/// What libvirt calls after a start that failed or was refused.
fn fail(fixture: &Fixture, guest: &Defined) {
    for operation in [Operation::Ended, Operation::Released(Ending::Failed)] {
        let domain = fixture.domain(guest);
        let done = follow_up(&called(fixture), operation, &domain, default_deadline());
        // A libvirt that does not answer is what some of these are about.
        drop(done);
    }
}

fn history(fixture: &Fixture, guest: &Defined) -> Vec<EventRow> {
    let events = EventFilter::Domain(guest.uuid);
    fixture.store().history(events, 100).unwrap()
}

/// The operation, the code and the repairs of each row, newest first.
fn rows(fixture: &Fixture, guest: &Defined) -> Vec<(String, Option<Code>, bool)> {
    let describe = |row: EventRow| (row.operation, row.code, row.repairs_json != "[]");
    let rows = history(fixture, guest).into_iter().map(describe);
    rows.collect()
}

#[test]
fn a_start_is_one_row_with_what_became_of_it() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    // What the verdict repairs: the row names another secret.
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    assert_eq!(start(&fixture, &guest), None);
    assert_eq!(rows(&fixture, &guest), [("prepare".to_owned(), None, true)]);

    // It fails after it was allowed: the same row says so, and keeps what was repaired.
    fail(&fixture, &guest);
    assert_eq!(rows(&fixture, &guest), [("stopped".to_owned(), None, true)]);
    let message = history(&fixture, &guest).remove(0).message;
    assert!(message.starts_with("the start failed after"), "{message}");

    // One that works is a row of its own.
    assert_eq!(start(&fixture, &guest), None);
    let domain = fixture.domain(&guest);
    let guard = called(&fixture);
    follow_up(&guard, Operation::Started, &domain, default_deadline()).unwrap();
    fail(&fixture, &guest);
    let operations = |rows: &[(String, Option<Code>, bool)]| {
        let operations = rows.iter().map(|(operation, ..)| operation.clone());
        operations.collect::<Vec<_>>()
    };
    let found = rows(&fixture, &guest);
    assert_eq!(operations(&found), ["prepare", "stopped"]);
}

#[test]
fn a_start_whose_key_libvirt_does_not_take_is_one_row_with_the_refusal() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    for (failure, code) in [
        (Failure::Unreachable, Code::LibvirtUnreachable),
        (Failure::Refused, Code::SecretRefused),
    ] {
        let before = rows(&fixture, &guest).len();
        fixture.libvirt.fail_each(Call::Provide, failure);
        assert_eq!(start(&fixture, &guest), Some(code));
        fail(&fixture, &guest);
        let found = rows(&fixture, &guest);
        assert_eq!(found.len(), before + 1, "{found:?}");
        assert_eq!(found[0].0, "prepare");
        assert_eq!(found[0].1, Some(code));
    }
    assert!(rows(&fixture, &guest)[1].2, "the repairs stay in its row");
}

/// Until then the first verdict is recorded, and repaired; the start is judged once more.
#[test]
fn a_start_whose_secret_changes_meanwhile_is_one_row() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    // The guest's XML is asked for, its secret inspected, and then it is to get the key.
    fixture.libvirt.fail_at(3, Failure::Changed);
    assert_eq!(start(&fixture, &guest), None);
    assert_eq!(fixture.libvirt.calls_of(Call::Provide), 2);
    assert_eq!(rows(&fixture, &guest), [("prepare".to_owned(), None, true)]);

    // It never stops changing: the row says what became of the start.
    let guest = fixture.guest_in_use("vm2");
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    fixture.libvirt.fail_each(Call::Provide, Failure::Changed);
    let code = Some(Code::StoreUnavailable);
    assert_eq!(start(&fixture, &guest), code);
    assert_eq!(rows(&fixture, &guest), [("prepare".to_owned(), code, true)]);
}

#[test]
fn a_refused_start_that_provided_nothing_is_followed_by_no_question() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture
        .libvirt
        .fail_each(Call::Inspect, Failure::Unreachable);
    assert_eq!(start(&fixture, &guest), Some(Code::LibvirtUnreachable));
    fail(&fixture, &guest);
    assert_eq!(fixture.libvirt.calls_of(Call::DropOwn), 0);
    assert_eq!(rows(&fixture, &guest).len(), 1);

    // Nor is one that the table refuses.
    fixture.libvirt.recover();
    fixture.lose_key("a");
    assert_eq!(start(&fixture, &guest), Some(Code::ProviderSealed));
    fail(&fixture, &guest);
    assert_eq!(fixture.libvirt.calls_of(Call::DropOwn), 0);

    // The next run of the guest has a secret again, and ends with it.
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture
        .libvirt
        .fail_each(Call::Inspect, Failure::Unreachable);
    start(&fixture, &guest);
    fail(&fixture, &guest);
    fixture.libvirt.recover();
    assert_eq!(start(&fixture, &guest), None);
    assert!(fixture.libvirt.secrets.value(guest.secret).is_some());
    fail(&fixture, &guest);
    assert!(fixture.libvirt.secrets.value(guest.secret).is_none());
}

#[test]
fn what_libvirt_may_have_taken_after_all_is_dropped() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture
        .libvirt
        .fail_each(Call::Provide, Failure::AnswerLost);
    assert_eq!(start(&fixture, &guest), Some(Code::LibvirtUnreachable));
    assert!(fixture.libvirt.secrets.value(guest.secret).is_some());
    fixture.libvirt.recover();
    fail(&fixture, &guest);
    assert!(fixture.libvirt.secrets.value(guest.secret).is_none());
}

/// A store that somebody else has locked: neither its history nor anything else makes a start last longer than it may.
#[test]
fn a_locked_store_holds_no_start_beyond_its_deadline() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let database = fixture.host.state_dir().join("store.db");
    let lock = rusqlite::Connection::open(database).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let judge = || {
        let (guard, domain) = (called(&fixture), Ok(fixture.domain(&guest)));
        let deadline = Deadline::after(Duration::from_millis(700));
        let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
        let outcome = prepare(&guard, &domain, origin, mode, deadline);
        assert!(!deadline.has_passed(), "it came too late");
        outcome
    };
    // What cannot be recorded refuses nothing.
    let allowed = judge();
    assert!(allowed.is_allowed(), "{:?}", allowed.verdict);
    let findings = allowed.verdict.findings();
    assert!(
        findings
            .iter()
            .any(|it| matches!(it, Finding::NotRecorded(_))),
        "{findings:?}"
    );
    // Nor does it hold the answer of a start that is refused afterwards.
    fixture.libvirt.fail_each(Call::Provide, Failure::Refused);
    let refused = judge();
    let Decision::Deny(why) = refused.verdict.decision() else {
        panic!("{:?}", refused.verdict)
    };
    assert_eq!(why.code(), Code::SecretRefused);
    drop(lock);
    assert_eq!(rows(&fixture, &guest), []);
}

/// The guest would have a TPM whose key nobody knows afterwards.
#[test]
fn a_new_key_that_cannot_be_stored_is_given_to_no_guest() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    bind(&fixture.host, "vm1", None).unwrap();
    let database = fixture.host.state_dir().join("store.db");
    let lock = rusqlite::Connection::open(database).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (guard, domain) = (called(&fixture), Ok(fixture.domain(&guest)));
    let deadline = Deadline::after(Duration::from_millis(700));
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    let refused = prepare(&guard, &domain, origin, mode, deadline);
    let Decision::Deny(why) = refused.verdict.decision() else {
        panic!("{:?}", refused.verdict)
    };
    assert_eq!(why.code(), Code::StoreUnavailable);
    assert_eq!(fixture.libvirt.calls_of(Call::Provide), 0);
    drop(lock);
    assert_eq!(start(&fixture, &guest), None);
    assert!(fixture.rows(&guest)[0].key_ref.wrapped_dek.is_some());
}

#[test]
fn a_value_of_libvirts_that_the_guests_key_replaces_is_kept() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let other = Dek::generate().unwrap();
    define_secret(&fixture, &guest, "ephemeral='no' private='no'");
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, other.expose()).unwrap();
    assert_eq!(start(&fixture, &guest), None);
    let value = secrets.value(guest.secret).unwrap();
    assert!(fixture.is_opened_by(&guest, &value));

    let retired: Vec<_> = fixture
        .rows(&guest)
        .into_iter()
        .filter(|row| row.retired_at.is_some())
        .map(|row| row.key_ref)
        .collect();
    let providers = fixture.store().providers().unwrap();
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let kept = unlocker.open_rows(retired, &providers, guest.uuid, default_deadline());
    assert_eq!(kept.len(), 1);
    assert!(kept[0].dek.same_as(&other));
}

#[test]
fn that_the_client_provides_the_key_is_noted_until_a_start_goes_by_another() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let is_noted = || {
        let now = Timestamp::now();
        let references = fixture.store().references(guest.uuid, now).unwrap();
        references.clients_key
    };
    let key = Dek::generate().unwrap();
    define_secret(&fixture, &guest, "ephemeral='yes' private='yes'");
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, key.expose()).unwrap();
    assert_eq!(start(&fixture, &guest), None);
    assert!(is_noted());
    // A refused start goes by no key.
    secrets.undefine(guest.secret);
    assert_eq!(start(&fixture, &guest), Some(Code::KeyMissing));
    assert!(is_noted());
    fixture.add_key(&guest, "a", &key);
    fixture.encrypt_state(&guest, &key);
    assert_eq!(start(&fixture, &guest), None);
    assert!(!is_noted());
}

/// Defines the guest's secret as somebody else would, without a value.
pub(super) fn define_secret(fixture: &Fixture, guest: &Defined, attributes: &str) {
    let secret = guest.secret;
    let xml = format!(
        "<secret {attributes}><uuid>{secret}</uuid><usage type='vtpm'><name>mine</name></usage>\
         </secret>"
    );
    fixture.libvirt.secrets.define(&xml).unwrap();
}
