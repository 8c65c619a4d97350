//! `state persist`, `--persistent-state`, and whose TPM state libvirt would delete.

use super::fixture::Fixture;
use super::kill;
use crate::domain::Vtpm;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::fake::{Call, Failure};
use crate::manage::guests::{GuestError, GuestRef, ListedGuest};
use crate::manage::persist_state::{
    DeletedStates, PersistError, PersistedState, Survival, persist,
};
use crate::manage::stopped_guest::StoppedError;

fn is_set(fixture: &Fixture, name: &str) -> bool {
    let domain = fixture.domain(&fixture.defined(name));
    matches!(domain.vtpm, Some(Vtpm::Emulator(vtpm)) if vtpm.persistent_state)
}

fn named(fixture: &Fixture, name: &str) -> Result<bool, PersistError> {
    let mut done = persist(&fixture.host, Some(&[name.to_owned()]))?;
    done.remove(0).changed
}

fn deleted(fixture: &Fixture) -> DeletedStates {
    let guests = fixture.host.guests().unwrap().into_iter();
    let guests: Vec<_> = guests.map(ListedGuest::from).collect();
    DeletedStates::find(&fixture.host, &guests).unwrap()
}

#[test]
fn it_is_set_once_for_those_that_are_named_or_for_all_that_are_encrypted() {
    let fixture = Fixture::new();
    assert!(persist(&fixture.host, None).unwrap().is_empty());
    fixture.define("vm1");
    fixture.define("vm2");
    fixture.define_with("plain", DomainUuid::random(), SecretUuid::random(), "");
    fixture.libvirt.guests.start("vm2");
    assert!(named(&fixture, "vm1").unwrap() && is_set(&fixture, "vm1"));
    assert!(!named(&fixture, "vm1").unwrap());
    let all = persist(&fixture.host, None).unwrap();
    let all: Vec<_> = all
        .into_iter()
        .map(|one| (one.guest.label(), one.changed.unwrap(), one.running))
        .collect();
    let row = |name: &str, changed, running| (name.to_owned(), changed, running);
    assert_eq!(all, [row("vm1", false, false), row("vm2", true, true)]);
    assert!(is_set(&fixture, "vm2") && !is_set(&fixture, "plain"));
    assert!(named(&fixture, "plain").unwrap());
}

#[test]
fn a_guest_for_which_it_cannot_be_set_is_reported_and_the_others_are_not_left_out() {
    let fixture = Fixture::new();
    for name in ["vm1", "vm2", "vm3"] {
        fixture.define(name);
    }
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.spoil("vm2");
    let all = || persist(&fixture.host, None).unwrap();
    let results = |all: &[PersistedState]| {
        let one = |one: &PersistedState| (one.guest.label(), one.changed.as_ref().ok().copied());
        all.iter().map(one).collect::<Vec<_>>()
    };
    let row = |name: &str, changed| (name.to_owned(), changed);
    let done = all();
    let expected = [
        row("vm1", Some(true)),
        row("vm2", None),
        row("vm3", Some(true)),
    ];
    assert_eq!(results(&done), expected);
    let unreadable = done[1].changed.as_ref().unwrap_err();
    assert!(
        matches!(unreadable, PersistError::Guest(StoppedError::UnreadableXml(guest, _)) if guest.label() == "vm2"),
        "{unreadable:?}"
    );
    // libvirt refuses one: the next one is asked for all the same. One that does not answer is not waited for again.
    for (failure, calls) in [(Failure::Refused, 2), (Failure::Unreachable, 1)] {
        fixture.libvirt.fail_each(Call::PersistVtpmState, failure);
        let before = fixture.libvirt.calls_of(Call::PersistVtpmState);
        let done = all();
        assert_eq!(
            results(&done),
            ["vm1", "vm2", "vm3"].map(|name| row(name, None))
        );
        assert_eq!(
            fixture.libvirt.calls_of(Call::PersistVtpmState) - before,
            calls
        );
        fixture.libvirt.recover();
    }
}

#[test]
fn what_cannot_be_set_is_an_error_and_changes_nothing() {
    let fixture = Fixture::new();
    let unknown = named(&fixture, "nobody").unwrap_err();
    assert!(
        matches!(
            &unknown,
            PersistError::Guest(StoppedError::Guest(GuestError::NotFound(name))) if name == "nobody"
        ),
        "{unknown:?}"
    );
    fixture.define("vm1");
    for failure in [Failure::Refused, Failure::Unreachable] {
        fixture.libvirt.fail_each(Call::PersistVtpmState, failure);
        let error = named(&fixture, "vm1").unwrap_err();
        assert!(matches!(error, PersistError::NotRedefined(..)), "{error:?}");
        assert!(!is_set(&fixture, "vm1"));
    }
    // It is done, and only the answer is lost: the next run finds it so.
    fixture
        .libvirt
        .fail_each(Call::PersistVtpmState, Failure::AnswerLost);
    named(&fixture, "vm1").unwrap_err();
    assert!(is_set(&fixture, "vm1"));

    fixture.define("vm2");
    fixture.libvirt.guests.start("vm2");
    fixture.libvirt.guests.undefine("vm2");
    let transient = named(&fixture, "vm2").unwrap_err();
    assert!(
        matches!(&transient, PersistError::Transient(guest) if guest.label() == "vm2"),
        "{transient:?}"
    );
}

#[test]
fn a_kill_at_any_moment_leaves_the_xml_from_before_or_from_after() {
    kill::everywhere(
        |fixture| drop(fixture.define("vm1")),
        |fixture| assert!(named(fixture, "vm1").is_ok()),
        |fixture| drop(fixture.defined("vm1")),
        |fixture| assert!(is_set(fixture, "vm1")),
    );
}

#[test]
fn only_a_used_key_whose_state_would_go_is_reported() {
    let fixture = Fixture::new();
    fixture.define("unbound");
    assert_eq!(deleted(&fixture), DeletedStates::default());
    fixture.guest_in_use("vm1");
    fixture.guest_in_use("vm2");
    let names = |guests: &[GuestRef]| guests.iter().map(GuestRef::label).collect::<Vec<_>>();
    assert_eq!(names(&deleted(&fixture).at_undefine), ["vm1", "vm2"]);

    // Of a transient guest it goes at each stop.
    fixture.libvirt.guests.start("vm2");
    fixture.libvirt.guests.undefine("vm2");
    let found = deleted(&fixture);
    assert_eq!(names(&found.at_undefine), ["vm1"]);
    assert_eq!(names(&found.at_stop), ["vm2"]);
    let uuid = found.at_stop[0].uuid;
    assert_eq!(found.moment(uuid), Some("stop"));
    assert_eq!(found.moment(found.at_undefine[0].uuid), Some("undefine"));
    assert_eq!(found.moment(DomainUuid::random()), None);

    let left = Survival::of(&fixture.host, "vm1", false).unwrap();
    assert!(!left.persistent_state_set);
    assert_eq!(names(&left.deleted.at_undefine), ["vm1"]);
    let set = Survival::of(&fixture.host, "vm1", true).unwrap();
    assert!(set.persistent_state_set && set.deleted == DeletedStates::default());
    assert!(deleted(&fixture).at_undefine.is_empty());
    fixture.configure("[state]\nkeep = \"all\"");
    assert_eq!(deleted(&fixture), DeletedStates::default());
}

#[test]
fn what_libvirt_has_not_kept_is_an_error() {
    let fixture = Fixture::new();
    fixture.define("vm1");
    fixture.libvirt.guests.keep_as_it_is("vm1");
    let lost = named(&fixture, "vm1").unwrap_err();
    assert!(matches!(lost, PersistError::NotReadBack(_)), "{lost:?}");
}

#[test]
fn nothing_is_lost_with_the_state_of_a_key_that_no_start_has_used() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    assert_eq!(deleted(&fixture).moment(guest.uuid), Some("undefine"));
    fixture.sql("UPDATE key_ref SET first_used_at = NULL");
    assert_eq!(deleted(&fixture), DeletedStates::default());
}
