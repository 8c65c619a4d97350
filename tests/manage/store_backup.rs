//! `store check`, `backup`, `restore`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::fixture::Fixture;
use super::kill;
use super::meanwhile::busy;
use crate::clock::Timestamp;
use crate::manage::store_backup::{FoundInStore, RestoreStoreError, backup, check, restore};
use crate::manage::sync::exclusive;
use crate::store::{StoreError, StoreFinding};

#[test]
fn a_backup_brings_the_store_back_and_the_previous_one_is_kept() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let file = fixture.root().join("copy.db");
    let made = backup(&fixture.host, &file).unwrap();
    assert_eq!(made.providers_never_exported, ["a", "b"]);
    fixture.sql("DELETE FROM key_ref");
    assert!(!fixture.would_start(&guest));

    let restored = restore(&fixture.host, &file).unwrap();
    assert!(Path::new(restored.previous.as_ref().unwrap()).exists());
    assert_eq!(restored.providers_without_key, [""; 0]);
    assert!(fixture.would_start(&guest));
    let document = serde_json::to_value(&restored).unwrap();
    assert!(document["previous"].is_string() && document.get("backup").is_none());
}

/// It would note in the restored store how far it has read what the other one knows.
#[test]
fn an_exchange_that_runs_ends_before_the_store_is_another_one() {
    let fixture = Fixture::new();
    let file = fixture.root().join("copy.db");
    fixture.store().join_fleet("one", Timestamp::now()).unwrap();
    backup(&fixture.host, &file).unwrap();
    fixture.guest_in_use("vm1");
    let exchange = exclusive(&fixture.host, None).unwrap();
    let root = fixture.root().to_owned();
    let keys = |fixture: &Fixture| fixture.store().all_key_refs(None, true).unwrap().len();
    let meanwhile = busy(exchange, move || keys(&Fixture::at(&root)));
    restore(&fixture.host, &file).unwrap();
    assert_eq!((meanwhile.join().unwrap(), keys(&fixture)), (1, 0));
    // A store that is in no fleet is nobody's but its own.
    let _another_host = exclusive(&fixture.host, None).unwrap();
    fixture.store().leave_fleet().unwrap();
    restore(&fixture.host, &file).unwrap();
}

#[test]
fn providers_whose_key_is_not_here_are_named() {
    let fixture = Fixture::new();
    let file = fixture.root().join("copy.db");
    backup(&fixture.host, &file).unwrap();
    fixture.lose_key("b");
    fs::remove_file(fixture.host.state_dir().store()).unwrap();
    let restored = restore(&fixture.host, &file).unwrap();
    assert_eq!(restored.providers_without_key, ["b"]);
    let document = serde_json::to_value(&restored).unwrap();
    assert!(document["previous"].is_null());
}

#[test]
fn nothing_is_overwritten_and_nothing_restored_from_what_is_no_backup() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let file = fixture.root().join("copy.db");
    fs::write(&file, "no store").unwrap();
    let exists = backup(&fixture.host, &file).unwrap_err();
    assert!(
        matches!(exists, StoreError::Unavailable { .. }),
        "{exists:?}"
    );
    let error = restore(&fixture.host, &file).unwrap_err();
    assert!(matches!(error, RestoreStoreError::Backup(_)), "{error:?}");
    assert!(fixture.would_start(&guest));
}

#[test]
fn check_finds_what_other_tools_wrote_and_damage() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    let checked = check(&fixture.host).unwrap();
    assert!(checked.exists && checked.findings.is_empty());

    fixture.sql("UPDATE key_ref SET provider_uuid = 'x'");
    let checked = check(&fixture.host).unwrap();
    assert!(!checked.findings.is_empty());
    for found in &checked.findings {
        let document = serde_json::to_value(found).unwrap();
        assert_eq!(document["kind"], found.kind());
        assert_eq!(document["damage"], false);
    }
    let kinds: BTreeSet<_> = checked.findings.iter().map(FoundInStore::kind).collect();
    assert!(kinds.contains("dangling"), "{kinds:?}");

    let store = fixture.host.state_dir().store();
    fs::write(&store, "not a database, but longer than its header").unwrap();
    let checked = check(&fixture.host).unwrap();
    assert!(matches!(checked.findings[..], [ref one] if matches!(one.0, StoreFinding::Damaged(_))));
    fs::remove_file(&store).unwrap();
    assert!(!check(&fixture.host).unwrap().exists);
    let missing = backup(&fixture.host, &fixture.root().join("copy.db")).unwrap_err();
    assert!(matches!(missing, StoreError::Missing), "{missing:?}");
}

#[test]
fn a_kill_leaves_one_store_or_the_other() {
    kill::everywhere(
        |fixture| {
            fixture.guest_in_use("vm1");
            backup(&fixture.host, &fixture.root().join("copy.db")).unwrap();
            fixture.guest_in_use("vm2");
        },
        |fixture| drop(restore(&fixture.host, &fixture.root().join("copy.db")).unwrap()),
        |fixture| assert!(fixture.would_start(&fixture.defined("vm1"))),
        |fixture| {
            assert!(fixture.would_start(&fixture.defined("vm1")));
            assert_eq!(fixture.rows(&fixture.defined("vm2")).len(), 0);
        },
    );
}
