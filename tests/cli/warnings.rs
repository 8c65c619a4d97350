//! What the work of a command warns of reaches the person who runs it.

use serde_json::{Value, json};

use crate::env::Host;

#[test]
fn what_is_ignored_in_the_store_is_reported_once_beside_the_answer() {
    let host = Host::with_provider("lab");
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    store
        .execute_batch(
            "INSERT INTO key_provider (uuid, name, key_id, created_at) VALUES ('none', 'odd', 'x', 1)",
        )
        .unwrap();
    let note =
        "a provider in the store is ignored: its UUID or its key ID cannot be read, provider odd";

    let ran = host.run(&["provider", "list"]).succeeds();
    assert_eq!(ran.stderr, format!("vtpm-guard: {note}\n"));
    assert!(ran.stdout.contains("lab"), "{ran:?}");

    let ran = host.run(&["provider", "list", "--json"]).succeeds();
    let told: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(told, json!({ "note": note }));

    // Beside an error, too.
    let ran = host
        .run(&["provider", "rename", "nobody", "new"])
        .saying(note);
    assert_ne!(ran.status, 0);
}
