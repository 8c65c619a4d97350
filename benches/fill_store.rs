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
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::new_key::NewKey;
use vtpm_guard::internals::key::wrap::Generation;
use vtpm_guard::internals::keyring::Keyring;
use vtpm_guard::internals::keyring::unlock::Unlocker;
use vtpm_guard::internals::store::{Access, AddKey, OtherKeys, Store};
use vtpm_guard::internals::verdict::facts::Provider;

/// Arguments: the state directory, and what it gets.
///
/// | argument | what |
/// | --- | --- |
/// | `N` | N guests with a key each under its only provider; their UUIDs are printed |
/// | `like UUID` | guests with the key of this one, as if they were clones of it; their UUIDs are on stdin |
fn main() {
    let mut arguments = std::env::args().skip(1);
    let state_dir = PathBuf::from(arguments.next().unwrap());
    let (what, more) = (arguments.next().unwrap(), arguments.next());
    match what.as_str() {
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
