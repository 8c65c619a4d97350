//! `key clone`.

use std::fs;
use std::os::unix::fs::symlink;

use super::fixture::{Defined, Fixture};
use super::kill;
use crate::clock::Timestamp;
use crate::domain::{TravellingKey, TravellingKeys};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::manage::clone::{CloneAction, CloneError, Cloned, NotOpened, clone};
use crate::manage::host::default_deadline;
use crate::manage::key_refs::{retire, unbind};
use crate::store::{Event, EventFilter, Origin};
use crate::tpm_copies::CopyStore;

fn cloned(fixture: &Fixture) -> Result<Cloned, CloneError> {
    clone(&fixture.host, "vm1", "vm2")
}

/// What the history has of the clone, the newest first.
fn history(fixture: &Fixture) -> Vec<String> {
    let of_clone = EventFilter::Domain(fixture.defined("vm2").uuid);
    let events = fixture.store().history(of_clone, 9).unwrap();
    events.into_iter().map(|event| event.message).collect()
}

fn copy_state(fixture: &Fixture, from: &Defined, to: &Defined) {
    let place = fixture.state_file(to);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::copy(fixture.state_file(from), place).unwrap();
}

/// A guest that has used its TPM, and a clone with a copy of its state.
fn pair(fixture: &Fixture) -> (Defined, Defined) {
    let original = fixture.guest_in_use("vm1");
    let copy = fixture.define("vm2");
    copy_state(fixture, &original, &copy);
    (original, copy)
}

/// A guest that has used its TPM, which libvirt has no more, under a new UUID.
fn came_back(fixture: &Fixture) -> (Defined, Defined) {
    let old = fixture.guest_in_use("vm1");
    fixture.libvirt.guests.undefine("vm1");
    (old, fixture.define("vm2"))
}

#[test]
fn a_copied_state_gets_its_key_once() {
    let fixture = Fixture::new();
    let (_, copy) = pair(&fixture);
    let done = cloned(&fixture).unwrap();
    assert_eq!(done.action, CloneAction::Copied);
    assert!(done.shared_secret.is_none() && done.not_recorded.is_none());
    assert_eq!(fixture.opening_row(&copy), Some(done.key_ref));
    assert!(fixture.would_start(&copy));
    assert_eq!(cloned(&fixture).unwrap().action, CloneAction::HasKey);

    retire(&fixture.host, done.key_ref).unwrap();
    assert!(matches!(
        cloned(&fixture),
        Err(CloneError::Retired(_, id)) if id == done.key_ref
    ));
}

/// VG202 names its key, whatever became of its vTPM.
#[test]
fn an_original_that_has_no_vtpm_any_more_gives_its_key_all_the_same() {
    let passthrough = "<tpm model='tpm-crb'><backend type='passthrough'/></tpm>";
    for tpm in ["", passthrough, "<tpm"] {
        let fixture = Fixture::new();
        let (original, copy) = pair(&fixture);
        let (name, uuid) = (&original.name, original.uuid);
        // Some of it cannot be read, nor be defined.
        let definition = fixture.libvirt.dirs().definitions().join("vm1.xml");
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><devices>{tpm}</devices></domain>"
        );
        fs::write(definition, xml).unwrap();
        assert!(!fixture.would_start(&copy));
        let done = cloned(&fixture).unwrap();
        assert_eq!(done.action, CloneAction::Copied, "{tpm}");
        assert!(done.original.is_defined() && done.shared_secret.is_none());
        assert!(fixture.would_start(&copy), "{tpm}");
    }
}

#[test]
fn a_clone_without_a_state_is_bound_as_its_original_is() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    fixture.define("vm2");
    assert_eq!(cloned(&fixture).unwrap().action, CloneAction::Made);
    let made = "bound to provider a, as vm1 is";
    assert_eq!(history(&fixture), [made]);
    assert_eq!(cloned(&fixture).unwrap().action, CloneAction::IsBound);
    assert_eq!(history(&fixture), [made], "nothing was done");
    fixture.sql(
        "UPDATE key_ref SET provider_uuid = (SELECT uuid FROM key_provider WHERE name = 'b'),
                            provider_name = 'b'
         WHERE wrapped_dek IS NULL",
    );
    assert_eq!(cloned(&fixture).unwrap().action, CloneAction::Moved);
    assert_eq!(history(&fixture), [made, made]);
}

#[test]
fn a_guest_that_came_back_under_a_new_uuid_has_its_tpm_again() {
    let fixture = Fixture::new();
    let (old, guest) = came_back(&fixture);
    let done = clone(&fixture.host, &old.uuid.to_string(), "vm2").unwrap();
    assert_eq!(done.action, CloneAction::TakenOver);
    assert!(done.copied_from.is_some());
    assert!(!done.original.is_defined());
    assert!(fixture.would_start(&guest));
}

#[test]
fn what_cannot_be_a_clone_is_refused() {
    let fixture = Fixture::new();
    let original = fixture.guest_in_use("vm1");
    let refused = |text: &str, new: &str| clone(&fixture.host, text, new).unwrap_err();
    assert!(matches!(refused("vm1", "nobody"), CloneError::Guest(_)));
    let own = original.uuid.to_string();
    assert!(matches!(refused(&own, "vm1"), CloneError::Itself(_)));
    assert!(matches!(refused("vm1", "vm1"), CloneError::NoNamesake(_)));
    fixture.define("vm2");
    assert!(matches!(
        refused("nobody", "vm2"),
        CloneError::UnknownOriginal(_)
    ));
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    fixture.define_with("plain", uuid, secret, "");
    assert!(matches!(
        refused("vm1", "plain"),
        CloneError::NotEncrypted(_)
    ));
    let unencrypted = fixture.define("vm3");
    fixture.plain_state(&unencrypted);
    assert!(matches!(refused("vm1", "vm3"), CloneError::PlainState(_)));
    fixture.write_state(&unencrypted, b"no state");
    assert!(matches!(
        refused("vm1", "vm3"),
        CloneError::UnreadableState(..)
    ));
    fixture.encrypt_state(&unencrypted, &Dek::generate().unwrap());
    assert!(matches!(
        refused("vm1", "vm3"),
        CloneError::NotOpened(_, _, NotOpened::OtherKeys(None))
    ));
    let encryption = format!("<encryption secret='{}'/>", original.secret);
    fixture.define_with("vm4", DomainUuid::random(), original.secret, &encryption);
    assert!(matches!(refused("vm1", "vm4"), CloneError::OneSecret(..)));
    fixture.define("unbound");
    assert!(matches!(
        refused("unbound", "vm2"),
        CloneError::NotBound(..)
    ));
}

/// A guest whose XML and TPM state are copies of another guest's, which is on another host: nothing here knows that one.
fn copy_of_a_stranger(fixture: &Fixture) -> (DomainUuid, Defined) {
    let (original, copy) = pair(fixture);
    let row = fixture.rows(&original).remove(0).key_ref;
    fixture.redefine_with_keys(
        &copy,
        &TravellingKeys {
            domain: Some(original.uuid),
            keys: vec![TravellingKey {
                wrapped_dek: row.wrapped_dek.unwrap(),
                provider: row.provider_name,
            }],
            fault: None,
        },
    );
    fixture.libvirt.guests.undefine("vm1");
    fixture.sql("DELETE FROM key_ref; DELETE FROM event");
    (original.uuid, copy)
}

#[test]
fn a_copied_xml_has_the_key_of_an_original_that_this_host_does_not_know() {
    let fixture = Fixture::new();
    let (original, copy) = copy_of_a_stranger(&fixture);
    assert!(!fixture.would_start(&copy));
    let done = clone(&fixture.host, &original.to_string(), "vm2").unwrap();
    assert_eq!(done.action, CloneAction::Copied);
    assert_eq!(fixture.opening_row(&copy), Some(done.key_ref));
    assert!(fixture.would_start(&copy));
    // The key of the guest that the XML names, and of no other.
    fixture.sql("DELETE FROM key_ref");
    let other = DomainUuid::random().to_string();
    assert!(matches!(
        clone(&fixture.host, &other, "vm2"),
        Err(CloneError::NotOpened(_, _, NotOpened::NoKey(_)))
    ));
}

#[test]
fn what_is_missing_for_a_copied_xml_is_told() {
    let fixture = Fixture::new();
    let (original, copy) = copy_of_a_stranger(&fixture);
    let original = original.to_string();
    let refused = || clone(&fixture.host, &original, "vm2").unwrap_err();
    let state = fs::read(fixture.state_file(&copy)).unwrap();
    // It belongs to another key, which neither the XML nor the store has.
    fixture.encrypt_state(&copy, &Dek::generate().unwrap());
    assert!(matches!(
        refused(),
        CloneError::NotOpened(_, _, NotOpened::NoKey(None))
    ));
    fixture.write_state(&copy, &state);
    fixture.sql("DELETE FROM key_provider WHERE name = 'a'");
    assert!(matches!(
        refused(),
        CloneError::NotOpened(_, _, NotOpened::NoProvider(provider)) if provider == "a"
    ));
    assert_eq!(fixture.rows(&copy).len(), 0);
}

#[test]
fn a_guest_that_came_back_needs_a_state_of_its_own_that_opens() {
    let fixture = Fixture::new();
    let old = fixture.guest_in_use("vm1");
    fixture.save_copy(&old);
    fixture.libvirt.guests.undefine("vm1");
    let guest = fixture.define("vm2");
    let uuid = old.uuid.to_string();
    fixture.libvirt.guests.start("vm2");
    assert!(matches!(
        clone(&fixture.host, &uuid, "vm2"),
        Err(CloneError::Running(_))
    ));
    fixture.libvirt.guests.stop("vm2");
    let key_id = fixture.provider("a").key_id;
    let kek = fixture.host.keyring().open(key_id, default_deadline());
    fixture.lose_key("a");
    assert!(matches!(
        clone(&fixture.host, &uuid, "vm2"),
        Err(CloneError::NotTried(_, why)) if why.contains("holds no key")
    ));
    fixture.put_key(&kek.unwrap());
    let place = fixture.libvirt.dirs().tpm_states().join(&uuid);
    fs::remove_dir_all(place).unwrap();
    let copies = CopyStore::of(fixture.host.state_dir(), old.uuid);
    let saved = copies.copies().unwrap().0.remove(0);
    let bytes = copies
        .path()
        .join(format!("{}.state", saved.manifest.sha256()));
    fs::remove_file(&bytes).unwrap();
    symlink("elsewhere", &bytes).unwrap();
    let unread = clone(&fixture.host, &uuid, "vm2");
    assert!(
        matches!(unread, Err(CloneError::NotTried(..))),
        "{unread:?}"
    );
    // One that will never be read again is none.
    fs::remove_file(&bytes).unwrap();
    fs::write(&bytes, "damaged").unwrap();
    assert!(matches!(
        clone(&fixture.host, &uuid, "vm2"),
        Err(CloneError::NoStateLeft(..))
    ));
    unbind(&fixture.host, &uuid).unwrap();
    assert!(fixture.rows(&guest).is_empty());
}

#[test]
fn a_kill_leaves_the_clone_with_a_key_or_without() {
    kill::everywhere(
        |fixture| drop(pair(fixture)),
        |fixture| drop(cloned(fixture).unwrap()),
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
        |fixture| assert!(fixture.would_start(&fixture.defined("vm2"))),
    );
}

#[test]
fn a_kill_loses_no_state_that_is_taken_over() {
    let old = |fixture: &Fixture| {
        let rows = fixture.store().all_key_refs(None, true).unwrap();
        let guest = fixture.defined("vm2").uuid;
        let old = rows.iter().find(|row| row.domain != guest).unwrap();
        old.domain.to_string()
    };
    kill::everywhere(
        |fixture| drop(came_back(fixture)),
        |fixture| drop(clone(&fixture.host, &old(fixture), "vm2").unwrap()),
        |fixture| {
            let place = fixture.libvirt.dirs().tpm_states().join(old(fixture));
            assert!(place.join("tpm2/tpm2-00.permall").exists());
        },
        |fixture| assert!(fixture.would_start(&fixture.defined("vm2"))),
    );
}

#[test]
fn a_guest_that_came_back_under_its_name_is_the_clone_of_the_one_before() {
    let fixture = Fixture::new();
    let old = fixture.guest_in_use("vm1");
    let now = Timestamp::now();
    let event = Event::new(now, Origin::Renew, old.uuid, "vm1", "done".to_owned());
    fixture.store().record_event(&event).unwrap();
    fixture.libvirt.guests.undefine("vm1");
    let guest = fixture.define("vm1");
    let done = clone(&fixture.host, "vm1", "vm1").unwrap();
    assert_eq!(done.action, CloneAction::TakenOver);
    assert_eq!(done.original.uuid(), old.uuid);
    assert!(fixture.would_start(&guest));
}
