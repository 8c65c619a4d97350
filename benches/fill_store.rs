//! Gives a state directory the keys of many guests, as if they had started on this host: for `./dev bench`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and its output is its result"
)]

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::ids::{DomainUuid, ProviderUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::new_key::NewKey;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};
use vtpm_guard::internals::keyring::Keyring;
use vtpm_guard::internals::keyring::unlock::Unlocker;
use vtpm_guard::internals::store::{Access, AddKey, NewProvider, OtherKeys, Store};
use vtpm_guard::internals::verdict::facts::Provider;

/// A guest whose row is among those of `rows`.
const GUEST: &str = "d0000000-0000-4000-8000-000000000001";

/// Arguments: the state directory, and what it gets.
///
/// | argument | what |
/// | --- | --- |
/// | `N` | N guests with a key each under its only provider; their UUIDs are printed |
/// | `like UUID` | guests with the key of this one, as if they were clones of it; their UUIDs are on stdin |
/// | `rows N` | a new store with N rows, of which those but one hold no key that opens |
fn main() {
    let mut arguments = std::env::args().skip(1);
    let state_dir = PathBuf::from(arguments.next().unwrap());
    let (what, more) = (arguments.next().unwrap(), arguments.next());
    match what.as_str() {
        "rows" => rows(&state_dir, more.unwrap().parse().unwrap()),
        "like" => like(&state_dir, DomainUuid::parse(&more.unwrap()).unwrap()),
        number => {
            let guests = (0..number.parse().unwrap()).map(|_| DomainUuid::random());
            fill(&state_dir, guests, |_, _| Dek::generate().unwrap());
        }
    }
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(600))
}

fn like(state_dir: &Path, original: DomainUuid) {
    let guests = io::stdin().lines();
    let guests = guests.map(|line| DomainUuid::parse(&line.unwrap()).unwrap());
    fill(state_dir, guests, |store, unlocker| {
        let row = store.all_key_refs(Some(original), false).unwrap().remove(0);
        let wrapped = row.key_ref.wrapped_dek.unwrap();
        unlocker.open(&wrapped, original, deadline()).unwrap()
    });
}

/// Adds a key of each guest.
fn fill(
    state_dir: &Path,
    guests: impl Iterator<Item = DomainUuid>,
    dek: impl Fn(&Store, &mut Unlocker) -> Dek,
) {
    let mut store = Store::open(state_dir, Access::Write, deadline()).unwrap();
    let provider = store.providers().unwrap().remove(0);
    let mut unlocker = Unlocker::new(&Keyring::at(state_dir.join("keys")));
    for domain in guests {
        let dek = dek(&store, &mut unlocker);
        let generation = Generation::default();
        let key = unlocker.wrap(&dek, &provider, domain, generation, deadline());
        add(&mut store, domain, &provider, &key.unwrap());
        println!("{domain}");
    }
}

fn add(store: &mut Store, domain: DomainUuid, provider: &Provider, key: &NewKey) {
    let now = Timestamp::now();
    let added = store.add_key(&AddKey {
        domain,
        provider: provider.uuid,
        key,
        secret_uuid: None,
        first_used_at: Some(now),
        others: OtherKeys::Refuse,
        now,
    });
    added.unwrap();
}

fn rows(state_dir: &Path, number: u32) {
    let mut store = Store::open(state_dir, Access::Create, deadline()).unwrap();
    let kek = Kek::from_slice(&[7; Kek::LEN]).unwrap();
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: "nkp-a".to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: true,
    };
    store.create_provider(&new, &[], Timestamp::now()).unwrap();
    let provider = store.provider("nkp-a").unwrap();
    let domain = DomainUuid::parse(GUEST).unwrap();
    let dek = Dek::generate().unwrap();
    let wrapped = WrappedDek::wrap(&kek, &dek, domain, Generation(1)).unwrap();
    let key = NewKey::new(wrapped, kek.key_id(), 1);
    add(&mut store, domain, &provider, &key);
    drop(store);
    let store = rusqlite::Connection::open(state_dir.join("store.db")).unwrap();
    let more = format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {number})
         INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
         SELECT printf('e0000000-0000-4000-8000-%012x', i), 'nkp-a', x'01' FROM n"
    );
    store.execute_batch(&more).unwrap();
    drop(store);
    // Its log is as the guard wants it again.
    Store::open(state_dir, Access::Write, deadline()).unwrap();
}
