//! What the store knows of a guest under another name.

use std::path::Path;

use super::super::{AddKey, OtherKeys, Store};
use crate::clock::Timestamp;
use crate::ids::SecretUuid;
use crate::store::testing::{
    NOW, domain, event, insert_placeholder, make_provider, new_key, new_store, raw,
};
use crate::verdict::facts::Provider;

fn secret(number: u8) -> SecretUuid {
    SecretUuid::parse(&format!("5ec2e700-0000-4000-8000-0000000000{number:02x}")).unwrap()
}

/// A key of the domain of this number, for the secret of that one.
fn add(store: &mut Store, provider: &Provider, number: u8, of: u8, used: bool, at: i64) {
    store
        .add_key(&AddKey {
            domain: domain(number),
            provider: provider.uuid,
            key: &new_key(1),
            secret_uuid: Some(secret(of)),
            first_used_at: used.then_some(Timestamp(at)),
            others: OtherKeys::Refuse,
            now: Timestamp(at),
        })
        .unwrap();
}

fn name(store: &mut Store, number: u8, name: &str, at: i64) {
    let named = event(domain(number), name, Timestamp(at));
    store.record_event(&named).unwrap();
}

fn see(dir: &Path, number: u8, name: &str) {
    raw(
        dir,
        &format!(
            "INSERT INTO seen_state (domain_uuid, domain_name, secret_uuid, path, at)
             VALUES ('{}', '{name}', '{}', '/somewhere/{name}', 70)",
            domain(number),
            secret(number)
        ),
    );
}

#[test]
fn only_guests_with_a_used_key_in_use_count_as_users_of_a_secret_or_a_name() {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "a", 1);
    add(&mut store, &provider, 1, 9, true, 10);
    add(&mut store, &provider, 2, 9, true, 30);
    add(&mut store, &provider, 3, 9, false, 20);
    add(&mut store, &provider, 4, 9, true, 40);
    insert_placeholder(dir.path(), domain(5), &provider);
    store.unbind(domain(4), NOW).unwrap();
    assert_eq!(
        store.users_of_secret(secret(9)).unwrap(),
        [domain(2), domain(1)]
    );
    assert!(store.users_of_secret(secret(1)).unwrap().is_empty());
    assert!(store.has_used_key(domain(1)).unwrap());
    assert!(!store.has_used_key(domain(3)).unwrap());
    assert!(!store.has_used_key(domain(4)).unwrap());

    name(&mut store, 1, "web", 50);
    name(&mut store, 3, "web", 51);
    assert_eq!(store.users_of_name("web").unwrap(), [domain(1)]);
    // It has another name by now.
    name(&mut store, 1, "db", 52);
    assert!(store.users_of_name("web").unwrap().is_empty());
    see(dir.path(), 2, "web");
    assert_eq!(store.users_of_name("web").unwrap(), [domain(2)]);
    // Other tools spell UUIDs their own way.
    raw(
        dir.path(),
        "UPDATE key_ref SET secret_uuid = upper(replace(secret_uuid, '-', ''))",
    );
    assert_eq!(store.users_of_secret(secret(9)).unwrap().len(), 2);
}

#[test]
fn the_most_likely_keys_come_first_up_to_the_limit() {
    let (_dir, mut store) = new_store();
    let provider = make_provider(&mut store, "a", 1);
    for number in 1..=5 {
        let of_secret = if number == 2 { 9 } else { number };
        let at = i64::from(number);
        add(&mut store, &provider, number, of_secret, true, at);
    }
    name(&mut store, 4, "web", 50);
    name(&mut store, 4, "db", 60);
    store.unbind(domain(1), Timestamp(1)).unwrap();
    let near = |limit| {
        let rows = store.candidate_keys(domain(1), Some(secret(9)), "web", limit);
        let rows = rows.unwrap().into_iter().map(|row| row.domain);
        rows.collect::<Vec<_>>()
    };
    assert_eq!(near(9), [2, 4, 5, 3].map(domain));
    assert_eq!(near(2), [2, 4].map(domain));
}

#[test]
fn past_starts_and_names_are_known() {
    let (dir, mut store) = new_store();
    assert_eq!(store.seen_state(domain(1)).unwrap(), None);
    assert_eq!(store.last_start(domain(1)).unwrap(), None);
    assert_eq!(store.last_name(domain(1)).unwrap(), None);
    assert!(!store.is_known_here(domain(1)).unwrap());
    see(dir.path(), 1, "vm1");
    assert!(store.is_known_here(domain(1)).unwrap());
    name(&mut store, 2, "vm2", 10);
    assert!(store.is_known_here(domain(2)).unwrap());
    let seen = store.seen_state(domain(1)).unwrap().unwrap();
    assert_eq!(seen.path, Path::new("/somewhere/vm1"));
    assert_eq!(seen.secret_uuid, Some(secret(1)));
    assert_eq!(store.last_start(domain(1)).unwrap(), Some(Timestamp(70)));
    assert_eq!(store.last_name(domain(1)).unwrap().unwrap(), "vm1");
    name(&mut store, 1, "renamed", 80);
    assert_eq!(store.last_start(domain(1)).unwrap(), Some(Timestamp(80)));
    assert_eq!(store.last_name(domain(1)).unwrap().unwrap(), "renamed");
}
