//! What a refusal finds of a guest's TPM and its key under other names.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use super::fixture::{Defined, Fixture};
use super::start_keys::has_opened;
use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::guard::{Mode, prepare};
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::staging::files_read;
use crate::store::{Event, Origin};
use crate::verdict::elsewhere::{OtherGuest, RelatedGuest, Relation};
use crate::verdict::facts::{SeenState, StoreAccessError};
use crate::verdict::refusal::Refusal;
use crate::verdict::{Decision, Reason};

/// Why a start would be refused.
fn refusal_of(fixture: &Fixture, domain: Domain) -> Refusal {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let (origin, mode) = (Origin::Check, Mode::DryRun);
    let outcome = prepare(&guard, &Ok(domain), origin, mode, default_deadline());
    match outcome.verdict.decision() {
        Decision::Deny(why) => why.clone(),
        Decision::Allow(reason) => panic!("allowed: {reason:?}"),
    }
}

fn refusal(fixture: &Fixture, guest: &Defined) -> Refusal {
    refusal_of(fixture, fixture.domain(guest))
}

/// The guest that another one may be, under a new UUID, or a copy of.
fn relative(fixture: &Fixture, guest: &Defined) -> Option<RelatedGuest> {
    match refusal(fixture, guest) {
        Refusal::KeyOfRelatedGuest { relative, .. } => Some(relative),
        Refusal::KeyMissing => None,
        other => panic!("{other:?}"),
    }
}

/// A start of this guest, under this name, was allowed.
fn record_start(fixture: &Fixture, guest: DomainUuid, name: &str, at: Timestamp) {
    let event = Event::new(at, Origin::Prepare, guest, name, "the key opens the TPM");
    fixture.store().record_start(&event).unwrap();
}

/// A guest whose TPM names the secret of another one.
fn define_copy(fixture: &Fixture, name: &str, original: &Defined) -> Defined {
    let secret = original.secret;
    let encryption = format!("<encryption secret='{secret}'/>");
    fixture.define_with(name, DomainUuid::random(), secret, &encryption)
}

/// libvirt deletes the TPM's directory with the definition of a guest, and a definition that is older
/// than the guest's last start is the one that it had.
#[test]
fn a_guest_that_was_defined_again_since_its_last_start_may_have_been_undefined() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let last_start = 1_000_000;
    record_start(&fixture, guest.uuid, "vm1", Timestamp(last_start));
    let dirs = fixture.libvirt.dirs();
    let definition = dirs.definitions().join("vm1.xml");
    let define_at = |milliseconds| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let file = File::options().write(true).open(&definition).unwrap();
        file.set_modified(at).unwrap();
    };
    let later = u64::try_from(last_start).unwrap() + 1;
    let directory = dirs.tpm_states().join(guest.uuid.to_string());
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    define_at(later);
    assert_eq!(
        refusal(&fixture, &guest),
        Refusal::TpmStateMissing,
        "its directory is there"
    );
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(refusal(&fixture, &guest), Refusal::TpmStateUndefined);
    for at in [later - 1, later - 2] {
        define_at(at);
        assert_eq!(refusal(&fixture, &guest), Refusal::TpmStateMissing, "{at}");
    }
    // What is not in a directory of libvirt's own is not deleted with the guest.
    let source = format!(
        "<encryption secret='{}'/><source type='dir' path='{}'/>",
        guest.secret,
        fixture.root().join("states").display()
    );
    fixture.define_with("vm1", guest.uuid, guest.secret, &source);
    define_at(later);
    assert_eq!(refusal(&fixture, &guest), Refusal::TpmStateMissing);
    // A guest that libvirt does not define, its directory gone with its last run.
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    fixture.define_with("vm1", guest.uuid, guest.secret, &encryption);
    let transient = fixture.domain(&guest);
    fixture.libvirt.guests.undefine("vm1");
    assert_eq!(refusal_of(&fixture, transient), Refusal::TpmStateMissing);
}

#[test]
fn a_guest_with_the_secret_of_another_one_may_be_a_copy_of_it_once_that_one_has_run() {
    let fixture = Fixture::new();
    let original = fixture.guest_in_use("vm1");
    let copy = define_copy(&fixture, "vm2", &original);
    let found = RelatedGuest {
        domain: OtherGuest {
            uuid: original.uuid,
            name: Some("vm1".to_owned()),
            is_defined: true,
        },
        by: Relation::Secret,
        has_state: true,
    };
    assert_eq!(relative(&fixture, &copy), Some(found.clone()));
    // The row names no secret, as other tools leave it: libvirt's definition does.
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    assert_eq!(relative(&fixture, &copy), Some(found));
    fixture.sql("UPDATE key_ref SET first_used_at = NULL");
    assert_eq!(relative(&fixture, &copy), None);
}

#[test]
fn a_guest_may_be_the_one_that_had_its_name_unless_that_one_has_another_now() {
    let fixture = Fixture::new();
    let before = fixture.guest_in_use("renamed");
    record_start(&fixture, before.uuid, "vm1", Timestamp(1_000_000));
    let guest = fixture.define("vm1");
    assert_eq!(relative(&fixture, &guest), None, "names are unique");
    fixture.libvirt.guests.undefine("renamed");
    let found = relative(&fixture, &guest).unwrap();
    let domain = OtherGuest {
        uuid: before.uuid,
        name: Some("vm1".to_owned()),
        is_defined: false,
    };
    assert_eq!((found.domain, found.by), (domain, Relation::Name));
}

#[test]
fn a_related_guest_has_a_tpm_where_a_state_of_it_or_a_saved_copy_is() {
    let fixture = Fixture::new();
    let original = fixture.guest_in_use("vm1");
    let copy = define_copy(&fixture, "vm2", &original);
    let has_state = || relative(&fixture, &copy).unwrap().has_state;
    assert!(has_state());
    let file = fixture.state_file(&original);
    let bytes = fs::read(&file).unwrap();
    fixture.write_state(&original, b"");
    assert!(!has_state(), "an empty file is no state");
    fs::remove_file(&file).unwrap();
    assert!(!has_state());
    fs::create_dir(&file).unwrap();
    fs::write(file.join("file"), "content").unwrap();
    assert!(!has_state(), "nor is a directory");
    fs::remove_dir_all(&file).unwrap();
    // Where its last start found one.
    let seen = fixture.root().join("seen");
    let note = SeenState {
        domain_name: "vm1".to_owned(),
        secret_uuid: Some(original.secret),
        path: seen.clone(),
        at: Timestamp(1_000_000),
    };
    fixture
        .store()
        .note_seen_state(original.uuid, &note)
        .unwrap();
    assert!(!has_state());
    fs::write(&seen, &bytes).unwrap();
    assert!(has_state());
    fs::remove_file(&seen).unwrap();
    fixture.write_state(&original, &bytes);
    fixture.save_copy(&original);
    fs::remove_file(&file).unwrap();
    assert!(has_state(), "a copy is left");
}

#[test]
fn the_guest_whose_key_opens_a_state_is_named_and_no_other() {
    let fixture = Fixture::new();
    let (holder, dek) = (fixture.define("vm1"), Dek::generate().unwrap());
    fixture.add_key(&holder, "a", &dek);
    // Its key is newer, and tried before.
    fixture.guest_in_use("vm3");
    let guest = fixture.define("vm2");
    fixture.encrypt_state(&guest, &dek);
    let named = Refusal::KeyOfOtherGuest {
        holder: OtherGuest {
            uuid: holder.uuid,
            name: Some("vm1".to_owned()),
            is_defined: true,
        },
        refuted: false,
        is_defined: true,
    };
    assert_eq!(refusal(&fixture, &guest), named);
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    assert_eq!(refusal(&fixture, &guest), Refusal::KeyUnknown);
}

/// No other guest may be named because the definitions were not read.
#[test]
fn a_guest_is_not_bound_automatically_while_libvirts_definitions_are_not_known() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let domain = fixture.domain(&guest);
    let running = fixture.libvirt.dirs().running();
    let _ = fs::remove_dir_all(&running);
    fs::write(&running, "no directory").unwrap();
    let mut guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    guard.config.policy.auto_bind = Some("a".to_owned());
    let (origin, mode) = (Origin::Check, Mode::DryRun);
    let outcome = prepare(&guard, &Ok(domain), origin, mode, default_deadline());
    let decision = outcome.verdict.decision();
    assert!(
        matches!(decision, Decision::Deny(Refusal::DefinitionsUnread { .. })),
        "{decision:?}"
    );
}

/// The definitions of libvirt are one source among several: the store has the others' keys, and where the state was.
#[test]
fn a_key_of_another_guest_and_a_state_are_found_while_libvirts_definitions_cannot_be_read() {
    let fixture = Fixture::new();
    let (holder, dek) = (fixture.define("vm1"), Dek::generate().unwrap());
    fixture.add_key(&holder, "a", &dek);
    let guest = fixture.define("vm2");
    fixture.encrypt_state(&guest, &dek);
    let moved = fixture.guest_in_use("vm3");
    let last_place = fixture.root().join("tpm2-00.permall");
    fs::rename(fixture.state_file(&moved), &last_place).unwrap();
    let seen = SeenState {
        domain_name: "vm3".to_owned(),
        secret_uuid: Some(moved.secret),
        path: last_place.clone(),
        at: Timestamp(1),
    };
    fixture.store().note_seen_state(moved.uuid, &seen).unwrap();
    let domains = [&guest, &moved].map(|guest| fixture.domain(guest));

    let running = fixture.libvirt.dirs().running();
    let _ = fs::remove_dir_all(&running);
    fs::write(&running, "no directory").unwrap();
    let [of_key, of_state] = domains.map(|domain| refusal_of(&fixture, domain));
    let Refusal::KeyOfOtherGuest {
        holder: named,
        is_defined: true,
        ..
    } = &of_key
    else {
        panic!("{of_key:?}");
    };
    assert_eq!(named.uuid, holder.uuid);
    let Refusal::TpmStateElsewhere(state) = &of_state else {
        panic!("{of_state:?}");
    };
    assert_eq!(state.path, last_place);
}

/// What helps against an encrypted state under an XML without encryption needs to know whether libvirt defines the guest,
/// and no key.
#[test]
fn a_contradiction_of_xml_and_state_tries_no_keys_of_other_guests() {
    let fixture = Fixture::new();
    let (holder, dek) = (fixture.define("vm1"), Dek::generate().unwrap());
    fixture.add_key(&holder, "a", &dek);
    let plain = fixture.define_with("vm2", DomainUuid::random(), holder.secret, "");
    fixture.encrypt_state(&plain, &dek);
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let domain = Ok(fixture.domain(&plain));
    let (origin, mode) = (Origin::Check, Mode::DryRun);
    let outcome = prepare(&guard, &domain, origin, mode, default_deadline());
    let mismatch = Refusal::EncryptionMismatch {
        state_encrypted: true,
        is_defined: true,
    };
    assert_eq!(*outcome.verdict.decision(), Decision::Deny(mismatch));
    assert!(!has_opened(&fixture, &guard, "a"));
}

/// One pass through them for all questions of a search.
#[test]
fn a_refusal_reads_each_definition_once_or_twice() {
    let fixture = Fixture::new();
    for number in 0..20 {
        fixture.define(&format!("other{number}"));
    }
    let original = fixture.guest_in_use("vm1");
    let copy = define_copy(&fixture, "vm2", &original);
    let read = files_read(|| {
        assert!(relative(&fixture, &copy).is_some());
    });
    assert!((22..30).contains(&read), "{read} files");
}

/// A store that does not say whether the guest has a TPM under another name: a key that was made all the same would
/// give it a new one.
#[test]
fn a_guest_is_not_bound_automatically_while_the_search_has_no_answer() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let judged = || {
        let mut guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
        guard.config.policy.auto_bind = Some("a".to_owned());
        let (origin, mode) = (Origin::Check, Mode::DryRun);
        let domain = Ok(fixture.domain(&guest));
        let outcome = prepare(&guard, &domain, origin, mode, default_deadline());
        outcome.verdict.decision().clone()
    };
    assert_eq!(judged(), Decision::Allow(Reason::NewKey));
    // Of all that a start reads, only the search reads the history.
    fixture.sql("ALTER TABLE event RENAME COLUMN domain_name TO name");
    let Decision::Deny(Refusal::Store(trouble)) = judged() else {
        panic!("{:?}", judged());
    };
    assert!(
        matches!(trouble, StoreAccessError::Corrupt(_)),
        "{trouble:?}"
    );
}
