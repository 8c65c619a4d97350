//! `key import`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::fixture::{Defined, Fixture};
use super::kill;
use crate::clock::Timestamp;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::key::wrap::{Generation, UnwrapError};
use crate::keyring::unlock::Unlocker;
use crate::manage::guests::GuestError;
use crate::manage::host::default_deadline;
use crate::manage::import_key::{ImportKeyError, ImportedKey, import};
use crate::manage::key_refs::retire;
use crate::store::{Event, Origin, StoreError};

/// A backup of this host's store.
fn backup(fixture: &Fixture) -> PathBuf {
    let path = fixture.root().join("backup");
    // That of before, if there is one.
    let _ = std::fs::remove_file(&path);
    fixture.store().backup(&path, default_deadline()).unwrap();
    path
}

/// Another host that has used a guest: its backup, and the guest, which this host's libvirt knows
/// too. Its provider keys are on this host.
fn moved_guest(here: &Fixture) -> (Fixture, PathBuf, Defined) {
    let there = Fixture::new();
    let guest = there.guest_in_use("vm1");
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    here.define_with("vm1", guest.uuid, guest.secret, &encryption);
    here.adopt_provider_of(&there, "a");
    let file = here.root().join("moved");
    std::fs::copy(backup(&there), &file).unwrap();
    (there, file, guest)
}

fn imported(fixture: &Fixture, file: &Path) -> Result<ImportedKey, ImportKeyError> {
    import(&fixture.host, "vm1", file, None)
}

#[test]
fn the_key_comes_as_it_is_wrapped_and_once() {
    let here = Fixture::new();
    let (there, file, guest) = moved_guest(&here);
    let done = imported(&here, &file).unwrap();
    assert!(done.changed && done.rotated.is_none());
    let wrapped = |fixture: &Fixture| fixture.rows(&guest).remove(0).key_ref.wrapped_dek;
    assert_eq!(wrapped(&here), wrapped(&there));
    std::fs::create_dir_all(here.state_file(&guest).parent().unwrap()).unwrap();
    std::fs::copy(there.state_file(&guest), here.state_file(&guest)).unwrap();
    assert!(here.would_start(&guest));

    assert!(!imported(&here, &file).unwrap().changed);
    retire(&here.host, done.key_ref).unwrap();
    let again = imported(&here, &file).unwrap();
    assert!(!again.changed && again.is_retired);
}

#[test]
fn a_guest_under_a_new_uuid_gets_its_key_wrapped_for_that() {
    let here = Fixture::new();
    let (_there, file, old) = moved_guest(&here);
    here.libvirt.guests.undefine("vm1");
    let guest = here.define("vm1");
    let backup_without_name = imported(&here, &file).unwrap_err();
    assert!(
        matches!(backup_without_name, ImportKeyError::NoKey(..)),
        "{backup_without_name:?}"
    );
    let old_uuid = old.uuid.to_string();
    let done = import(&here.host, "vm1", &file, Some(&old_uuid)).unwrap();
    assert!(done.changed);
    assert_eq!(here.rows(&guest).len(), 1);
    let again = import(&here.host, "vm1", &file, Some(&old_uuid)).unwrap();
    assert!(!again.changed, "the same DEK in another wrapping");
}

#[test]
fn what_the_backup_does_not_have_is_an_error() {
    let here = Fixture::new();
    let (there, file, guest) = moved_guest(&here);
    let nobody = import(&here.host, "nobody", &file, None).unwrap_err();
    assert!(
        matches!(nobody, ImportKeyError::UnknownGuest(_)),
        "{nobody:?}"
    );
    let unknown = DomainUuid::random().to_string();
    let no_key = import(&here.host, &unknown, &file, None).unwrap_err();
    assert!(matches!(no_key, ImportKeyError::NoKey(..)), "{no_key:?}");

    there.add_key(&guest, "a", &Dek::generate().unwrap());
    let file = backup(&there);
    let several = imported(&here, &file).unwrap_err();
    assert!(
        matches!(several, ImportKeyError::SeveralKeys(_, _, 2)),
        "{several:?}"
    );
}

#[test]
fn a_key_that_does_not_open_here_is_refused() {
    let here = Fixture::new();
    let there = Fixture::new();
    let guest = there.guest_in_use("vm1");
    let file = backup(&there);
    let uuid = guest.uuid.to_string();
    let no_provider = import(&here.host, &uuid, &file, None).unwrap_err();
    assert!(
        matches!(&no_provider, ImportKeyError::NoProvider(_, name, Some(_)) if name == "a"),
        "{no_provider:?}"
    );
    here.adopt_provider_of(&there, "a");
    there.sql(
        "UPDATE key_ref
         SET wrapped_dek = CAST(substr(wrapped_dek, 1, length(wrapped_dek) - 8) || zeroblob(8) AS BLOB)",
    );
    let file = backup(&there);
    let damaged = import(&here.host, &uuid, &file, None).unwrap_err();
    assert!(
        matches!(
            damaged,
            ImportKeyError::NotUnwrapped(_, UnwrapError::NotAuthentic)
        ),
        "{damaged:?}"
    );
}

/// What a later release has wrapped is whole, and this release does not replace it.
#[test]
fn a_key_of_a_later_release_is_not_damaged() {
    let here = Fixture::new();
    let (there, file, guest) = moved_guest(&here);
    let later = "UPDATE key_ref SET wrapped_dek =
                     CAST(substr(wrapped_dek, 1, 4) || x'03' || substr(wrapped_dek, 6) AS BLOB)";
    there.sql(later);
    let uuid = guest.uuid.to_string();
    let error = import(&here.host, &uuid, &backup(&there), None).unwrap_err();
    assert!(
        matches!(error, ImportKeyError::NotUnwrapped(_, UnwrapError::TooNew)),
        "{error:?}"
    );
    let own = here.add_key(&guest, "a", &Dek::generate().unwrap());
    here.sql(later);
    let refused = imported(&here, &file).unwrap_err();
    assert!(
        matches!(
            &refused,
            ImportKeyError::OtherKeyInUse(_, key_ref) if *key_ref == own
        ),
        "{refused:?}"
    );
}

#[test]
fn a_backup_that_cannot_be_used_is_not_taken_for_the_store() {
    let here = Fixture::new();
    let (there, _, _) = moved_guest(&here);
    there.sql("PRAGMA user_version = 999");
    let newer = there.host.state_dir().join("store.db");
    let damaged = here.root().join("damaged");
    let mut bytes = fs::read(&newer).unwrap();
    bytes[100..4096].fill(0x55);
    fs::write(&damaged, bytes).unwrap();
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o600)).unwrap();
    let error = imported(&here, &newer).unwrap_err();
    assert!(
        matches!(error, ImportKeyError::Backup(StoreError::TooNew { .. })),
        "{error:?}"
    );
    let error = imported(&here, &damaged).unwrap_err();
    assert!(matches!(error, ImportKeyError::Backup(_)), "{error:?}");
}

#[test]
fn a_kill_leaves_the_key_imported_or_not() {
    let guest = |fixture: &Fixture| fixture.defined("vm1");
    kill::everywhere(
        |fixture| drop(moved_guest(fixture)),
        |fixture| drop(imported(fixture, &fixture.root().join("moved")).unwrap()),
        |fixture| assert!(fixture.rows(&guest(fixture)).len() <= 1),
        |fixture| assert_eq!(fixture.rows(&guest(fixture)).len(), 1),
    );
}

#[test]
fn that_libvirt_does_not_answer_is_told_where_the_backup_knows_no_guest_either() {
    let here = Fixture::new();
    here.guest_in_use("vm1");
    let file = backup(&here);
    here.libvirt.go_down();
    let error = imported(&here, &file).unwrap_err();
    assert!(
        matches!(error, ImportKeyError::Guest(GuestError::NeedsUuid(_))),
        "{error:?}"
    );
}

#[test]
fn a_key_that_was_retired_here_comes_back_as_it_is_wrapped_there() {
    let here = Fixture::new();
    let (there, file, guest) = moved_guest(&here);
    let rows = there.rows(&guest);
    let wrapped = rows[0].key_ref.wrapped_dek.clone().unwrap();
    let mut unlocker = Unlocker::new(&there.host.keyring());
    let dek = unlocker.open(&wrapped, guest.uuid, default_deadline());
    // The same key in another wrapping.
    let own = here.add_key_of(&guest, "a", &dek.unwrap(), Generation(0));
    assert!(!imported(&here, &file).unwrap().changed);
    retire(&here.host, own).unwrap();
    let done = imported(&here, &file).unwrap();
    assert!(done.changed && done.key_ref != own);
    let rows = here.rows(&guest);
    let its = rows.iter().find(|row| row.key_ref.id == done.key_ref);
    assert_eq!(its.unwrap().key_ref.wrapped_dek, Some(wrapped));
}

#[test]
fn a_retired_key_of_another_uuid_is_here_as_it_is() {
    let here = Fixture::new();
    let (_there, file, old) = moved_guest(&here);
    here.libvirt.guests.undefine("vm1");
    let guest = here.define("vm1");
    let old = old.uuid.to_string();
    let done = import(&here.host, "vm1", &file, Some(&old)).unwrap();
    retire(&here.host, done.key_ref).unwrap();
    let again = import(&here.host, "vm1", &file, Some(&old)).unwrap();
    assert!(!again.changed && again.is_retired);
    assert_eq!(here.rows(&guest).len(), 1);
}

#[test]
fn the_backup_knows_a_guest_by_name_that_libvirt_does_not_know_here() {
    let (here, there) = (Fixture::new(), Fixture::new());
    let guest = there.guest_in_use("vm1");
    here.adopt_provider_of(&there, "a");
    let call = |uuid: DomainUuid| {
        let now = Timestamp::now();
        let event = Event::new(now, Origin::Renew, uuid, "vm1", "done".to_owned());
        there.store().record_event(&event).unwrap();
    };
    call(guest.uuid);
    let done = imported(&here, &backup(&there)).unwrap();
    assert_eq!((done.guest.uuid, done.changed), (guest.uuid, true));
    let namesake = there.guest_in_use("vm2");
    call(namesake.uuid);
    let several = imported(&here, &backup(&there)).unwrap_err();
    let ImportKeyError::SeveralGuests(name, uuids) = several else {
        panic!("{several:?}");
    };
    assert_eq!((name.as_str(), uuids.len()), ("vm1", 2));
}

#[test]
fn a_key_of_another_guest_of_the_name_is_taken_only_when_it_is_named() {
    let here = Fixture::new();
    let (there, _, guest) = moved_guest(&here);
    let namesake = there.guest_in_use("vm1-before");
    let now = Timestamp::now();
    let event = Event::new(now, Origin::Renew, namesake.uuid, "vm1", "done".to_owned());
    there.store().record_event(&event).unwrap();
    // The guest has a key of its own there.
    let done = imported(&here, &backup(&there)).unwrap();
    assert_eq!((done.guest.uuid, done.changed), (guest.uuid, true));
    there.sql(&format!(
        "DELETE FROM key_ref WHERE resource_uuid = '{}'",
        guest.uuid
    ));
    let refused = imported(&here, &backup(&there)).unwrap_err();
    let is_other = |error: &ImportKeyError| matches!(error, ImportKeyError::Namesake { other, .. } if *other == namesake.uuid);
    assert!(is_other(&refused), "{refused:?}");
}

#[test]
fn a_key_that_does_not_open_the_state_gives_way_to_an_imported_one_once_it_is_retired() {
    let here = Fixture::new();
    let (there, file, guest) = moved_guest(&here);
    let wrong = here.add_key(&guest, "a", &Dek::generate().unwrap());
    here.write_state(&guest, &fs::read(there.state_file(&guest)).unwrap());
    assert!(!here.would_start(&guest));
    assert!(matches!(
        imported(&here, &file),
        Err(ImportKeyError::OtherKeyInUse(_, key_ref)) if key_ref == wrong
    ));
    retire(&here.host, wrong).unwrap();
    let done = imported(&here, &file).unwrap();
    assert_eq!(here.opening_row(&guest), Some(done.key_ref));
    assert!(here.would_start(&guest));
}

#[test]
fn a_key_that_the_guest_has_here_is_replaced_only_if_it_is_damaged() {
    let here = Fixture::new();
    let (_there, file, guest) = moved_guest(&here);
    let own = here.add_key(&guest, "a", &Dek::generate().unwrap());
    let refused = imported(&here, &file).unwrap_err();
    assert!(
        matches!(&refused, ImportKeyError::OtherKeyInUse(of, key_ref) if of.uuid == guest.uuid && *key_ref == own),
        "{refused:?}"
    );
    let in_use = || {
        let rows = here.rows(&guest).into_iter();
        let rows = rows.filter(|row| row.retired_at.is_none());
        rows.map(|row| row.key_ref.id).collect::<Vec<_>>()
    };
    assert_eq!(in_use(), [own]);
    here.sql(
        "UPDATE key_ref
         SET wrapped_dek = CAST(substr(wrapped_dek, 1, length(wrapped_dek) - 8) || zeroblob(8) AS BLOB)",
    );
    let done = imported(&here, &file).unwrap();
    assert_eq!(in_use(), [done.key_ref]);
    assert_eq!(here.rows(&guest).len(), 2, "the damaged one is kept");
}
