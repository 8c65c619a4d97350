//! What `adopt` refuses. The decision itself is tested beside `verdict::adopt`; here it is seen
//! that the facts are gathered as they are, and that a refusal changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::manage::adopt::NotAdopted;
use crate::manage::guests::GuestError;
use crate::manage::providers::ProviderError;
use crate::verdict::adopt::{AvailableSecret, HeldKey, NotAdoptable, SecretNeeded, Undisclosed};
use crate::verdict::code::Code;
use crate::verdict::facts::{Announcement, Arrival};

/// Why the only guest was refused. Nothing has changed.
#[track_caller]
fn refusal_of(fixture: &Fixture, request: &Request<'_>) -> NotAdoptable {
    let guest = fixture.defined("vm1");
    let before = (fixture.rows(&guest), has_secret(fixture, &guest));
    let result = only(fixture, request);
    assert!(result.stored.is_none(), "{result:?}");
    assert_eq!((fixture.rows(&guest), has_secret(fixture, &guest)), before);
    match result.error {
        Some(NotAdopted::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refusal(fixture: &Fixture) -> NotAdoptable {
    refusal_of(fixture, &all())
}

fn needed(why: SecretNeeded) -> NotAdoptable {
    NotAdoptable::SecretNeeded(why)
}

/// The attributes of a secret whose value nobody can read.
const HIDDEN: &str = "ephemeral='yes' private='yes'";

/// The key that the guard holds, beside a value that nobody can read.
#[track_caller]
fn held(result: AdoptResult) -> Option<HeldKey> {
    match result.error {
        Some(NotAdopted::Refused {
            why: NotAdoptable::Undisclosed { held, .. },
            ..
        }) => held,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_private_value_gives_way_only_to_a_key_that_the_state_proves() {
    let fixture = exported();
    let guest = guest_with(&fixture, "vm1", HIDDEN);
    let state = fs::read(fixture.state_file(&guest)).unwrap();
    let wrong = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    // Not mounted, of an unknown format, there.
    fs::remove_file(fixture.state_file(&guest)).unwrap();
    assert_eq!(held(only(&fixture, &all())), None);
    let mut newer = state.clone();
    newer[0] = 0xfe;
    fixture.write_state(&guest, &newer);
    assert_eq!(held(only(&fixture, &all())), None);
    fixture.write_state(&guest, &state);
    assert_eq!(held(only(&fixture, &all())), None);

    fixture.store().retire(wrong, Timestamp::now()).unwrap();
    let key_ref = fixture.add_key(&guest, "a", &key());
    let secret_needed = None;
    let proven = HeldKey {
        key_ref,
        secret_needed,
    };
    assert_eq!(held(only(&fixture, &all())), Some(proven));
}

#[test]
fn a_private_value_stays_for_another_guest_also_one_that_is_adopted_with_this_one() {
    let fixture = exported();
    let first = guest_with(&fixture, "vm1", HIDDEN);
    twin(&fixture, "vm2", &first);
    fixture.add_key(&first, "a", &key());
    let names = ["vm1".to_owned()];
    let alone = Request {
        guests: Some(&names[..]),
        ..all()
    };
    for request in [alone, all()] {
        let first = run(&fixture, &request).unwrap().remove(0);
        let needed = held(first).unwrap().secret_needed;
        assert!(
            matches!(&needed, Some(SecretNeeded::Shared(others)) if others[0].name == "vm2"),
            "{needed:?}"
        );
    }
}

#[test]
fn a_private_value_stays_while_the_provider_of_the_guards_key_was_never_exported() {
    let fixture = exported();
    let guest = guest_with(&fixture, "vm1", HIDDEN);
    // Not the default, which was exported.
    fixture.add_key(&guest, "b", &key());
    let needed = held(only(&fixture, &all())).unwrap().secret_needed;
    assert_eq!(needed, Some(SecretNeeded::NeverExported));
}

#[test]
fn a_private_value_that_no_file_discloses_is_refused() {
    let undisclosed = |fixture: &Fixture| match refusal(fixture) {
        NotAdoptable::Undisclosed { why, held: None } => why,
        other => panic!("{other:?}"),
    };
    let fixture = exported();
    let guest = guest_with(&fixture, "vm1", "ephemeral='yes' private='yes'");
    assert_eq!(undisclosed(&fixture), Undisclosed::NoFile);
    assert_untouched(&fixture, &guest);

    let fixture = exported();
    let guest = guest_with(&fixture, "vm1", READABLE[1]);
    let file = |extension: &str| {
        let dir = fixture.libvirt.dirs().secrets();
        dir.join(format!("{}.{extension}", guest.secret))
    };
    fs::set_permissions(file("base64"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(undisclosed(&fixture), Undisclosed::File(_)));
    // As libvirt 12.1 has it.
    fs::rename(file("base64"), file("aes256cbc")).unwrap();
    let path = file("aes256cbc").display().to_string();
    assert_eq!(undisclosed(&fixture), Undisclosed::Encrypted(path));

    let config = fixture.root().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, text + "[secret]\nuri = \"secret:///session\"\n").unwrap();
    assert_eq!(undisclosed(&fixture), Undisclosed::NoFile);
    assert_untouched(&fixture, &guest);
}

#[test]
fn without_a_value_there_is_nothing_to_adopt() {
    let fixture = exported();
    let nothing = || match refusal(&fixture) {
        NotAdoptable::NothingToAdopt(available) => available,
        other => panic!("{other:?}"),
    };
    let guest = fixture.define("vm1");
    assert_eq!(nothing(), AvailableSecret::Absent);
    let own = crate::libvirt::secret::definition(guest.secret, guest.uuid);
    fixture.libvirt.secrets.define(&own).unwrap();
    assert_eq!(nothing(), AvailableSecret::Own);

    fixture.libvirt.secrets.undefine(guest.secret);
    fixture.encrypt_state(&guest, &key());
    define_secret(&fixture, &guest, READABLE[0], &vtpm_usage(guest.secret));
    let serves_anything = false;
    assert_eq!(nothing(), AvailableSecret::NoValue { serves_anything });
    set_value(&fixture, &guest, b"");
    assert_eq!(nothing(), AvailableSecret::NoValue { serves_anything });
}

#[test]
fn where_nothing_can_be_adopted_and_nothing_would_start_that_refusal_is_told() {
    let fixture = exported();
    let told = || match only(&fixture, &all()).error {
        Some(NotAdopted::WouldNotStart(why)) => why.code(),
        other => panic!("{other:?}"),
    };
    let guest = fixture.define("vm1");
    fixture.encrypt_state(&guest, &key());
    assert_eq!(told(), Code::KeyLost);
    fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    assert_eq!(told(), Code::KeyDoesNotOpenTpm);
}

#[test]
fn a_secret_for_something_else_is_not_taken_and_one_for_anything_not_removed() {
    let fixture = exported();
    let guest = fixture.define("vm1");
    fixture.encrypt_state(&guest, &key());
    let volume = "<usage type='volume'><volume>/disk</volume></usage>";
    define_secret(&fixture, &guest, READABLE[0], volume);
    set_value(&fixture, &guest, KEY);
    assert!(matches!(refusal(&fixture), NotAdoptable::OtherUse(_)));

    fixture.libvirt.secrets.undefine(guest.secret);
    define_secret(&fixture, &guest, READABLE[0], "");
    set_value(&fixture, &guest, KEY);
    assert_eq!(refusal(&fixture), needed(SecretNeeded::ServesAnything));
    assert_eq!(adopted(&fixture, &keeping()).secret, SecretOutcome::Kept);
    assert!(has_secret(&fixture, &guest) && fixture.would_start(&guest));
}

#[test]
fn a_tpm_state_that_does_not_prove_the_value_refuses_it_even_where_the_secret_stays() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    let refusals = || [all(), keeping()].map(|request| refusal_of(&fixture, &request));
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    assert_eq!(
        refusals(),
        [NotAdoptable::DoesNotOpen, NotAdoptable::DoesNotOpen]
    );
    fixture.plain_state(&guest);
    assert_eq!(
        refusals(),
        [NotAdoptable::StatePlain, NotAdoptable::StatePlain]
    );
    fixture.write_state(&guest, b"no TPM state");
    assert!(matches!(
        refusals(),
        [
            NotAdoptable::StateUnreadable(_),
            NotAdoptable::StateUnreadable(_)
        ]
    ));

    fs::remove_file(fixture.state_file(&guest)).unwrap();
    fixture.libvirt.guests.start("vm1");
    assert_eq!(refusal(&fixture), NotAdoptable::RunsWithoutState);
    let announcement = Announcement {
        domain_name: "vm1".to_owned(),
        arrival: Arrival::Migration,
        attempt: String::new(),
        at: Timestamp::now(),
    };
    fixture.store().announce(guest.uuid, &announcement).unwrap();
    assert_eq!(refusal(&fixture), NotAdoptable::StateArrives);
    assert_untouched(&fixture, &guest);
}

#[test]
fn another_key_of_the_guest_is_not_replaced() {
    let fixture = exported();
    let guest = fixture.define("vm1");
    let key_ref = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    define_secret(&fixture, &guest, READABLE[0], &vtpm_usage(guest.secret));
    set_value(&fixture, &guest, KEY);
    let another = |opened| NotAdoptable::HasAnotherKey { key_ref, opened };
    assert_eq!(refusal(&fixture), another(true));
    fixture.lose_key("a");
    assert_eq!(refusal(&fixture), another(false));
}

#[test]
fn the_secret_does_not_go_before_the_provider_was_exported() {
    let fixture = Fixture::new();
    let guest = guest(&fixture, "vm1");
    assert_eq!(refusal(&fixture), needed(SecretNeeded::NeverExported));
    assert_untouched(&fixture, &guest);
}

#[test]
fn a_secret_of_two_guests_goes_when_the_store_has_both_keys() {
    let fixture = exported();
    let first = guest(&fixture, "vm1");
    let second = twin(&fixture, "vm2", &first);
    let named = |names: &[&str], request: Request<'_>| {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let guests = Some(&names[..]);
        run(&fixture, &Request { guests, ..request }).unwrap()
    };
    let is_shared = || {
        matches!(
            &named(&["vm1"], all())[0].error,
            Some(NotAdopted::Refused {
                why: NotAdoptable::SecretNeeded(SecretNeeded::Shared(others)), ..
            })
                if others[0].name == "vm2"
        )
    };
    assert!(is_shared());
    assert_untouched(&fixture, &first);

    // Its key is in the store, but in no recovery file.
    let keep_under_b = Request {
        provider: Some("b"),
        ..keeping()
    };
    assert!(named(&["vm2"], keep_under_b)[0].error.is_none());
    assert!(is_shared());
    let together = run(&fixture, &all()).unwrap();
    let stored = together[0].stored.as_ref().unwrap();
    let waits_for = vec![together[1].guest.clone()];
    assert_eq!(stored.secret, SecretOutcome::KeptFor(waits_for));
    assert!(has_secret(&fixture, &first));

    export(&fixture, "b");
    assert!(named(&["vm1"], all())[0].error.is_none());
    assert_adopted(&fixture, &first);
    assert_adopted(&fixture, &second);
}

#[test]
fn a_guest_without_an_encrypted_vtpm_or_with_xml_that_cannot_be_read_is_refused() {
    let fixture = exported();
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    fixture.define_with("vm1", uuid, secret, "");
    let without = "<domain type='qemu'><name>vm2</name><uuid>UUID</uuid></domain>";
    let without = without.replace("UUID", &DomainUuid::random().to_string());
    fixture.libvirt.guests.define(&without);
    let broken = fixture.libvirt.dirs().definitions().join("vm3.xml");
    fs::write(
        broken,
        without.replace("<name>vm2</name>", "<devices></domain>"),
    )
    .unwrap();

    // `encrypt` refuses one that swtpm does not emulate.
    let passthrough = without.replace(
        "<name>vm2</name>",
        "<name>vm4</name><devices><tpm model='tpm-crb'><backend type='passthrough'/></tpm></devices>",
    );
    let passthrough = passthrough.replace("-8", "-9");
    fixture.libvirt.guests.define(&passthrough);

    let names = ["vm1", "vm2", "vm3", "vm4"].map(str::to_owned);
    let request = Request {
        guests: Some(&names[..]),
        ..all()
    };
    let errors = run(&fixture, &request)
        .unwrap()
        .into_iter()
        .map(|result| result.error);
    let errors: Vec<_> = errors.flatten().collect();
    assert!(
        matches!(
            errors[..],
            [
                NotAdopted::NotEncrypted { has_tpm: true },
                NotAdopted::NotEncrypted { has_tpm: false },
                NotAdopted::UnreadableXml(_),
                NotAdopted::NotEncrypted { has_tpm: false },
            ]
        ),
        "{errors:?}"
    );
    // It may have an encrypted vTPM.
    assert_eq!(only(&fixture, &all()).guest.label(), "vm3");
}

#[test]
fn an_unknown_guest_or_provider_is_an_error_before_anything_is_changed() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    let names = ["vm1", "vm9"].map(str::to_owned);
    let request = Request {
        guests: Some(&names[..]),
        ..all()
    };
    assert!(matches!(
        run(&fixture, &request),
        Err(AdoptError::Guest(GuestError::NotFound(text))) if text == "vm9"
    ));
    let request = Request {
        provider: Some("c"),
        ..all()
    };
    assert!(matches!(
        run(&fixture, &request),
        Err(AdoptError::Provider(ProviderError::Host(_)))
    ));
    fixture.sql("UPDATE key_provider SET is_default = 0");
    assert!(matches!(
        run(&fixture, &all()),
        Err(AdoptError::Provider(ProviderError::NoDefault))
    ));
    assert_untouched(&fixture, &guest);
}
