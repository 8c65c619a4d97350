//! `sync`, `key metadata`, and what the commands that change keys do with metadata.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use super::fixture::{Defined, Fixture};
use super::kill;
use super::meanwhile::once_listed;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{self, NAMESPACE, TravellingKey, TravellingKeys};
use crate::guard::{Operation, follow_up, sync_notes};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::key::wrap::{Generation, WrappedDek};
use crate::keyring::WeakerSeal;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::Libvirt;
use crate::libvirt::fake::{Call, Failure};
use crate::manage::checks::{Finding, KeyFinding, RecoveryFiles, examine};
use crate::manage::host::{BrokenConfig, HostError, default_deadline};
use crate::manage::key_metadata::{self, KeyMetadataError};
use crate::manage::key_refs::unbind;
use crate::manage::keys::show;
use crate::manage::provider_rotate::rotate;
use crate::manage::renew::renew;
use crate::manage::status::status;
use crate::manage::sync::{
    SyncAction, SyncError, Synced, after_change, after_change_until, exclusive, not_travelling,
    sync,
};
use crate::manage::travelling::TravelFinding;

impl Fixture {
    /// Sets `fleet.metadata`.
    pub(crate) fn set_metadata(&self, mode: &str) {
        let path = self.root().join("config.toml");
        let config = fs::read_to_string(&path).unwrap();
        let (config, _) = config.split_once("[fleet]").unwrap_or((&config, ""));
        fs::write(path, format!("{config}[fleet]\nmetadata = {mode:?}\n")).unwrap();
    }

    pub(crate) fn synced(&self) -> Synced {
        sync(&self.host, &|_, _| {}).unwrap()
    }

    /// The elements in the guest's definitions.
    pub(super) fn elements(&self, guest: &Defined) -> Vec<Option<TravellingKeys>> {
        let soon = Deadline::after(std::time::Duration::from_secs(5));
        let found = self.libvirt.metadata(guest.uuid, soon).unwrap().unwrap();
        let read = |text: &str| TravellingKeys::from_libvirt(text).unwrap();
        found.elements().map(|text| text.map(read)).collect()
    }

    /// The keys of its rows in use.
    fn own_keys(&self, guest: &Defined) -> Vec<WrappedDek> {
        let rows = self.rows(guest).into_iter();
        let rows = rows.filter(|row| row.retired_at.is_none());
        rows.filter_map(|row| row.key_ref.wrapped_dek).collect()
    }

    /// Every definition of the guest has its own keys, and no others.
    #[track_caller]
    pub(crate) fn assert_travels(&self, guest: &Defined) {
        for element in self.elements(guest) {
            let element = element.expect("no element");
            let keys = element.keys.into_iter().map(|key| key.wrapped_dek);
            assert_eq!(keys.collect::<Vec<_>>(), self.own_keys(guest));
            assert_eq!(element.domain, Some(guest.uuid));
        }
    }

    #[track_caller]
    pub(crate) fn assert_bare(&self, guest: &Defined) {
        for element in self.elements(guest) {
            assert_eq!(element, None);
        }
    }

    pub(super) fn notes(&self) -> Vec<DomainUuid> {
        let notes = sync_notes::list(&self.host.run_dir()).unwrap();
        notes.into_keys().collect()
    }

    pub(super) fn leave_note(&self, guest: &Defined) {
        sync_notes::leave(&self.host.run_dir(), guest.uuid).unwrap();
    }
}

/// A host that writes keys, with a guest that has one.
fn wrapped() -> (Fixture, Defined) {
    let fixture = Fixture::new();
    fixture.set_metadata("wrapped");
    let guest = fixture.guest_in_use("vm1");
    (fixture, guest)
}

fn actions(synced: &Synced) -> Vec<(&str, SyncAction)> {
    let guests = synced.guests.iter();
    let action = |it: &'_ crate::manage::sync::SyncedGuest| it.action;
    guests
        .map(|it| (it.guest.name.as_deref().unwrap(), action(it)))
        .collect()
}

#[test]
fn keys_are_written_into_both_definitions_once() {
    let (fixture, stopped) = wrapped();
    let running = fixture.guest_in_use("vm2");
    fixture.libvirt.guests.start("vm2");
    let transient = fixture.guest_in_use("vm3");
    fixture.libvirt.guests.start("vm3");
    fixture.libvirt.guests.undefine("vm3");
    let plain = fixture.define_with("vm4", DomainUuid::random(), SecretUuid::random(), "");
    let bound = fixture.define("vm5");
    let all = [("vm1", SyncAction::Written), ("vm2", SyncAction::Written)];
    let all = [&all[..], &[("vm3", SyncAction::Written)]].concat();
    assert_eq!(actions(&fixture.synced()), all);
    for guest in [&stopped, &running, &transient] {
        fixture.assert_travels(guest);
    }
    assert_eq!(fixture.elements(&running).len(), 2);
    fixture.assert_bare(&plain);
    fixture.assert_bare(&bound);

    let writes = fixture.libvirt.calls_of(Call::SetMetadata);
    let again = fixture.synced();
    assert!(again.guests.iter().all(|it| it.action == SyncAction::None));
    assert_eq!(fixture.libvirt.calls_of(Call::SetMetadata), writes);
}

#[test]
fn a_definition_that_lost_its_element_gets_it_again() {
    let (fixture, guest) = wrapped();
    fixture.libvirt.guests.start("vm1");
    let old = fixture.host.defined_guest("vm1").unwrap().xml;
    fixture.synced();
    fixture.libvirt.guests.define(&old);
    assert!(fixture.elements(&guest).contains(&None));
    assert_eq!(fixture.synced().written, 1);
    fixture.assert_travels(&guest);
}

#[test]
fn off_removes_what_it_wrote_and_leaves_a_hands() {
    let (fixture, guest) = wrapped();
    fixture.synced();
    let other = fixture.guest_in_use("vm2");
    fixture.set_metadata("off");
    let by_hand = key_metadata::write(&fixture.host, "vm2").unwrap();
    assert_eq!(by_hand.written, Some(true));
    fixture.assert_travels(&other);
    let synced = fixture.synced();
    assert_eq!((synced.metadata, synced.removed), ("off", 1));
    fixture.assert_bare(&guest);
    fixture.assert_travels(&other);
    // Nothing is left to do, and libvirt is not asked.
    let calls = fixture.libvirt.calls();
    assert!(fixture.synced().guests.is_empty());
    assert_eq!(fixture.libvirt.calls(), calls);
}

#[test]
fn off_tells_of_a_guest_that_is_not_here_and_removes_what_comes_back() {
    let (fixture, guest) = wrapped();
    fixture.synced();
    let xml = fixture.host.defined_guest("vm1").unwrap().xml;
    fixture.libvirt.guests.undefine("vm1");
    // It may have moved, as guests with their keys do.
    assert!(fixture.synced().guests.is_empty());
    fixture.set_metadata("off");
    for _ in 0..2 {
        let synced = fixture.synced();
        let [told] = &synced.guests[..] else {
            panic!("{synced:?}")
        };
        assert_eq!(
            (told.guest.uuid, told.action),
            (guest.uuid, SyncAction::Left)
        );
        assert_eq!(told.findings, [TravelFinding::NotHere]);
        assert_eq!((synced.removed, synced.failed), (0, 0));
    }
    // It comes back with what was written.
    fixture.libvirt.guests.define(&xml);
    assert_eq!(actions(&fixture.synced()), [("vm1", SyncAction::Removed)]);
    fixture.assert_bare(&guest);
    assert!(fixture.synced().guests.is_empty());
}

#[test]
fn what_sync_wrote_is_a_hands_once_a_hand_has_written_it() {
    let (fixture, guest) = wrapped();
    fixture.synced();
    let by_hand = key_metadata::write(&fixture.host, "vm1").unwrap();
    assert_eq!(by_hand.written, Some(false));
    fixture.set_metadata("off");
    fixture.synced();
    fixture.assert_travels(&guest);
}

#[test]
fn other_elements_stay_as_they_are() {
    let (fixture, guest) = wrapped();
    let xml = fixture.host.defined_guest("vm1").unwrap().xml;
    let other = "<metadata><o:x xmlns:o='urn:o'/></metadata>";
    let xml = xml.replace("<devices>", &format!("{other}<devices>"));
    fixture.libvirt.guests.define(&xml);
    fixture.synced();
    fixture.assert_travels(&guest);
    fixture.set_metadata("off");
    fixture.synced();
    assert_eq!(fixture.host.defined_guest("vm1").unwrap().xml, xml);
}

#[test]
fn a_kill_at_any_moment_of_writing_leaves_nothing_that_off_would_not_remove() {
    let guest = |fixture: &Fixture| fixture.defined("vm1");
    kill::everywhere(
        |fixture| {
            fixture.set_metadata("wrapped");
            fixture.guest_in_use("vm1");
            fixture.libvirt.guests.start("vm1");
            fixture.leave_note(&guest(fixture));
        },
        |fixture| drop(fixture.synced()),
        |fixture| {
            fixture.set_metadata("off");
            fixture.synced();
            fixture.assert_bare(&guest(fixture));
            fixture.set_metadata("wrapped");
            fixture.leave_note(&guest(fixture));
        },
        |fixture| {
            fixture.assert_travels(&guest(fixture));
            assert!(fixture.notes().is_empty());
        },
    );
}

#[test]
fn a_kill_at_any_moment_of_removing_is_made_up_for() {
    let guest = |fixture: &Fixture| fixture.defined("vm1");
    kill::everywhere(
        |fixture| {
            fixture.set_metadata("wrapped");
            fixture.guest_in_use("vm1");
            fixture.synced();
            fixture.set_metadata("off");
        },
        |fixture| drop(fixture.synced()),
        |_| {},
        |fixture| {
            fixture.assert_bare(&guest(fixture));
            assert!(fixture.store().written_keys().unwrap().is_empty());
        },
    );
}

#[test]
fn a_kill_at_any_moment_of_writing_by_hand_is_made_up_for() {
    let guest = |fixture: &Fixture| fixture.defined("vm1");
    kill::everywhere(
        |fixture| {
            fixture.set_metadata("wrapped");
            fixture.guest_in_use("vm1");
            fixture.synced();
            renew(&fixture.host, "vm1").unwrap();
        },
        |fixture| drop(key_metadata::write(&fixture.host, "vm1").unwrap()),
        |fixture| assert!(fixture.would_start(&guest(fixture))),
        |fixture| fixture.assert_travels(&guest(fixture)),
    );
}

#[test]
fn a_guest_with_a_job_is_done_later_and_keeps_its_note() {
    let (fixture, busy) = wrapped();
    let other = fixture.guest_in_use("vm2");
    for guest in [&busy, &other] {
        fixture.libvirt.guests.start(&guest.name);
        fixture.leave_note(guest);
    }
    fixture.libvirt.guests.begin_job("vm1");
    let synced = fixture.synced();
    assert_eq!((synced.written, synced.later, synced.failed), (1, 1, 0));
    fixture.assert_travels(&other);
    assert_eq!(fixture.notes(), [busy.uuid]);
    fixture.libvirt.guests.end_job("vm1");
    assert_eq!(fixture.synced().written, 1);
    fixture.assert_travels(&busy);
    assert!(fixture.notes().is_empty());
}

#[test]
fn a_libvirt_whose_guests_all_have_jobs_is_not_asked_to_write_for_each() {
    let (fixture, _) = wrapped();
    let mut names = vec!["vm1".to_owned()];
    names.extend((2..=8).map(|number| format!("vm{number}")));
    for name in &names {
        if name != "vm1" {
            fixture.guest_in_use(name);
        }
        fixture.libvirt.guests.start(name);
        fixture.libvirt.guests.begin_job(name);
    }
    assert_eq!(fixture.synced().later, 8);
    let written = fixture.libvirt.calls_of(Call::SetMetadata);
    assert_eq!(written, 5);
}

#[test]
fn notes_of_guests_that_are_gone_are_taken() {
    let (fixture, _) = wrapped();
    sync_notes::leave(&fixture.host.run_dir(), DomainUuid::random()).unwrap();
    fixture.synced();
    assert!(fixture.notes().is_empty());
}

#[test]
fn a_libvirt_that_refuses_or_does_not_answer_is_tried_again() {
    let (fixture, guest) = wrapped();
    fixture.leave_note(&guest);
    for failure in [Failure::Refused, Failure::Unreachable] {
        fixture.libvirt.fail_each(Call::SetMetadata, failure);
        let synced = fixture.synced();
        assert_eq!((synced.written, synced.failed), (0, 1));
        assert!(synced.guests[0].error.is_some());
        assert_eq!(fixture.notes(), [guest.uuid]);
    }
    fixture.libvirt.recover();
    for call in [Call::Guests, Call::Metadata] {
        fixture.libvirt.fail_each(call, Failure::Unreachable);
        let error = sync(&fixture.host, &|_, _| {}).unwrap_err();
        let is_libvirt = matches!(error, SyncError::Host(HostError::Libvirt(_)));
        assert!(is_libvirt, "{error:?}");
        assert_eq!(fixture.notes(), [guest.uuid]);
        fixture.libvirt.recover();
    }
    // Done, and the answer is lost.
    fixture
        .libvirt
        .fail_each(Call::SetMetadata, Failure::AnswerLost);
    assert_eq!(fixture.synced().failed, 1);
    fixture.libvirt.recover();
    fixture.synced();
    fixture.set_metadata("off");
    fixture.synced();
    fixture.assert_bare(&guest);
}

#[test]
fn two_at_once_wait_for_each_other() {
    let (fixture, _) = wrapped();
    let held = sync_notes::directory(&fixture.host.run_dir()).unwrap();
    held.lock().unwrap();
    // A command that changed keys does not wait for long, and leaves a note.
    let since = Timestamp(0);
    let begun = Instant::now();
    let left = after_change(&fixture.host, since).unwrap();
    assert!(begun.elapsed().as_secs() < 20);
    assert_eq!(left.guests, 1);
    assert_eq!(fixture.notes().len(), 1);
}

#[test]
fn a_renewed_and_a_rotated_key_take_the_place_of_the_old_one() {
    let (fixture, guest) = wrapped();
    fixture.synced();
    let since = Timestamp::now();
    renew(&fixture.host, "vm1").unwrap();
    assert!(after_change(&fixture.host, since).is_none());
    fixture.assert_travels(&guest);
    let element = fixture.elements(&guest).remove(0).unwrap();
    let newest = element.keys[0].wrapped_dek.generation().unwrap();
    assert_eq!(newest, Generation(2));

    let since = Timestamp::now();
    rotate(&fixture.host, "a", WeakerSeal::Allowed, &mut |_| {}).unwrap();
    assert!(after_change(&fixture.host, since).is_none());
    fixture.assert_travels(&guest);
    assert_ne!(fixture.elements(&guest).remove(0).unwrap(), element);
}

#[test]
fn an_unbound_guest_keeps_no_element_of_this_host() {
    let (fixture, guest) = wrapped();
    fixture.synced();
    let since = Timestamp::now();
    unbind(&fixture.host, "vm1").unwrap();
    assert!(after_change(&fixture.host, since).is_none());
    fixture.assert_bare(&guest);
    assert!(fixture.store().written_keys().unwrap().is_empty());
}

#[test]
fn a_command_that_cannot_write_leaves_a_note() {
    let (fixture, guest) = wrapped();
    fixture.libvirt.go_down();
    let left = after_change(&fixture.host, Timestamp(0)).unwrap();
    assert!(left.guests == 1 && left.why.is_some(), "{left:?}");
    assert_eq!(fixture.notes(), [guest.uuid]);
    fixture.libvirt.recover();
    fixture.synced();
    fixture.assert_travels(&guest);
    // With "off", and nothing written, nothing is asked.
    fixture.set_metadata("off");
    fixture.synced();
    let calls = fixture.libvirt.calls();
    assert!(after_change(&fixture.host, Timestamp(0)).is_none());
    assert_eq!(fixture.libvirt.calls(), calls);
}

#[test]
fn what_was_found_before_the_time_was_over_is_kept() {
    let (fixture, _) = wrapped();
    fixture.synced();
    fixture.guest_in_use("vm2");
    // Of the first guest libvirt says that it has its keys: the list, that answer, and then none.
    fixture.libvirt.fail_at(3, Failure::Silent);
    let soon = Deadline::after(std::time::Duration::from_secs(1));
    let left = after_change_until(&fixture.host, Timestamp(0), soon).unwrap();
    assert!(left.guests == 1 && left.why.is_some(), "{left:?}");
}

/// With ten thousand guests, libvirt was asked about each of them, and a second time to say that it was too late.
#[test]
fn past_its_time_a_command_asks_libvirt_about_no_other_guest() {
    let (fixture, _) = wrapped();
    fixture.guest_in_use("vm2");
    let asked = || fixture.libvirt.calls_of(Call::Metadata);
    let before = asked();
    // It takes all the time that there is for the first.
    fixture.libvirt.fail_each(Call::Metadata, Failure::Silent);
    let soon = Deadline::after(std::time::Duration::from_secs(1));
    let left = after_change_until(&fixture.host, Timestamp(0), soon).unwrap();
    assert!(left.guests == 2 && left.why.is_some(), "{left:?}");
    assert_eq!(asked() - before, 1);
    fixture.libvirt.recover();
    assert_eq!(fixture.notes().len(), 2);
    // Those that were found and not changed are said without another question.
    for number in 3..12 {
        fixture.guest_in_use(&format!("vm{number}"));
    }
    for number in 1..12 {
        let name = format!("vm{number}");
        fixture.libvirt.guests.start(&name);
        fixture.libvirt.guests.begin_job(&name);
    }
    let before = asked();
    let done = fixture.synced();
    let later = done.guests.iter();
    let later = later.filter(|it| it.action == SyncAction::Later);
    assert_eq!(later.count(), 11);
    let busy = 5;
    assert_eq!(asked() - before, 11 + busy);
}

#[test]
fn a_key_that_another_host_made_is_not_written_over() {
    let (here, guest) = wrapped();
    here.synced();
    // There it has been renewed.
    let there = Fixture::new();
    there.set_metadata("wrapped");
    there.adopt_provider_of(&here, "a");
    there
        .libvirt
        .guests
        .define(&here.host.defined_guest("vm1").unwrap().xml);
    there.add_key_of(&guest, "a", &Dek::generate().unwrap(), Generation(5));
    there.synced();
    let moved = there.host.defined_guest("vm1").unwrap().xml;
    let keys = domain::read(moved.as_bytes())
        .unwrap()
        .travelling
        .unwrap()
        .keys;
    assert_eq!(
        keys.len(),
        2,
        "the key of generation 1 is not known there, and stays"
    );

    here.libvirt.guests.define(&moved);
    let synced = here.synced();
    assert_eq!(actions(&synced), [("vm1", SyncAction::Left)]);
    assert!(matches!(
        synced.guests[0].findings[..],
        [TravelFinding::NewerKey {
            generation: Generation(5),
            ..
        }]
    ));
    assert_eq!(here.host.defined_guest("vm1").unwrap().xml, moved);
    let by_hand = key_metadata::write(&here.host, "vm1");
    assert!(matches!(by_hand, Err(KeyMetadataError::Prevented(..))));
    // Off, it takes back its own, and nothing else.
    here.set_metadata("off");
    assert_eq!(here.synced().removed, 1);
    let [Some(left)] = &here.elements(&guest)[..] else {
        panic!("no element")
    };
    assert_eq!(left.keys, [keys[0].clone()]);
}

#[test]
fn the_element_is_printed_for_files_and_a_guest_without_a_key_has_none() {
    let (fixture, guest) = wrapped();
    let shown = key_metadata::show(&fixture.host, "vm1").unwrap();
    assert_eq!((shown.written, shown.keys.len()), (None, 1));
    let xml = fixture.host.defined_guest("vm1").unwrap().xml;
    let metadata = format!("<metadata>{}</metadata><devices>", shown.element);
    fixture
        .libvirt
        .guests
        .define(&xml.replace("<devices>", &metadata));
    fixture.assert_travels(&guest);

    fixture.define("vm2");
    let none = key_metadata::show(&fixture.host, "vm2");
    assert!(matches!(none, Err(KeyMetadataError::NoKey(_))));
    fixture.sql("UPDATE key_ref SET wrapped_dek = X'0102'");
    let unknown = key_metadata::show(&fixture.host, "vm1");
    assert!(matches!(unknown, Err(KeyMetadataError::NoneTravels(_, stay)) if stay.len() == 1));
}

#[test]
fn writing_by_hand_says_why_it_cannot() {
    let (fixture, _) = wrapped();
    fixture.libvirt.guests.start("vm1");
    fixture.libvirt.guests.begin_job("vm1");
    let busy = key_metadata::write(&fixture.host, "vm1");
    assert!(matches!(busy, Err(KeyMetadataError::Busy(_))));
    let unknown = key_metadata::write(&fixture.host, "vm9");
    assert!(matches!(unknown, Err(KeyMetadataError::Guest(_))));
    fixture.libvirt.go_down();
    let down = key_metadata::write(&fixture.host, "vm1");
    assert!(matches!(down, Err(KeyMetadataError::Guest(_))));
}

#[test]
fn three_hundred_guests_are_done_in_seconds() {
    let (fixture, _) = wrapped();
    for number in 2..=300 {
        let guest = fixture.define(&format!("vm{number}"));
        fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    }
    let seen = RefCell::new(Vec::new());
    let begun = Instant::now();
    let synced = sync(&fixture.host, &|of, _| seen.borrow_mut().push(of)).unwrap();
    let took = begun.elapsed();
    assert_eq!(synced.written, 300);
    assert_eq!(seen.into_inner(), vec![300; 300]);
    // A few seconds in a debug build on a busy machine.
    assert!(took.as_secs() < 30, "{took:?}");

    let since = Timestamp::now();
    rotate(&fixture.host, "a", WeakerSeal::Allowed, &mut |_| {}).unwrap();
    let begun = Instant::now();
    let left = after_change(&fixture.host, since);
    assert!(begun.elapsed().as_secs() < 20);
    // What there is no time for is done by `sync`.
    assert_eq!(fixture.notes().len(), left.map_or(0, |left| left.guests));
    fixture.synced();
    for guest in ["vm1", "vm150", "vm300"].map(|name| fixture.defined(name)) {
        fixture.assert_travels(&guest);
    }
}

#[test]
fn whose_key_does_not_travel_yet_is_said_everywhere() {
    let (fixture, guest) = wrapped();
    let other = fixture.guest_in_use("vm2");
    fixture.define("vm3");
    key_metadata::write(&fixture.host, "vm2").unwrap();
    let look = || status(&fixture.host, |_| true, &|_, _| ()).unwrap();
    let doctor = || {
        let recovery = RecoveryFiles {
            files: &[],
            passphrase: None,
        };
        let found = examine(&fixture.host, &recovery);
        found.into_iter().find_map(|one| match one {
            Finding::Key(KeyFinding::NotTravelling(guests)) => Some(guests),
            _ => None,
        })
    };
    assert_eq!(look().guests_without_travelling_key, Some(1));
    let named: Vec<_> = doctor().unwrap().iter().map(|guest| guest.uuid).collect();
    assert_eq!(named, [guest.uuid]);
    let shown = |name: &str| show(&fixture.host, name).unwrap().key_refs[0].travels;
    assert_eq!((shown("vm1"), shown("vm2")), (Some(false), Some(true)));
    let of_guests = look().guests.unwrap().into_iter();
    let travel: BTreeMap<_, _> = of_guests.map(|guest| (guest.name, guest.travels)).collect();
    let expected = [("vm1", Some(false)), ("vm2", Some(true)), ("vm3", None)];
    assert_eq!(
        travel,
        expected
            .map(|(name, travels)| (name.to_owned(), travels))
            .into()
    );

    fixture.synced();
    assert_eq!(look().guests_without_travelling_key, Some(0));
    assert!(doctor().is_none());
    renew(&fixture.host, "vm2").unwrap();
    assert_eq!(look().guests_without_travelling_key, Some(1), "{other:?}");
    fixture.set_metadata("off");
    assert_eq!(look().guests_without_travelling_key, None);
    assert!(doctor().is_none());
}

/// What the hook does when the guest runs.
fn started(fixture: &Fixture, guest: &Defined) {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let domain = fixture.domain(guest);
    follow_up(&guard, Operation::Started, &domain, default_deadline()).unwrap();
}

#[test]
fn a_start_leaves_a_note_only_where_the_xml_does_not_have_the_keys() {
    let (fixture, guest) = wrapped();
    started(&fixture, &guest);
    assert_eq!(fixture.notes(), [guest.uuid]);
    fixture.synced();
    started(&fixture, &guest);
    assert!(fixture.notes().is_empty());
    // Another key is in use now: the XML has an old one.
    renew(&fixture.host, "vm1").unwrap();
    started(&fixture, &guest);
    assert_eq!(fixture.notes(), [guest.uuid]);
    fixture.synced();

    fixture.set_metadata("off");
    fixture.synced();
    started(&fixture, &guest);
    assert!(fixture.notes().is_empty());
    // A guest without encryption has nothing that could travel.
    fixture.set_metadata("wrapped");
    let plain = fixture.define_with("vm2", DomainUuid::random(), SecretUuid::random(), "");
    started(&fixture, &plain);
    assert!(fixture.notes().is_empty());
}

/// `sync` puts it right.
#[test]
fn a_start_leaves_a_note_of_an_element_that_is_not_the_guests_or_is_faulty() {
    let fixture = Fixture::new();
    fixture.set_metadata("wrapped");
    // It has no key that could travel.
    let guest = fixture.define("vm1");
    started(&fixture, &guest);
    assert!(fixture.notes().is_empty());
    let xml = fixture.host.defined_guest("vm1").unwrap().xml;
    let (own, other) = (guest.uuid, DomainUuid::random());
    for (attributes, inside, is_due) in [
        (format!("domain='{own}'"), "", false),
        (format!("domain='{other}'"), "", true),
        (String::new(), "", true),
        (format!("domain='{own}'"), "<vg:key>!</vg:key>", true),
    ] {
        let element = format!("<vg:vtpm xmlns:vg='{NAMESPACE}' {attributes}>{inside}</vg:vtpm>");
        let metadata = format!("<metadata>{element}</metadata><devices>");
        let xml = xml.replace("<devices>", &metadata);
        fixture.libvirt.guests.define(&xml);
        started(&fixture, &guest);
        assert_eq!(fixture.notes() == [guest.uuid], is_due, "{element}");
        let run_dir = fixture.host.run_dir();
        let listed = sync_notes::list(&run_dir).unwrap();
        sync_notes::take(&run_dir, &listed).unwrap();
    }
}

#[test]
fn a_note_that_cannot_be_left_is_no_error_of_the_start() {
    let (fixture, guest) = wrapped();
    fs::write(fixture.host.run_dir().unsynced(), "").unwrap_or_else(|_| {
        fs::create_dir_all(fixture.host.run_dir().unsynced().parent().unwrap()).unwrap();
        fs::write(fixture.host.run_dir().unsynced(), "").unwrap();
    });
    started(&fixture, &guest);
    assert!(fixture.rows(&guest)[0].key_ref.first_used_at.is_some());
    let listed = sync_notes::list(&fixture.host.run_dir());
    assert!(listed.is_err(), "nor is it said that there are none");
}

#[test]
fn a_note_that_is_left_anew_meanwhile_is_not_taken() {
    let (fixture, guest) = wrapped();
    fixture.leave_note(&guest);
    let run_dir = fixture.host.run_dir();
    let listed = sync_notes::list(&run_dir).unwrap();
    fixture.leave_note(&guest);
    sync_notes::take(&run_dir, &listed).unwrap();
    assert_eq!(fixture.notes(), [guest.uuid]);
    let listed = sync_notes::list(&run_dir).unwrap();
    sync_notes::take(&run_dir, &listed).unwrap();
    assert!(fixture.notes().is_empty());
}

// Whoever may change a guest's metadata can copy its key and raise the generation in its header. Such
// a key opens nowhere, so it must not keep the guest's own from being written.
#[test]
fn a_forged_generation_is_written_over() {
    let (fixture, guest) = wrapped();
    fixture.synced();
    let forge = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[22..26].fill(0xFF);
        WrappedDek::from_stored(bytes)
    };
    let own = fixture.own_keys(&guest).remove(0);
    let forged = TravellingKeys {
        domain: Some(guest.uuid),
        keys: vec![TravellingKey {
            wrapped_dek: forge(own.as_bytes()),
            provider: "a".to_owned(),
        }],
        fault: None,
    };
    let xml = fixture.host.defined_guest("vm1").unwrap().xml;
    let (head, rest) = xml.split_once("<metadata>").unwrap();
    let (_, tail) = rest.split_once("</metadata>").unwrap();
    let forged = format!("{head}<metadata>{}</metadata>{tail}", forged.to_xml());
    fixture.libvirt.guests.define(&forged);
    assert_eq!(actions(&fixture.synced()), [("vm1", SyncAction::Written)]);
    fixture.assert_travels(&guest);
}

#[test]
fn a_definition_that_is_full_of_other_keys_lacks_those_of_the_guest() {
    let fixture = Fixture::new();
    fixture.set_metadata("wrapped");
    let guest = fixture.guest_in_use("vm1");
    let own = fixture.own_keys(&guest).remove(0);
    let provider = fixture.provider("b");
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let mut foreign = |generation: u32| {
        let dek = Dek::generate().unwrap();
        let generation = Generation(generation);
        let key = unlocker.wrap(&dek, &provider, guest.uuid, generation, default_deadline());
        key.unwrap().wrapped_dek
    };
    let others: Vec<_> = (1..=8).map(&mut foreign).collect();
    let lacks = |keys: Vec<WrappedDek>| {
        let keys = keys.into_iter().map(|wrapped_dek| TravellingKey {
            wrapped_dek,
            provider: "b".to_owned(),
        });
        let element = TravellingKeys {
            domain: Some(guest.uuid),
            keys: keys.collect(),
            fault: None,
        };
        let encryption = format!("<encryption secret='{}'/>", guest.secret);
        fixture.define_with("vm1", guest.uuid, guest.secret, &encryption);
        fixture.redefine_with_keys(&guest, &element);
        let guests = fixture.host.listed_guests().unwrap();
        not_travelling(&fixture.host, &guests).unwrap().len()
    };
    let (full, rest) = (others.clone(), others[1..].to_vec());
    assert_eq!(lacks(full.clone()), 1);
    assert_eq!(lacks(rest.clone()), 1);
    assert_eq!(lacks([vec![own], rest].concat()), 0);
    // Of two own keys one alone is there, and there is room.
    let first = fixture.own_keys(&guest).remove(0);
    fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    fixture.sql("UPDATE key_ref SET first_used_at = 1");
    assert_eq!(lacks(vec![first]), 1);
    assert_eq!(lacks(fixture.own_keys(&guest)), 0);
    // Of a guest without a key here nothing is lacking.
    fixture.sql("DELETE FROM key_ref");
    assert_eq!(lacks(full), 0);
}

#[test]
fn keys_that_libvirt_has_not_kept_are_not_said_to_be_written() {
    let fixture = Fixture::new();
    fixture.set_metadata("wrapped");
    fixture.guest_in_use("vm1");
    fixture.libvirt.guests.keep_as_it_is("vm1");
    let lost = key_metadata::write(&fixture.host, "vm1").unwrap_err();
    assert!(matches!(lost, KeyMetadataError::NotKept(_)), "{lost:?}");
    let synced = fixture.synced();
    assert_eq!(actions(&synced), [("vm1", SyncAction::Failed)]);
    assert!(
        synced.guests[0]
            .error
            .as_ref()
            .unwrap()
            .contains("not kept")
    );
}

#[test]
fn a_command_that_has_changed_no_key_asks_libvirt_nothing_and_waits_for_no_other_run() {
    let fixture = Fixture::new();
    fixture.set_metadata("wrapped");
    fixture.guest_in_use("vm1");
    let later = Timestamp(Timestamp::now().0 + 60_000);
    let before = fixture.libvirt.calls();
    assert!(after_change(&fixture.host, later).is_none());
    assert_eq!(fixture.libvirt.calls(), before);
}

#[test]
fn of_two_runs_one_waits_for_the_other_and_says_so() {
    let fixture = Fixture::new();
    let soon = || Some(Deadline::after(std::time::Duration::from_millis(1)));
    let held = exclusive(&fixture.host, soon()).unwrap();
    let waited = exclusive(&fixture.host, soon()).unwrap_err();
    assert!(matches!(waited, SyncError::Running), "{waited:?}");
    drop(held);
    exclusive(&fixture.host, soon()).unwrap();
}

/// With thousands of guests no exchange could begin, and no provider be rotated, for as long as libvirt takes to list them.
#[test]
fn libvirt_lists_its_guests_before_an_exchange_has_to_wait() {
    let fixture = Fixture::new();
    fixture.set_metadata("wrapped");
    let guest = fixture.guest_in_use("vm1");
    let exchange = exclusive(&fixture.host, None).unwrap();
    let lets_go = once_listed(&fixture, move || drop(exchange));
    let synced = fixture.synced();
    lets_go.join().unwrap();
    assert_eq!(synced.guests[0].guest.uuid, guest.uuid);
}
