#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::domain::{TravellingKey, TravellingKeys};
use crate::key::dek::Dek;
use crate::key::wrap::Generation;
use crate::keyring::unlock::Unlocker;
use crate::manage::bind::bind;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::key_refs::retire;
use crate::manage::tests::fixture::{Defined, Fixture};

fn gathered(fixture: &Fixture, guest: &Defined) -> Gathered {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let domain = Ok(fixture.domain(guest));
    gather(&guard, domain, Access::Read, default_deadline())
}

#[test]
fn the_state_of_a_tpm_is_that_of_its_file() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let mut domain = fixture.domain(&guest);
    assert_eq!(guard.tpm_state(&domain), TpmState::Absent);
    fixture.plain_state(&guest);
    assert_eq!(guard.tpm_state(&domain), TpmState::Plain);
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    assert_eq!(guard.tpm_state(&domain), TpmState::Encrypted);
    domain.vtpm = None;
    assert_eq!(guard.tpm_state(&domain), TpmState::Absent);
}

/// To open one may take a second.
#[test]
fn provider_keys_are_opened_for_a_new_key_only_where_one_may_be_made() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    bind(&fixture.host, "vm1", None).unwrap();
    let of_a = fixture.provider("a").key_id;
    let facts = gathered(&fixture, &guest).facts;
    assert!(facts.keks.keys().eq([&of_a]));
    // Its TPM has a state: no key is made over that.
    fixture.encrypt_state(&guest, &Dek::generate().unwrap());
    assert!(gathered(&fixture, &guest).facts.keks.is_empty());
    // It has a key.
    let used = fixture.guest_in_use("vm2");
    std::fs::remove_file(fixture.state_file(&used)).unwrap();
    assert!(gathered(&fixture, &used).facts.keks.is_empty());
}

#[test]
fn a_new_key_is_wrapped_by_the_provider_of_the_binding_and_else_by_the_one_of_the_policy() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let providers = fixture.store().providers().unwrap();
    let keks = |auto_bind| {
        let rows = fixture.rows(&guest).into_iter().map(|row| row.key_ref);
        let rows: Vec<_> = rows.collect();
        keks_for_a_new_key(&rows, &providers, auto_bind)
    };
    let [a, b] = ["a", "b"].map(|name| fixture.provider(name).key_id);
    assert_eq!(keks(None), []);
    assert_eq!(keks(Some("b")), [b]);
    bind(&fixture.host, "vm1", Some("a")).unwrap();
    assert_eq!(keks(None), [a]);
    assert_eq!(keks(Some("b")), [a]);
}

/// The state proves a row: neither an older key of the XML nor a retired one could be another answer, and each
/// would have to be opened.
#[test]
fn a_start_that_a_row_proves_tries_no_older_key() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let (old, own) = (Dek::generate().unwrap(), Dek::generate().unwrap());
    let retired = fixture.add_key(&guest, "b", &Dek::generate().unwrap());
    retire(&fixture.host, retired).unwrap();
    let row = fixture.add_key_of(&guest, "a", &own, Generation(2));
    fixture.encrypt_state(&guest, &own);
    let (provider, now) = (fixture.provider("b"), default_deadline());
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let wrapped = unlocker.wrap(&old, &provider, guest.uuid, Generation(1), now);
    let keys = TravellingKeys {
        domain: Some(guest.uuid),
        keys: vec![TravellingKey {
            wrapped_dek: wrapped.unwrap().wrapped_dek,
            provider: "b".to_owned(),
        }],
        fault: None,
    };
    fixture.redefine_with_keys(&guest, &keys);
    let facts = gathered(&fixture, &guest).facts;
    assert_eq!(facts.travelling.keys.len(), 1);
    assert!(facts.trials.keys().eq([&row]));
    assert!(facts.retired.is_empty());
}
