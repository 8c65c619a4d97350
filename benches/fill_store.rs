//! Gives a state directory the keys of many guests, as if they had started on this host: for `./dev bench fleet`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and its output is its result"
)]

use std::path::PathBuf;
use std::time::Duration;

use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::wrap::Generation;
use vtpm_guard::internals::keyring::Keyring;
use vtpm_guard::internals::keyring::unlock::Unlocker;
use vtpm_guard::internals::store::{Access, AddKey, OtherKeys, Store};

/// Arguments: the state directory, whose only provider gets the keys, and how many. Prints the guests' UUIDs.
fn main() {
    let mut arguments = std::env::args().skip(1);
    let state_dir = PathBuf::from(arguments.next().unwrap());
    let keys: usize = arguments.next().unwrap().parse().unwrap();
    let deadline = Deadline::after(Duration::from_secs(600));
    let mut store = Store::open(&state_dir, Access::Write, deadline).unwrap();
    let provider = store.providers().unwrap().remove(0);
    let mut unlocker = Unlocker::new(&Keyring::at(state_dir.join("keys")));
    let now = Timestamp::now();
    for _ in 0..keys {
        let domain = DomainUuid::random();
        let dek = Dek::generate().unwrap();
        let generation = Generation::default();
        let key = unlocker
            .wrap(&dek, &provider, domain, generation, deadline)
            .unwrap();
        store
            .add_key(&AddKey {
                domain,
                provider: provider.uuid,
                key: &key,
                secret_uuid: None,
                first_used_at: Some(now),
                others: OtherKeys::Refuse,
                now,
            })
            .unwrap();
        println!("{domain}");
    }
}
