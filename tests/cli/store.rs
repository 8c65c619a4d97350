//! `store check | backup | restore`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::env::{Host, Ran, VM1, golden, mode};

#[test]
fn a_store_in_order_has_no_findings() {
    golden(
        "store-check",
        &Host::with_provider("nkp-a").run(&["store", "check"]),
    );
    golden(
        "store-check-without-store",
        &Host::new().run(&["store", "check"]),
    );
}

#[test]
fn what_is_found_is_listed() {
    let host = Host::with_provider("nkp-a");
    host.run(&["key", "bind", VM1]).succeeds();
    host.run(&["provider", "delete", "nkp-a", "--force"])
        .succeeds();
    golden("store-check-findings", &host.run(&["store", "check"]));
    let ran = host.run(&["store", "check", "--json"]).ends_with(1);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["findings"][0]["kind"], "provider-unknown");
    assert_eq!(document["findings"][0]["damage"], false);
}

#[test]
fn of_many_findings_that_are_alike_people_see_some_and_json_has_all() {
    let host = Host::with_provider("nkp-a");
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
               INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
               SELECT printf('e0000000-0000-4000-8000-%012x', i), 'gone', x'01' FROM n";
    store.execute_batch(sql).unwrap();
    drop(store);
    golden("store-check-many-findings", &host.run(&["store", "check"]));
    let ran = host.run(&["store", "check", "--json"]).ends_with(1);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["findings"].as_array().unwrap().len(), 300);
    let doctor = host.run(&["doctor"]);
    assert_eq!(doctor.stdout.matches("\"gone\" not found").count(), 3);
    assert!(
        doctor.stdout.contains("and 297 more like this"),
        "{}",
        doctor.stdout
    );
}

#[test]
fn a_damaged_store_is_found_and_a_backup_brings_it_back() {
    let host = Host::with_provider("nkp-a");
    host.run(&["store", "backup", "copy"]).succeeds();
    let before = host.stored();
    for name in ["store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(host.state_dir().join(name));
    }
    fs::write(host.state_dir().join("store.db"), "nonsense ".repeat(1000)).unwrap();
    host.run(&["store", "check"])
        .ends_with(1)
        .saying("vtpm-guard store restore FILE");
    host.run(&["provider", "list"])
        .ends_with(4)
        .saying("the store is damaged");
    host.run(&["store", "restore", "copy"]).succeeds();
    assert_eq!(host.stored(), before);
}

#[test]
fn a_backup_is_whole_private_and_overwrites_nothing() {
    let host = Host::with_provider("nkp-a");
    golden("store-backup", &host.run(&["store", "backup", "copy"]));
    assert_eq!(mode(&host.path("copy")), 0o600);
    let there = host.file("there", "words");
    host.run(&["store", "backup", &there])
        .ends_with(1)
        .saying("nothing is overwritten");
    assert_eq!(fs::read_to_string(there).unwrap(), "words");
    host.run(&["store", "backup", "."]).ends_with(1);
    host.run(&["store", "backup", "no/such/directory"])
        .ends_with(4);
    Host::new()
        .run(&["store", "backup", "copy"])
        .ends_with(4)
        .saying("the store does not exist yet");
}

#[test]
fn a_plain_copy_of_the_file_has_all_that_an_administrator_did() {
    let host = Host::with_provider("nkp-a");
    host.run(&["key", "bind", VM1]).succeeds();
    let other = Host::new();
    fs::create_dir(other.state_dir()).unwrap();
    fs::copy(
        host.state_dir().join("store.db"),
        other.state_dir().join("store.db"),
    )
    .unwrap();
    for list in [["provider", "list"], ["key", "list"]] {
        let (here, there) = (host.json(&list), other.json(&list));
        assert_eq!(here.as_array().unwrap().len(), 1);
        assert_eq!(there[0]["uuid"], here[0]["uuid"]);
        assert_eq!(there[0]["id"], here[0]["id"]);
    }
}

#[test]
fn a_restore_brings_the_rows_back_and_keeps_the_store_of_before() {
    let host = Host::with_provider("nkp-a");
    host.run(&["key", "bind", VM1]).succeeds();
    let before = host.stored();
    host.run(&["store", "backup", "copy"]).succeeds();
    host.run(&["key", "unbind", VM1]).succeeds();
    golden("store-restore", &host.run(&["store", "restore", "copy"]));
    assert_eq!(host.stored(), before);
}

#[test]
fn a_restore_says_whose_keys_are_not_here() {
    let host = Host::with_provider("nkp-a");
    host.run(&["store", "backup", "copy"]).succeeds();
    let other = Host::new();
    let copy = host.path("copy");
    other
        .run(&["store", "restore", copy.to_str().unwrap()])
        .succeeds()
        .saying("the key of 1 provider cannot be opened on this host (nkp-a)");
}

#[test]
fn what_is_no_backup_is_not_restored() {
    let host = Host::with_provider("nkp-a");
    let before = host.stored();
    let text = host.file("text", &"words ".repeat(2000));
    for file in [text.as_str(), "missing", "."] {
        host.run(&["store", "restore", file]).ends_with(4);
    }
    host.run(&["store", "restore", &text])
        .saying("the backup is damaged")
        .saying("use another copy of it");
    host.run(&["store", "restore", "."])
        .saying("vtpm-guard store backup FILE");
    assert_eq!(host.stored(), before);
}

#[test]
fn a_backup_with_a_trigger_is_refused_with_the_command_that_removes_it() {
    let host = Host::with_provider("nkp-a");
    host.run(&["store", "backup", "copy"]).succeeds();
    let copy = rusqlite::Connection::open(host.path("copy")).unwrap();
    let trigger = "CREATE TRIGGER \"it's \"\"one\" AFTER UPDATE ON key_ref BEGIN SELECT 1; END";
    copy.execute_batch(trigger).unwrap();
    drop(copy);
    let before = host.stored();
    let refused = host.run(&["store", "restore", "copy"]);
    let line = refused
        .ends_with(1)
        .saying("trigger")
        .stderr
        .lines()
        .last()
        .unwrap()
        .to_owned();
    assert_eq!(host.stored(), before);
    if Command::new("sqlite3").arg("-version").output().is_err() {
        return;
    }
    let (_, command) = line.split_once("remove it: ").unwrap();
    let done = Command::new("sh")
        .args(["-c", command])
        .current_dir(host.path(""))
        .status();
    assert!(done.unwrap().success(), "{command}");
    host.run(&["store", "restore", "copy"]).succeeds();
}

/// L4 of the audit: what root relies on, nobody else can change.
#[test]
fn a_state_directory_below_one_that_others_may_write_is_not_used() {
    let host = Host::with_provider("nkp-a");
    let above = host.path("");
    fs::set_permissions(&above, fs::Permissions::from_mode(0o777)).unwrap();
    host.run(&["provider", "list"])
        .ends_with(4)
        .saying("others may write to it")
        .saying("chmod go-w");
    fs::set_permissions(&above, fs::Permissions::from_mode(0o700)).unwrap();
    host.run(&["provider", "list"]).succeeds();
}

/// As after an upgrade that nobody restarted it for: systemd starts the release that is installed (`Restart=on-failure`, and
/// not after 2).
#[test]
fn what_follows_the_fleet_ends_once_the_store_is_of_a_newer_release() {
    let host = Host::with_provider("nkp-a");
    let store = "[fleet]\nstore = \"postgresql://db.invalid/vtpm_guard\"\n";
    let log = format!("[log]\ntarget = \"{}\"\n", host.path("log").display());
    let config = host.file("config.toml", &format!("{store}{log}"));
    let database = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    let mut follow = host.command(&["--config", &config, "sync", "--follow"]);
    Ran::of(follow.timeout(Duration::from_secs(20)))
        .ends_with(4)
        .saying("the store is too new");
}
