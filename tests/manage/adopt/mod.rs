//! `adopt`: what happens to the keys of guests whose secrets somebody else made.

mod refused;
mod trouble;

use super::fixture::{Defined, Fixture};
use super::kill;
use crate::clock::Timestamp;
use crate::guard::{Mode, prepare};
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::manage::adopt::{
    AdoptError, AdoptResult, Request, SecretOutcome, Step, StoredKey, adopt,
};
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::store::{EventFilter, Origin};

/// The value of the secrets that somebody else made.
const KEY: &[u8] = b"a made-up key, nowhere else";

/// The kinds of secrets whose value can be read: their attributes.
const READABLE: [&str; 3] = [
    "ephemeral='no' private='no'",
    "ephemeral='no' private='yes'",
    "ephemeral='yes' private='no'",
];

fn all() -> Request<'static> {
    Request {
        guests: None,
        provider: None,
        keep_plaintext: false,
    }
}

fn keeping() -> Request<'static> {
    Request {
        keep_plaintext: true,
        ..all()
    }
}

fn run(fixture: &Fixture, request: &Request<'_>) -> Result<Vec<AdoptResult>, AdoptError> {
    adopt(&fixture.host, request, &mut |_| {})
}

/// The only result.
#[track_caller]
fn only(fixture: &Fixture, request: &Request<'_>) -> AdoptResult {
    let mut results = run(fixture, request).unwrap();
    assert_eq!(results.len(), 1, "{results:?}");
    results.remove(0)
}

/// The key of the only guest, which was adopted.
#[track_caller]
fn adopted(fixture: &Fixture, request: &Request<'_>) -> StoredKey {
    let result = only(fixture, request);
    assert!(result.error.is_none(), "{result:?}");
    result.stored.unwrap()
}

/// A host whose provider `a` was exported.
fn exported() -> Fixture {
    let fixture = Fixture::new();
    export(&fixture, "a");
    fixture
}

fn export(fixture: &Fixture, name: &str) {
    let provider = fixture.provider(name);
    let now = Timestamp::now();
    let marked = fixture
        .store()
        .mark_exported(provider.uuid, provider.key_id, now);
    marked.unwrap();
}

fn vtpm_usage(secret: SecretUuid) -> String {
    format!("<usage type='vtpm'><name>{secret}</name></usage>")
}

/// Defines the guest's secret as somebody else would, without a value.
fn define_secret(fixture: &Fixture, guest: &Defined, attributes: &str, usage: &str) {
    let secret = guest.secret;
    let xml = format!("<secret {attributes}><uuid>{secret}</uuid>{usage}</secret>");
    fixture.libvirt.secrets.define(&xml).unwrap();
}

fn set_value(fixture: &Fixture, guest: &Defined, value: &[u8]) {
    fixture
        .libvirt
        .secrets
        .set_value(guest.secret, value)
        .unwrap();
}

fn key() -> Dek {
    Dek::from_bytes(KEY.to_vec().into())
}

/// A guest whose TPM state is encrypted under the key in a secret with these attributes.
fn guest_with(fixture: &Fixture, name: &str, attributes: &str) -> Defined {
    let guest = fixture.define(name);
    define_secret(fixture, &guest, attributes, &vtpm_usage(guest.secret));
    set_value(fixture, &guest, KEY);
    fixture.encrypt_state(&guest, &key());
    guest
}

fn guest(fixture: &Fixture, name: &str) -> Defined {
    guest_with(fixture, name, READABLE[0])
}

/// A guest that uses the secret of another one.
fn twin(fixture: &Fixture, name: &str, other: &Defined) -> Defined {
    let encryption = format!("<encryption secret='{}'/>", other.secret);
    let uuid = crate::ids::DomainUuid::random();
    let twin = fixture.define_with(name, uuid, other.secret, &encryption);
    fixture.encrypt_state(&twin, &key());
    twin
}

fn has_secret(fixture: &Fixture, guest: &Defined) -> bool {
    fixture.libvirt.secrets.value(guest.secret).as_deref() == Some(KEY)
}

/// The refusal left the store without a row and libvirt's secret with its value.
#[track_caller]
fn assert_untouched(fixture: &Fixture, guest: &Defined) {
    assert!(fixture.rows(guest).is_empty());
    assert!(has_secret(fixture, guest));
}

/// The store has the guest's one key, which opens its TPM, and libvirt has nothing of it.
#[track_caller]
fn assert_adopted(fixture: &Fixture, guest: &Defined) {
    let rows = fixture.rows(guest);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0].key_ref.secret_uuid, Some(guest.secret));
    assert!(rows[0].key_ref.first_used_at.is_some());
    assert!(fixture.libvirt.secrets.definition(guest.secret).is_none());
    let files = fixture.libvirt.dirs().secrets().read_dir().unwrap();
    assert_eq!(files.count(), 0);
    assert!(fixture.would_start(guest));
}

fn events(fixture: &Fixture) -> Vec<String> {
    let events = fixture.store().history(EventFilter::All, 9).unwrap();
    events.into_iter().map(|event| event.message).collect()
}

#[test]
fn a_key_is_taken_over_and_its_secret_removed_whatever_its_kind() {
    for attributes in READABLE {
        let fixture = exported();
        let guest = guest_with(&fixture, "vm1", attributes);
        let key = adopted(&fixture, &all());
        assert!(key.is_new && key.proven && !key.guessable);
        assert_eq!(key.provider, "a");
        assert_eq!(key.secret, SecretOutcome::Removed, "{attributes}");
        assert_eq!(fixture.opening_row(&guest), Some(key.key_ref));
        assert_adopted(&fixture, &guest);
        assert!(events(&fixture)[0].ends_with("secret, which was removed"));

        let again = adopted(&fixture, &all());
        assert!(!again.is_new && again.proven);
        assert_eq!(again.key_ref, key.key_ref);
        assert_eq!(again.secret, SecretOutcome::Absent);
        assert_eq!(events(&fixture).len(), 1);
    }
}

#[test]
fn a_proven_value_is_taken_over_beside_keys_that_the_state_refutes_and_a_start_retires_them() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    let wrong = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    let key = adopted(&fixture, &all());
    assert!(key.is_new && key.proven);
    assert_eq!(key.secret, SecretOutcome::Removed);
    assert_eq!(fixture.opening_row(&guest), Some(key.key_ref));
    // A wrapped key is never deleted.
    let retired = |fixture: &Fixture| {
        let rows = fixture.store().all_key_refs(Some(guest.uuid), true);
        let rows = rows.unwrap().into_iter();
        let row = |row: crate::store::KeyRefRecord| (row.key_ref.id, row.retired_at.is_some());
        rows.map(row).collect::<Vec<_>>()
    };
    assert_eq!(retired(&fixture), [(wrong, false), (key.key_ref, false)]);
    assert!(start(&fixture, &guest));
    assert_eq!(retired(&fixture), [(wrong, true), (key.key_ref, false)]);
}

/// Whether the guest starts.
fn start(fixture: &Fixture, guest: &Defined) -> bool {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    let domain = Ok(fixture.domain(guest));
    let outcome = prepare(&guard, &domain, origin, mode, default_deadline());
    outcome.is_allowed()
}

#[test]
fn a_kill_at_any_moment_leaves_guests_that_start_and_the_next_run_completes_it() {
    let guests = |fixture: &Fixture| ["vm1", "vm2"].map(|name| fixture.defined(name));
    kill::everywhere(
        |fixture| {
            export(fixture, "a");
            let guest = guest(fixture, "vm1");
            twin(fixture, "vm2", &guest);
        },
        |fixture| {
            let results = run(fixture, &all()).unwrap();
            assert!(
                results.iter().all(|result| result.error.is_none()),
                "{results:?}"
            );
        },
        |fixture| {
            for guest in guests(fixture) {
                assert!(fixture.is_allowed(&guest));
                let in_store = fixture.opening_row(&guest).is_some();
                assert!(in_store || has_secret(fixture, &guest));
            }
        },
        |fixture| {
            for guest in &guests(fixture) {
                assert_adopted(fixture, guest);
            }
        },
    );
}

#[test]
fn a_kill_at_any_moment_costs_no_key_that_libvirt_is_to_keep() {
    kill::everywhere(
        |fixture| {
            configure_keep(fixture);
            export(fixture, "a");
            guest(fixture, "vm1");
        },
        |fixture| drop(adopted(fixture, &all())),
        |fixture| {
            let guest = fixture.defined("vm1");
            assert!(fixture.is_allowed(&guest));
            assert!(fixture.opening_row(&guest).is_some() || has_secret(fixture, &guest));
        },
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
    );
}

/// `secret.lifetime = "keep"`.
fn configure_keep(fixture: &Fixture) {
    let path = fixture.root().join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, config + "[secret]\nlifetime = \"keep\"\n").unwrap();
}

#[test]
fn with_lifetime_keep_the_guards_own_secret_replaces_the_old_one() {
    let fixture = exported();
    configure_keep(&fixture);
    let guest = guest(&fixture, "vm1");
    assert_eq!(adopted(&fixture, &all()).secret, SecretOutcome::Removed);
    let own = fixture.libvirt.secrets.definition(guest.secret).unwrap();
    assert_eq!(own.guards_domain(), Some(guest.uuid));
    assert!(own.is_ephemeral && own.is_private && has_secret(&fixture, &guest));
    assert_eq!(adopted(&fixture, &all()).secret, SecretOutcome::Own);
}

#[test]
fn a_secret_that_is_to_stay_stays_until_a_later_run_removes_it() {
    let fixture = Fixture::new();
    let guest = guest(&fixture, "vm1");
    let key = adopted(&fixture, &keeping());
    assert!(key.is_new && key.proven);
    assert_eq!(key.secret, SecretOutcome::Kept);
    assert!(has_secret(&fixture, &guest) && fixture.would_start(&guest));
    assert!(events(&fixture)[0].ends_with("secret, which stays"));

    export(&fixture, "a");
    let later = adopted(&fixture, &all());
    assert!(!later.is_new && later.key_ref == key.key_ref);
    assert_eq!(later.secret, SecretOutcome::Removed);
    assert_adopted(&fixture, &guest);
    assert!(events(&fixture)[0].ends_with("with its key was removed"));
}

#[test]
fn a_guest_that_never_ran_is_adopted_and_its_key_counts_as_unused() {
    let fixture = exported();
    let guest = fixture.define("vm1");
    define_secret(&fixture, &guest, READABLE[0], &vtpm_usage(guest.secret));
    set_value(&fixture, &guest, b"fifteen bytes..");
    let key = adopted(&fixture, &all());
    assert!(!key.proven && key.guessable);
    assert_eq!(key.secret, SecretOutcome::Removed);
    assert_eq!(fixture.rows(&guest)[0].key_ref.first_used_at, None);
    assert!(fixture.is_allowed(&guest));
}

#[test]
fn the_placeholder_names_the_provider_unless_another_is_asked_for() {
    for (named, used) in [(None, "b"), (Some("a"), "a")] {
        let fixture = exported();
        export(&fixture, "b");
        let guest = guest(&fixture, "vm1");
        let b = fixture.provider("b").uuid;
        fixture
            .store()
            .bind(guest.uuid, b, Timestamp::now())
            .unwrap();
        let request = Request {
            provider: named,
            ..all()
        };
        assert_eq!(adopted(&fixture, &request).provider, used);
        assert_adopted(&fixture, &guest);
        assert_eq!(fixture.rows(&guest)[0].key_ref.provider_name, used);
    }
}

#[test]
fn a_running_guest_is_adopted_and_guests_are_named_by_name_or_uuid_each_once() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    self::guest(&fixture, "vm2");
    fixture.libvirt.guests.start("vm1");
    let names = ["vm1".to_owned(), guest.uuid.to_string(), "vm1".to_owned()];
    let mut steps = Vec::new();
    let request = Request {
        guests: Some(&names[..]),
        ..all()
    };
    let results = adopt(&fixture.host, &request, &mut |step| {
        steps.push(match step {
            Step::TakeOver(guests) => format!("take over {guests}"),
            Step::Verify(guests) => format!("verify {guests}"),
            Step::Guest(name) => name.to_owned(),
        });
    });
    assert_eq!(steps, ["take over 1", "vm1", "verify 1", "vm1"]);
    let results = results.unwrap();
    assert!(results[0].error.is_none(), "{results:?}");
    assert_eq!(fixture.rows(&fixture.defined("vm2")).len(), 0);
    assert!(fixture.would_start(&guest) && !has_secret(&fixture, &guest));
}

#[test]
fn all_takes_every_guest_with_an_encrypted_vtpm_and_one_does_not_keep_another_from_it() {
    let fixture = exported();
    let guest = guest(&fixture, "vm1");
    let wrong = self::guest(&fixture, "vm2");
    set_value(&fixture, &wrong, b"a wrong key");
    fixture.guest_in_use("vm3");
    let (uuid, secret) = (crate::ids::DomainUuid::random(), SecretUuid::random());
    fixture.define_with("vm4", uuid, secret, "");

    let results = run(&fixture, &all()).unwrap();
    let names: Vec<_> = results.iter().map(|result| result.guest.label()).collect();
    assert_eq!(names, ["vm1", "vm2", "vm3"]);
    let stored: Vec<_> = results
        .iter()
        .map(|result| result.stored.as_ref().map(|key| key.is_new))
        .collect();
    assert_eq!(stored, [Some(true), None, Some(false)]);
    assert!(fixture.rows(&wrong).is_empty());
    fixture.libvirt.secrets.undefine(wrong.secret);
    assert_adopted(&fixture, &guest);
}

#[test]
fn an_empty_secret_of_a_guest_whose_key_is_in_the_store_is_removed() {
    let fixture = exported();
    let guest = fixture.guest_in_use("vm1");
    define_secret(&fixture, &guest, READABLE[0], &vtpm_usage(guest.secret));
    let key = adopted(&fixture, &all());
    assert_eq!(key.secret, SecretOutcome::Removed);
    assert!(!key.is_new && key.proven);
    assert_adopted(&fixture, &guest);
}

#[test]
fn a_key_that_is_in_the_store_stays_with_its_provider_and_is_reported_so() {
    let fixture = exported();
    export(&fixture, "b");
    let guest = guest(&fixture, "vm1");
    let held = fixture.add_key(&guest, "b", &key());
    // Beside one that the state refutes.
    fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    // With the value of its secret and, when that is gone, without.
    for secret in [SecretOutcome::Removed, SecretOutcome::Absent] {
        let stored = adopted(&fixture, &all());
        assert_eq!((stored.is_new, stored.key_ref), (false, held));
        assert_eq!(stored.provider, "b");
        assert_eq!(stored.secret, secret);
    }
}
