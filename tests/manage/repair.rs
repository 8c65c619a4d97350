//! `repair`, and what `check`, `status` and `replay` see of it.

use std::cell::Cell;
use std::fs;

use serde_json::json;

use super::fixture::{Defined, Fixture};
use super::fleet_shared::SharedStore;
use super::kill;
use crate::domain;
use crate::ids::{DomainUuid, SecretUuid};
use crate::manage::dry_start::{self, CheckedGuest, UnsealedKeks};
use crate::manage::guests::{ListedGuest, Source};
use crate::manage::host::{Host, HostError};
use crate::manage::repair::repair;
use crate::manage::replay::{ReplayedCall, replay};
use crate::store::EventFilter;
use crate::verdict::code::Code;
use crate::verdict::{Decision, Reason};

/// A guest with a placeholder beside its key.
fn guest_to_repair(fixture: &Fixture) -> Defined {
    let guest = fixture.guest_in_use("vm1");
    fixture.sql(
        "INSERT INTO key_ref (resource_uuid, secret_uuid, provider_uuid, provider_name) SELECT \
         resource_uuid, secret_uuid, provider_uuid, provider_name FROM key_ref",
    );
    guest
}

fn repaired(fixture: &Fixture, dry_run: bool) -> Vec<CheckedGuest> {
    let guests = fixture.host.listed_guests().unwrap();
    let seen = Cell::new(0);
    let repaired = repair(&fixture.host, guests, dry_run, &|_| {
        seen.set(seen.get() + 1);
    })
    .unwrap();
    assert_eq!(seen.get(), repaired.len());
    repaired
}

fn checked(host: &Host, guest: ListedGuest) -> CheckedGuest {
    let mut checked = dry_start::check(host, &[guest], &UnsealedKeks::default(), &|_| ()).unwrap();
    checked.pop().unwrap()
}

fn call(operation: &str, dry_run: bool) -> ReplayedCall<'_> {
    ReplayedCall {
        operation,
        sub_operation: if operation == "prepare" {
            "begin"
        } else {
            "end"
        },
        dry_run,
        no_secret: false,
    }
}

fn listed(fixture: &Fixture, name: &str) -> ListedGuest {
    fixture.host.defined_guest(name).unwrap().into()
}

#[test]
fn a_provider_key_that_was_opened_once_is_not_opened_again() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    let guests = fixture.host.listed_guests().unwrap();
    let keks = UnsealedKeks::default();
    let starts = |keks: &UnsealedKeks| {
        let checked = dry_start::check(&fixture.host, &guests, keks, &|_| ()).unwrap();
        checked.iter().all(|one| one.outcome.is_allowed())
    };
    assert!(starts(&keks));
    fixture.lose_key("a");
    assert!(starts(&keks));
    assert!(!starts(&UnsealedKeks::default()));
}

#[test]
fn a_dry_run_shows_what_repair_does_and_repair_does_it_once() {
    let fixture = Fixture::new();
    let guest = guest_to_repair(&fixture);
    let planned = repaired(&fixture, true);
    assert!(planned[0].has_repairs() && planned[0].outcome.dry_run);
    assert_eq!(fixture.rows(&guest).len(), 2);

    let done = repaired(&fixture, false);
    assert!(done[0].has_repairs() && !done[0].outcome.dry_run);
    assert_eq!(fixture.rows(&guest).len(), 1);
    assert!(fixture.would_start(&guest));
    assert!(!fixture.libvirt.secrets.all().contains(&guest.secret));
    assert!(!repaired(&fixture, false)[0].has_repairs());
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let fixture = Fixture::new();
    let guest = guest_to_repair(&fixture);
    let guests = fixture.host.listed_guests().unwrap();
    fs::write(fixture.root().join("config.toml"), "nonsense = 1\n").unwrap();
    let error = repair(&fixture.host, guests, false, &|_| ()).err();
    assert!(matches!(error, Some(HostError::Config(_))), "{error:?}");
    assert_eq!(fixture.rows(&guest).len(), 2);
}

#[test]
fn a_kill_leaves_a_row_that_opens_the_tpm() {
    kill::everywhere(
        |fixture| drop(guest_to_repair(fixture)),
        |fixture| drop(repaired(fixture, false)),
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
        |fixture| {
            let guest = fixture.defined("vm1");
            assert_eq!(fixture.rows(&guest).len(), 1);
            assert!(fixture.would_start(&guest));
        },
    );
}

#[test]
fn check_and_a_dry_replay_give_the_same_answer_and_change_nothing() {
    let fixture = Fixture::new();
    let guest = guest_to_repair(&fixture);
    let checked = checked(&fixture.host, listed(&fixture, "vm1"));
    let replayed = replay(
        &fixture.host,
        listed(&fixture, "vm1"),
        call("prepare", true),
    )
    .unwrap();
    let documents = [&checked, &replayed.guest].map(|one| serde_json::to_value(one).unwrap());
    assert_eq!(documents[0], documents[1]);
    assert_eq!(checked.named().uuid, Some(guest.uuid));
    assert_eq!(fixture.rows(&guest).len(), 2);
    assert!(
        fixture
            .store()
            .history(EventFilter::All, 1)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_replayed_start_is_carried_out_and_its_secret_dropped() {
    let fixture = Fixture::new();
    let log = fixture.root().join("log");
    fixture.configure(&format!("[log]\ntarget = {log:?}"));
    let guest = guest_to_repair(&fixture);
    let replayed = replay(
        &fixture.host,
        listed(&fixture, "vm1"),
        call("prepare", false),
    )
    .unwrap();
    assert!(replayed.guest.outcome.is_allowed());
    assert!(replayed.secret_left.is_none());
    assert_eq!(fixture.rows(&guest).len(), 1);
    assert_eq!(fixture.libvirt.secrets.all(), []);

    // A guest that runs needs it.
    fixture.libvirt.guests.start("vm1");
    replay(
        &fixture.host,
        listed(&fixture, "vm1"),
        call("prepare", false),
    )
    .unwrap();
    assert_eq!(fixture.libvirt.secrets.all(), [guest.secret]);

    let after = replay(
        &fixture.host,
        listed(&fixture, "vm1"),
        call("release", true),
    )
    .unwrap();
    let no_start = Decision::Allow(Reason::NotAStart);
    assert_eq!(after.guest.outcome.verdict.decision(), &no_start);
    replay(
        &fixture.host,
        listed(&fixture, "vm1"),
        call("release", false),
    )
    .unwrap();
    let unknown = replay(
        &fixture.host,
        listed(&fixture, "vm1"),
        call("nonsense", false),
    )
    .unwrap();
    assert_eq!(unknown.guest.outcome.verdict.decision(), &no_start);
}

#[test]
fn a_replayed_start_leaves_the_secret_where_every_start_does() {
    let fixture = Fixture::new();
    fixture.configure("[secret]\nlifetime = \"keep\"");
    let guest = guest_to_repair(&fixture);
    let start = call("prepare", false);
    let replayed = replay(&fixture.host, listed(&fixture, "vm1"), start).unwrap();
    assert!(replayed.guest.outcome.is_allowed());
    assert_eq!(fixture.libvirt.secrets.all(), [guest.secret]);
}

#[test]
fn without_libvirt_a_replay_leaves_no_secret() {
    let fixture = Fixture::new();
    guest_to_repair(&fixture);
    let call = ReplayedCall {
        no_secret: true,
        ..call("prepare", true)
    };
    let replayed = replay(&fixture.host, listed(&fixture, "vm1"), call).unwrap();
    assert!(replayed.guest.outcome.is_allowed());
    assert_eq!(fixture.libvirt.secrets.all(), []);
}

#[test]
fn xml_that_cannot_be_read_is_reported_as_a_start_that_would_fail() {
    let fixture = Fixture::new();
    let broken = ListedGuest {
        name: "broken".to_owned(),
        source: Source::File,
        domain: domain::examine("<domain><name>x</name>".as_bytes()),
    };
    let checked = checked(&fixture.host, broken);
    let code = match checked.outcome.verdict.decision() {
        Decision::Deny(why) => Some(why.code()),
        Decision::Allow(_) => None,
    };
    assert_eq!(code, Some(Code::DomainXmlInvalid));
}

#[test]
fn a_guest_whose_xml_cannot_be_read_keeps_the_name_under_which_libvirt_lists_it() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    fixture.libvirt.guests.spoil("vm1");
    let checked = checked(&fixture.host, listed(&fixture, "vm1"));
    let named = json!({"name": "vm1", "uuid": guest.uuid.to_string()});
    for one in [&checked, &repaired(&fixture, true)[0]] {
        assert_eq!(one.uuid(), Some(guest.uuid));
        assert_eq!(serde_json::to_value(one).unwrap()["domain"], named);
    }
    assert_eq!(serde_json::to_value(&checked).unwrap()["code"], "VG501");
}

#[test]
fn many_guests_are_checked_in_their_order() {
    let fixture = Fixture::new();
    for number in 0..40 {
        let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
        fixture.define_with(&format!("vm{number:02}"), uuid, secret, "");
    }
    let guests = fixture.host.listed_guests().unwrap();
    let checked =
        dry_start::check(&fixture.host, &guests, &UnsealedKeks::default(), &|_| ()).unwrap();
    let names: Vec<_> = checked.iter().map(|one| one.name.clone()).collect();
    let expected: Vec<_> = guests.into_iter().map(|guest| guest.name).collect();
    assert_eq!(names, expected);
}

#[test]
fn hundreds_of_guests_are_checked_at_once() {
    let fixture = Fixture::new();
    let broken = |number: i32| ListedGuest {
        name: number.to_string(),
        source: Source::File,
        domain: domain::examine("<domain><name>x</name>".as_bytes()),
    };
    let guests: Vec<_> = (0..400).map(broken).collect();
    let keks = UnsealedKeks::default();
    let checked = dry_start::check(&fixture.host, &guests, &keks, &|_| ()).unwrap();
    assert_eq!(checked.len(), guests.len());
    assert!(checked.iter().all(|one| !one.outcome.is_allowed()));
}

#[test]
fn what_follows_a_start_is_replayed_unless_nothing_is_to_be_changed() {
    let fixture = Fixture::new();
    let store = SharedStore::new();
    store.join(&fixture, "one");
    let guest = fixture.guest_in_use("vm1");
    let runs = |dry_run: bool| {
        let call = ReplayedCall {
            sub_operation: "begin",
            ..call("started", dry_run)
        };
        replay(&fixture.host, listed(&fixture, "vm1"), call).unwrap();
        fixture.store().placements(guest.uuid).unwrap().len()
    };
    assert_eq!(runs(true), 0);
    assert_eq!(runs(false), 1);
}
