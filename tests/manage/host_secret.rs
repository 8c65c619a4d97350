//! libvirt's own secret for a guest: whose its value may be, and what need not be known of it.

use std::fs;

use super::fixture::{Defined, Fixture};
use super::start_keys::has_opened;
use super::starts::{called, define_secret};
use crate::clock::Timestamp;
use crate::config::Lifetime;
use crate::guard::{Ending, Guard, Mode, Operation, follow_up, prepare};
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::libvirt::secret::definition;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::store::Origin;
use crate::verdict::code::Code;
use crate::verdict::outcome::Outcome;
use crate::verdict::refusal::Refusal;
use crate::verdict::{Decision, Finding};

const DISCLOSED: &str = "ephemeral='no' private='no'";

fn judge(fixture: &Fixture, guest: &Defined, mode: Mode) -> (Guard, Outcome) {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let (domain, origin) = (Ok(fixture.domain(guest)), Origin::Prepare);
    let outcome = prepare(&guard, &domain, origin, mode, default_deadline());
    (guard, outcome)
}

/// Gives the guest's secret this value, which libvirt discloses.
fn set_value(fixture: &Fixture, guest: &Defined, value: &[u8]) {
    define_secret(fixture, guest, DISCLOSED);
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, value).unwrap();
}

/// A guest with the secret of another one, and a key of its own.
fn with_the_secret_of(fixture: &Fixture, other: &Defined, provider: &str) -> Defined {
    let secret = other.secret;
    let encryption = format!("<encryption secret='{secret}'/>");
    let guest = fixture.define_with("vm2", DomainUuid::random(), secret, &encryption);
    fixture.add_key(&guest, provider, &Dek::generate().unwrap());
    guest
}

#[test]
fn a_value_that_may_be_the_key_of_another_guest_is_not_replaced() {
    let fixture = Fixture::new();
    let (guest, key) = (fixture.define("vm1"), Dek::generate().unwrap());
    fixture.add_key(&guest, "a", &key);
    fixture.encrypt_state(&guest, &key);
    set_value(&fixture, &guest, b"whose is it?");
    let start = || judge(&fixture, &guest, Mode::DryRun).1;
    assert!(start().is_allowed(), "it is this guest's alone");

    let other = with_the_secret_of(&fixture, &guest, "a");
    let refused = Decision::Deny(Refusal::SecretOfGuest {
        secret: guest.secret,
        guests: vec!["vm2".to_owned()],
    });
    assert_eq!(*start().verdict.decision(), refused);

    // Guests that have one key share their secret on purpose.
    fixture.add_key(&other, "a", &key);
    assert!(start().is_allowed());
}

#[test]
fn a_key_that_only_libvirts_memory_has_is_named_and_what_brings_it_back() {
    let fixture = Fixture::new();
    let (guest, key) = (fixture.define("vm1"), Dek::generate().unwrap());
    let key_ref = fixture.add_key(&guest, "a", &key);
    fixture.encrypt_state(&guest, &key);
    // `secret.lifetime = "keep"`.
    let own = definition(guest.secret, guest.uuid);
    fixture.libvirt.secrets.define(&own).unwrap();
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, key.expose()).unwrap();
    let found = || {
        let outcome = judge(&fixture, &guest, Mode::DryRun).1;
        assert!(outcome.is_allowed());
        outcome.verdict.findings().to_vec()
    };
    assert_eq!(found(), []);

    fixture.store().retire(key_ref, Timestamp::now()).unwrap();
    let retired = Some(key_ref);
    assert_eq!(found(), [Finding::KeyInMemoryOnly { retired }]);
    fixture.sql("DELETE FROM key_ref");
    let retired = None;
    assert_eq!(found(), [Finding::KeyInMemoryOnly { retired }]);
}

/// Each provider key may take seconds to open.
#[test]
fn what_another_guest_has_matters_only_where_a_value_may_be_replaced() {
    let fixture = Fixture::new();
    let (guest, key) = (fixture.define("vm1"), Dek::generate().unwrap());
    fixture.add_key(&guest, "a", &key);
    fixture.encrypt_state(&guest, &key);
    with_the_secret_of(&fixture, &guest, "b");
    let opens_the_others = || {
        let (guard, outcome) = judge(&fixture, &guest, Mode::DryRun);
        (outcome.is_allowed(), has_opened(&fixture, &guard, "b"))
    };
    define_secret(&fixture, &guest, DISCLOSED);
    assert_eq!(opens_the_others(), (true, false), "it has no value");
    set_value(&fixture, &guest, b"whose is it?");
    assert_eq!(opens_the_others(), (false, true));
    set_value(&fixture, &guest, key.expose());
    assert_eq!(opens_the_others(), (true, false), "it is the guest's key");
    fixture.sql(&format!(
        "DELETE FROM key_ref WHERE resource_uuid = '{}'",
        guest.uuid
    ));
    assert_eq!(opens_the_others(), (true, false), "the guard has no key");
}

/// As libvirt does.
#[test]
fn an_empty_value_counts_as_none() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    set_value(&fixture, &guest, b"");
    let (_, outcome) = judge(&fixture, &guest, Mode::CarryOut);
    assert!(outcome.is_allowed(), "{:?}", outcome.verdict);
    assert_eq!(outcome.verdict.findings(), []);
    assert_eq!(fixture.rows(&guest).len(), 1, "nothing of it is kept");
    let value = fixture.libvirt.secrets.value(guest.secret).unwrap();
    assert!(fixture.is_opened_by(&guest, &value));
}

/// The client provides it at the start, and no sooner.
#[test]
fn a_check_foresees_that_the_client_provides_the_key() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let code = |mode| {
        let (_, outcome) = judge(&fixture, &guest, mode);
        match outcome.verdict.decision() {
            Decision::Allow(_) => {
                assert_eq!(outcome.verdict.findings(), [Finding::ClientsKey]);
                None
            }
            Decision::Deny(why) => Some(why.code()),
        }
    };
    let missing = Some(Code::KeyMissing);
    assert_eq!(code(Mode::DryRun), missing);
    // It runs, although neither the guard nor libvirt has a key.
    fixture.libvirt.guests.start("vm1");
    assert_eq!(code(Mode::DryRun), None);
    fixture.libvirt.guests.stop("vm1");
    assert_eq!(code(Mode::DryRun), missing);
    // Its last start went by the key of its client.
    define_secret(&fixture, &guest, "ephemeral='yes' private='yes'");
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, b"of the client").unwrap();
    assert_eq!(code(Mode::CarryOut), None);
    secrets.undefine(guest.secret);
    assert_eq!(code(Mode::DryRun), None);
    assert_eq!(code(Mode::CarryOut), missing);
}

/// He who defines a secret under the UUID that a guest names, and starts a guest of his own with it.
#[test]
fn a_client_cannot_keep_the_key_of_a_guest_for_another_one() {
    for lifetime in [Lifetime::Start, Lifetime::Run] {
        let fixture = Fixture::new();
        let guest = fixture.guest_in_use("vm1");
        define_secret(&fixture, &guest, "ephemeral='yes' private='yes'");
        let key = |of: &Defined| {
            let mut guard = called(&fixture);
            guard.config.secret_lifetime = lifetime;
            let (domain, origin) = (Ok(fixture.domain(of)), Origin::Prepare);
            let outcome = prepare(&guard, &domain, origin, Mode::CarryOut, default_deadline());
            let value = fixture.libvirt.secrets.value(of.secret);
            value.filter(|_| outcome.is_allowed())
        };
        let follows = |operation| {
            let mut guard = called(&fixture);
            guard.config.secret_lifetime = lifetime;
            let domain = fixture.domain(&guest);
            follow_up(&guard, operation, &domain, default_deadline()).unwrap();
        };
        let given = key(&guest).expect("the guest starts");
        assert!(fixture.is_opened_by(&guest, &given));
        let (secret, uuid) = (guest.secret, DomainUuid::random());
        let encryption = format!("<encryption secret='{secret}'/>");
        let other = fixture.define_with("vm2", uuid, secret, &encryption);
        fs::create_dir_all(fixture.state_file(&other).parent().unwrap()).unwrap();
        fs::copy(fixture.state_file(&guest), fixture.state_file(&other)).unwrap();
        assert_eq!(key(&other), None, "while the other one starts");
        follows(Operation::Started);
        assert_eq!(key(&other), None, "while it runs");
        follows(Operation::Ended);
        follows(Operation::Released(Ending::Ended));
        assert!(fixture.libvirt.secrets.definition(secret).is_none());
        assert_eq!(key(&other), None, "once it has stopped");
    }
}
