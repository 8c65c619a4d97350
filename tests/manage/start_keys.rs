//! Which provider keys a start opens, and which of them count.

use std::fs;

use super::fixture::{Defined, Fixture};
use crate::clock::Timestamp;
use crate::guard::{Guard, Mode, prepare};
use crate::ids::DomainUuid;
use crate::keyring::Keyring;
use crate::keyring::unlock::Unlocker;
use crate::manage::bind::bind;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::store::Origin;
use crate::verdict::Decision;
use crate::verdict::code::Code;

/// Whether this guard has opened the key of a provider.
pub(super) fn has_opened(fixture: &Fixture, guard: &Guard, provider: &str) -> bool {
    is_open(guard, fixture.provider(provider).key_id)
}

fn is_open(guard: &Guard, key_id: crate::key::id::KeyId) -> bool {
    let nowhere = tempfile::tempdir().unwrap();
    let keyring = Keyring::at(nowhere.path().to_owned());
    let mut unlocker = Unlocker::sharing(keyring, guard.unsealed_keks.clone());
    unlocker.kek(key_id, default_deadline()).is_ok()
}

fn code(fixture: &Fixture, guest: &Defined) -> Option<Code> {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let (domain, mode) = (Ok(fixture.domain(guest)), Mode::DryRun);
    let outcome = prepare(&guard, &domain, Origin::Check, mode, default_deadline());
    match outcome.verdict.decision() {
        Decision::Allow(_) => None,
        Decision::Deny(why) => Some(why.code()),
    }
}

#[test]
fn the_provider_keys_that_guests_need_are_opened_first_and_no_others() {
    let fixture = Fixture::new();
    let used = fixture.guest_in_use("vm1");
    let bound = fixture.define("vm2");
    bind(&fixture.host, "vm2", Some("b")).unwrap();
    let opened_for = |guests: &[DomainUuid]| {
        let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
        guard.open_keks_first(guests, default_deadline());
        guard
    };
    let is_open = |guard: &Guard, provider| has_opened(&fixture, guard, provider);
    let guard = opened_for(&[used.uuid]);
    assert!(is_open(&guard, "a") && !is_open(&guard, "b"));
    let guard = opened_for(&[bound.uuid]);
    assert!(!is_open(&guard, "a") && is_open(&guard, "b"));
    let guard = opened_for(&[used.uuid, bound.uuid]);
    assert!(is_open(&guard, "a") && is_open(&guard, "b"));
    let guard = opened_for(&[DomainUuid::random()]);
    assert!(!is_open(&guard, "a") && !is_open(&guard, "b"));
}

/// A file of it may be left in the keyring.
#[test]
fn the_key_of_a_provider_that_is_gone_is_not_opened_first() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let key_id = fixture.provider("a").key_id;
    fixture.sql("DELETE FROM key_provider WHERE name = 'a'");
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    guard.open_keks_first(&[guest.uuid], default_deadline());
    assert!(!is_open(&guard, key_id));
    assert_eq!(code(&fixture, &guest), Some(Code::ProviderMissing));
}

#[test]
fn a_host_with_one_provider_opens_the_keys_of_its_guests() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let other = fixture.provider("b").uuid;
    fixture.store().delete_whoever_needs_it(other).unwrap();
    assert_eq!(code(&fixture, &guest), None);
}

#[test]
fn a_provider_key_that_no_key_manager_has_opened_for_too_long_starts_no_guest() {
    let fixture = Fixture::new();
    let used = fixture.guest_in_use("vm1");
    let bound = fixture.define("vm2");
    bind(&fixture.host, "vm2", None).unwrap();
    // The key of the other provider is in no key manager, and does not expire.
    let elsewhere = fixture.define("vm3");
    bind(&fixture.host, "vm3", Some("b")).unwrap();
    let path = fixture.root().join("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    let opened_ago = |hours: i64, limit: &str| {
        fs::write(
            &path,
            format!("{config}[provider]\nmax_age = \"{limit}\"\n"),
        )
        .unwrap();
        let at = Timestamp::now().0 - hours * 3_600_000;
        fixture.sql(&format!(
            "INSERT OR REPLACE INTO kek_slot
                 (slot_uuid, key_id, kind, kms, remote_key, blob, verified_at, created_at)
             VALUES ('slot', '{}', 'toy', 'toy', 'one', x'00', {at}, 1)",
            fixture.provider("a").key_id
        ));
        [&used, &bound, &elsewhere].map(|guest| code(&fixture, guest))
    };
    let expired = Some(Code::KekExpired);
    assert_eq!(opened_ago(3, "2h"), [expired, expired, None]);
    assert_eq!(opened_ago(1, "2h"), [None; 3]);
    assert_eq!(opened_ago(3, ""), [None; 3], "there is no limit");
}
