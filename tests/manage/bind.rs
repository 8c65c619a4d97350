//! `key bind`.

use std::fs;

use super::fixture::{Defined, Fixture};
use super::kill;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret;
use crate::manage::bind::{BindAction, BindError, BindRemark, Bound, bind};
use crate::manage::guests::GuestError;
use crate::manage::host::HostError;
use crate::manage::key_refs::{retire, unbind};
use crate::manage::providers::ProviderError;
use crate::manage::reset::reset;
use crate::store::EventFilter;
use crate::verdict::code::Code;

fn bound(fixture: &Fixture, provider: Option<&str>) -> Bound {
    bind(&fixture.host, "vm1", provider).unwrap()
}

#[test]
fn a_guest_is_bound_once_moved_and_left_where_it_is() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let made = bound(&fixture, None);
    let [row] = &fixture.rows(&guest)[..] else {
        panic!("one row");
    };
    assert_eq!(made.action, BindAction::Made(row.key_ref.id));
    assert_eq!(
        (made.provider.name.as_str(), &made.remarks[..]),
        ("a", &[][..])
    );

    let moved = bound(&fixture, Some("b"));
    assert_eq!(
        moved.action,
        BindAction::Moved(row.key_ref.id, "a".to_owned())
    );
    let again = bound(&fixture, Some("b"));
    assert_eq!(again.action, BindAction::Unchanged(row.key_ref.id));
    let document = serde_json::to_value(&again).unwrap();
    assert_eq!(document["action"], "none");
    assert_eq!(document["key_refs"][0], row.key_ref.id.0);
}

/// The defaults would look for the guest's TPM in the wrong directory, and not say that it has one.
#[test]
fn a_broken_configuration_binds_nothing() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    fs::write(fixture.root().join("config.toml"), "nonsense = 1\n").unwrap();
    let error = bind(&fixture.host, "vm1", None).unwrap_err();
    assert!(
        matches!(
            &error,
            BindError::Guest(GuestError::Host(HostError::Config(_)))
        ),
        "{error:?}"
    );
    assert_eq!(fixture.rows(&guest), []);
}

#[test]
fn a_key_stays_with_the_provider_that_opens_it() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let id = fixture.opening_row(&guest).unwrap();
    let unchanged = bound(&fixture, Some("a"));
    assert_eq!(unchanged.action, BindAction::Unchanged(id));
    let other = bind(&fixture.host, "vm1", Some("b")).unwrap_err();
    assert!(
        matches!(&other, BindError::OtherKey { keys, .. } if keys == &[(id, "a".to_owned())]),
        "{other:?}"
    );

    // Another tool took the provider from the row; its key opens it all the same.
    fixture.sql("UPDATE key_ref SET provider_uuid = NULL, provider_name = 'gone'");
    let rebound = bound(&fixture, Some("a"));
    assert_eq!(rebound.action, BindAction::Rebound(vec![id]));
    let row = fixture.rows(&guest).remove(0).key_ref;
    assert_eq!(row.provider_uuid, Some(fixture.provider("a").uuid));
    assert_eq!(row.provider_name, "a");
    assert!(fixture.would_start(&guest));
}

#[test]
fn what_an_administrator_should_know_is_told() {
    let fixture = Fixture::new();
    let remarks = |guest: &str| bind(&fixture.host, guest, None).unwrap().remarks;
    let unknown = DomainUuid::random().to_string();
    assert_eq!(remarks(&unknown), [BindRemark::NotDefined]);

    let plain = fixture.define_with("plain", DomainUuid::random(), SecretUuid::random(), "");
    let not_encrypted = |has_state| BindRemark::NotEncrypted { has_state };
    assert_eq!(remarks("plain"), [not_encrypted(false)]);
    fixture.plain_state(&plain);
    assert_eq!(remarks("plain"), [not_encrypted(true)]);

    let no_tpm = "<domain><name>no-tpm</name><uuid>{}</uuid></domain>";
    let no_tpm = no_tpm.replace("{}", &DomainUuid::random().to_string());
    fixture.libvirt.guests.define(&no_tpm);
    assert_eq!(remarks("no-tpm"), [BindRemark::NoTpm]);
    // Of what cannot be read nothing is known.
    fixture.define("spoilt");
    fixture.libvirt.guests.spoil("spoilt");
    assert_eq!(remarks("spoilt"), []);

    let with_state = fixture.define("with-state");
    fixture.encrypt_state(&with_state, &Dek::generate().unwrap());
    assert_eq!(remarks("with-state"), [BindRemark::HasState]);

    let foreign = |guest: &Defined, private: &str| {
        let own = secret::definition(guest.secret, guest.uuid);
        let own = own.replace("private='yes'", private);
        let mine = format!("vtpm-guard:{}", guest.uuid);
        fixture
            .libvirt
            .secrets
            .define(&own.replace(&mine, &guest.name))
            .unwrap();
        fixture
            .libvirt
            .secrets
            .set_value(guest.secret, b"value")
            .unwrap();
    };
    let readable = fixture.define("readable");
    foreign(&readable, "private='no'");
    assert_eq!(
        remarks("readable"),
        [BindRemark::ReadableValue(readable.secret)]
    );
    let private = fixture.define("private");
    foreign(&private, "private='yes'");
    assert_eq!(
        remarks("private"),
        [BindRemark::PrivateValue(private.secret)]
    );
}

#[test]
fn a_bound_guest_that_would_not_start_is_told_what_helps() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    assert_eq!(bound(&fixture, None).remarks, []);
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    let again = bound(&fixture, None);
    assert!(matches!(again.action, BindAction::Unchanged(_)));
    assert!(
        matches!(&again.remarks[..], [BindRemark::WouldNotStart(why)] if why.code() == Code::KeyDoesNotOpenTpm),
        "{again:?}"
    );
}

#[test]
fn guests_that_have_its_secret_or_had_its_name_are_told() {
    let fixture = Fixture::new();
    let first = fixture.define("vm1");
    let encryption = format!("<encryption secret='{}'/>", first.secret);
    fixture.define_with("vm2", DomainUuid::random(), first.secret, &encryption);
    let shared = BindRemark::SharedSecret(first.secret, vec!["vm2".to_owned()]);
    assert_eq!(bound(&fixture, None).remarks, [shared]);

    // Nor is one that has used its key and is still there a guest of before.
    let present = fixture.guest_in_use("vm5");
    let encryption = format!("<encryption secret='{}'/>", present.secret);
    fixture.define_with("vm6", DomainUuid::random(), present.secret, &encryption);
    let shared = BindRemark::SharedSecret(present.secret, vec!["vm5".to_owned()]);
    let remarks = bind(&fixture.host, "vm6", None).unwrap().remarks;
    assert_eq!(remarks, [shared]);

    let former = fixture.guest_in_use("vm3");
    fixture.libvirt.guests.undefine("vm3");
    let encryption = format!("<encryption secret='{}'/>", former.secret);
    fixture.define_with("vm4", DomainUuid::random(), former.secret, &encryption);
    let remarks = bind(&fixture.host, "vm4", None).unwrap().remarks;
    assert_eq!(remarks, [BindRemark::FormerGuest(former.uuid)]);
    assert!(
        fixture
            .store()
            .history(EventFilter::All, 1)
            .unwrap()
            .is_empty()
    );
}

/// With nothing but a retired key that was used, and no TPM state, a person decides whether there is
/// to be a new TPM.
#[test]
fn a_guest_whose_used_key_is_retired_gets_a_new_tpm_only_where_a_person_says_so() {
    let fixture = Fixture::new();
    fixture.configure("[policy]\nauto_bind = \"a\"");
    for by_bind in [true, false] {
        let name = if by_bind { "vm1" } else { "vm2" };
        let guest = fixture.guest_in_use(name);
        let id = fixture.opening_row(&guest).unwrap();
        fs::remove_file(fixture.state_file(&guest)).unwrap();
        assert!(!fixture.is_allowed(&guest), "row 38");
        unbind(&fixture.host, name).unwrap();
        assert!(!fixture.is_allowed(&guest), "row 113");
        if by_bind {
            let remarks = bind(&fixture.host, name, None).unwrap().remarks;
            assert_eq!(remarks, [BindRemark::UsedKeyRetired(id)]);
        } else {
            let done = reset(&fixture.host, name).unwrap();
            assert!(done.changed && done.was_used && !done.has_key && !done.is_unbound);
            assert!(!reset(&fixture.host, name).is_ok_and(|again| again.changed));
        }
        assert!(fixture.is_allowed(&guest), "{name}");
        assert!(fixture.rows(&guest).iter().any(|row| row.key_ref.id == id));
    }
}

/// Without `policy.auto_bind`, a reset alone does not start it.
#[test]
fn a_reset_of_a_guest_that_is_bound_to_no_provider_says_so() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    unbind(&fixture.host, "vm1").unwrap();
    let done = reset(&fixture.host, "vm1").unwrap();
    assert!(done.changed && done.is_unbound);
    // One that is bound has decided already.
    let guest = fixture.guest_in_use("vm2");
    unbind(&fixture.host, "vm2").unwrap();
    bind(&fixture.host, "vm2", None).unwrap();
    assert!(reset(&fixture.host, "vm2").is_err());
    let rows = fixture.rows(&guest);
    assert!(rows.iter().any(|row| row.key_ref.first_used_at.is_some()));
    // Nor does a reset of a key in use touch the retired ones.
    let guest = fixture.guest_in_use("vm3");
    let old = fixture.opening_row(&guest).unwrap();
    fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    retire(&fixture.host, old).unwrap();
    assert!(reset(&fixture.host, "vm3").unwrap().changed);
    let rows = fixture.rows(&guest);
    let used = rows
        .iter()
        .filter(|row| row.key_ref.first_used_at.is_some());
    assert_eq!(used.map(|row| row.key_ref.id).collect::<Vec<_>>(), [old]);
}

#[test]
fn nobody_and_no_provider_are_errors() {
    let fixture = Fixture::new();
    let nobody = bind(&fixture.host, "nobody", None).unwrap_err();
    assert!(matches!(nobody, BindError::Guest(GuestError::NotFound(_))));
    fixture.define("vm1");
    let no_provider = bind(&fixture.host, "vm1", Some("nobody")).unwrap_err();
    assert!(matches!(
        no_provider,
        BindError::Provider(ProviderError::Host(_))
    ));
    fixture.sql("UPDATE key_provider SET is_default = 0");
    let no_default = bind(&fixture.host, "vm1", None).unwrap_err();
    assert!(matches!(
        no_default,
        BindError::Provider(ProviderError::NoDefault)
    ));
}

#[test]
fn a_kill_leaves_the_guest_bound_or_not() {
    kill::everywhere(
        |fixture| drop(fixture.define("vm1")),
        |fixture| drop(bound(fixture, None)),
        |fixture| assert!(fixture.rows(&fixture.defined("vm1")).len() <= 1),
        |fixture| assert_eq!(fixture.rows(&fixture.defined("vm1")).len(), 1),
    );
}

#[test]
fn a_secret_that_is_the_guards_that_has_no_value_or_is_for_something_else_is_no_remark() {
    let fixture = Fixture::new();
    let secrets = &fixture.libvirt.secrets;
    let own = fixture.define("own");
    let definition = secret::definition(own.secret, own.uuid);
    secrets.define(&definition).unwrap();
    secrets.set_value(own.secret, b"value").unwrap();
    for (name, usage) in [
        ("other", "<usage type='ceph'><name>disk</name></usage>"),
        ("empty", "<usage type='vtpm'><name>mine</name></usage>"),
    ] {
        let guest = fixture.define(name);
        let uuid = guest.secret;
        let xml =
            format!("<secret ephemeral='no' private='no'><uuid>{uuid}</uuid>{usage}</secret>");
        secrets.define(&xml).unwrap();
        let value: &[u8] = if name == "empty" { b"" } else { b"value" };
        secrets.set_value(uuid, value).unwrap();
    }
    for name in ["own", "other", "empty"] {
        assert_eq!(
            bind(&fixture.host, name, None).unwrap().remarks,
            [],
            "{name}"
        );
    }
}

#[test]
fn a_guest_is_bound_also_where_libvirt_does_not_answer() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    fixture.libvirt.go_down();
    let done = bind(&fixture.host, &guest.uuid.to_string(), None).unwrap();
    assert!(matches!(done.action, BindAction::Made(_)));
    assert_eq!(fixture.rows(&guest).len(), 1);
}
