//! Any bytes as a backup of the store, which is an SQLite database: nothing panics, and what is opened can be looked
//! through to its end.

use std::path::PathBuf;
use std::time::Duration;

use vtpm_guard::internals::clock::Deadline;
use vtpm_guard::internals::store::Store;

/// Tries these bytes.
pub fn check(database: &[u8]) {
    // A file of its own for each process: several are at it.
    let file = PathBuf::from(format!("/dev/shm/vtpm-guard-fuzz-{}", std::process::id()));
    std::fs::write(&file, database).expect("a file on tmpfs");
    let opened = Store::open_copy(&file, Deadline::after(Duration::from_secs(5)));
    std::fs::remove_file(&file).expect("that file");
    let Ok(store) = opened else {
        return;
    };
    let _ = store.check();
    let _ = store.providers();
    let _ = store.all_key_refs(None, true);
    let _ = store.slots();
}
