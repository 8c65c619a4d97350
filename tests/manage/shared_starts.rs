//! Guests made from one template, which name one secret: between `prepare` and `started` it is not given to a guest
//! with another key.

use std::fs;
use std::time::Duration;

use super::fixture::{Defined, Fixture};
use super::starts::called;
use crate::clock::Deadline;
use crate::guard::{Ending, Mode, Operation, follow_up, prepare};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::fake::Call;
use crate::manage::host::default_deadline;
use crate::store::Origin;
use crate::verdict::Decision;
use crate::verdict::outcome::{Outcome, SecretAction};
use crate::verdict::refusal::Refusal;

/// Two guests that have used their TPMs, each under its key, and name one secret.
fn guests(fixture: &Fixture, keys: [&Dek; 2]) -> [Defined; 2] {
    let secret = SecretUuid::random();
    let mut names = ["vm1", "vm2"].into_iter();
    keys.map(|dek| {
        let encryption = format!("<encryption secret='{secret}'/>");
        let (name, uuid) = (names.next().unwrap(), DomainUuid::random());
        let guest = fixture.define_with(name, uuid, secret, &encryption);
        fixture.add_key(&guest, "a", dek);
        fixture.encrypt_state(&guest, dek);
        guest
    })
}

fn with_two_keys(fixture: &Fixture) -> [Defined; 2] {
    guests(
        fixture,
        [&Dek::generate().unwrap(), &Dek::generate().unwrap()],
    )
}

fn judged(fixture: &Fixture, guest: &Defined, origin: Origin, mode: Mode) -> Outcome {
    judged_until(fixture, guest, (origin, mode), default_deadline())
}

fn judged_until(
    fixture: &Fixture,
    guest: &Defined,
    (origin, mode): (Origin, Mode),
    deadline: Deadline,
) -> Outcome {
    let (mut guard, domain) = (called(fixture), Ok(fixture.domain(guest)));
    if origin != Origin::Prepare {
        guard.call = None;
    }
    prepare(&guard, &domain, origin, mode, deadline)
}

/// A start that waits for another in vain, and not for long.
fn start_in_vain(fixture: &Fixture, guest: &Defined) -> Outcome {
    let deadline = Deadline::after(Duration::from_millis(2_500));
    judged_until(fixture, guest, (Origin::Prepare, Mode::CarryOut), deadline)
}

fn start(fixture: &Fixture, guest: &Defined) -> Outcome {
    judged(fixture, guest, Origin::Prepare, Mode::CarryOut)
}

fn follow(fixture: &Fixture, guest: &Defined, operation: Operation) {
    let domain = fixture.domain(guest);
    follow_up(&called(fixture), operation, &domain, default_deadline()).unwrap();
}

fn fail(fixture: &Fixture, guest: &Defined) {
    follow(fixture, guest, Operation::Ended);
    follow(fixture, guest, Operation::Released(Ending::Failed));
}

/// The guest whose start the secret is in use for.
fn in_use_for(outcome: &Outcome) -> Option<&str> {
    match outcome.verdict.decision() {
        Decision::Deny(Refusal::SecretInUse { guest, .. }) => Some(guest),
        Decision::Deny(other) => panic!("{other:?}"),
        Decision::Allow(_) => None,
    }
}

/// Whether libvirt's value opens the TPM of this guest.
fn has_key_of(fixture: &Fixture, guest: &Defined) -> bool {
    let value = fixture.libvirt.secrets.value(guest.secret);
    value.is_some_and(|value| fixture.is_opened_by(guest, &value))
}

#[test]
fn a_start_waits_for_that_of_another_guest_with_the_same_secret_and_another_key() {
    let fixture = Fixture::new();
    let [first, second] = with_two_keys(&fixture);
    assert_eq!(in_use_for(&start(&fixture, &first)), None);
    assert_eq!(in_use_for(&start_in_vain(&fixture, &second)), Some("vm1"));
    assert!(has_key_of(&fixture, &first));
    follow(&fixture, &first, Operation::Started);
    assert_eq!(in_use_for(&start(&fixture, &second)), None);
    assert!(has_key_of(&fixture, &second));
}

/// Nothing follows it that would say that it is over.
#[test]
fn a_start_that_is_replayed_keeps_no_other_from_starting() {
    let fixture = Fixture::new();
    let [first, second] = with_two_keys(&fixture);
    let replayed = judged(&fixture, &first, Origin::Replay, Mode::CarryOut);
    assert_eq!(replayed.secret, SecretAction::Defined);
    assert_eq!(in_use_for(&start(&fixture, &second)), None);
    let noted = fixture.host.run_dir().starts().join(first.uuid.to_string());
    assert!(!noted.exists(), "nor does it fail");
}

#[test]
fn guests_with_one_key_share_the_secret_until_the_last_of_them_has_started() {
    let fixture = Fixture::new();
    let dek = Dek::generate().unwrap();
    let [first, second] = guests(&fixture, [&dek, &dek]);
    assert_eq!(start(&fixture, &first).secret, SecretAction::Defined);
    let shared = start(&fixture, &second);
    assert!(shared.is_allowed());
    assert_eq!(shared.secret, SecretAction::None);
    assert_eq!(fixture.libvirt.calls_of(Call::Provide), 1);

    fail(&fixture, &first);
    assert!(has_key_of(&fixture, &second));
    // Its start is made once more: the secret is its own from now on, and goes with it.
    assert_eq!(start(&fixture, &second).secret, SecretAction::Set);
    follow(&fixture, &second, Operation::Ended);
    assert!(!has_key_of(&fixture, &second));
}

#[test]
fn where_nobody_knows_which_guests_are_being_started_the_key_of_another_stays() {
    let fixture = Fixture::new();
    let [first, second] = with_two_keys(&fixture);
    // Its directory cannot be used.
    let leases = fixture.host.run_dir().leases();
    fs::create_dir_all(leases.parent().unwrap()).unwrap();
    fs::write(leases, "").unwrap();
    assert_eq!(in_use_for(&start(&fixture, &first)), None);
    assert_eq!(in_use_for(&start_in_vain(&fixture, &second)), Some("vm1"));
    assert!(has_key_of(&fixture, &first));
    assert_eq!(in_use_for(&start(&fixture, &first)), None);
}

#[test]
fn a_check_says_what_a_start_would_do_with_the_secret() {
    let fixture = Fixture::new();
    let dek = Dek::generate().unwrap();
    let [guest, _] = guests(&fixture, [&dek, &dek]);
    let planned = || judged(&fixture, &guest, Origin::Check, Mode::DryRun).secret;
    assert_eq!(planned(), SecretAction::Defined);
    start(&fixture, &guest);
    assert_eq!(planned(), SecretAction::Set);
    fail(&fixture, &guest);
    let xml = format!(
        "<secret ephemeral='no' private='no'><uuid>{}</uuid><usage type='vtpm'><name>mine</name>\
         </usage></secret>",
        guest.secret
    );
    fixture.libvirt.secrets.define(&xml).unwrap();
    fixture
        .libvirt
        .secrets
        .set_value(guest.secret, dek.expose())
        .unwrap();
    assert_eq!(planned(), SecretAction::None, "it is the key");
}
