//! `provider create | list | show | rename | set-default | delete`.

use std::fs;

use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::ids::ProviderUuid;
use vtpm_guard::internals::store::NewProvider;

use crate::env::{Host, VM1, VM2, golden, mode};

#[test]
fn a_provider_is_made_listed_and_shown() {
    let host = Host::new();
    golden(
        "provider-list-without-store",
        &host.run(&["provider", "list"]),
    );
    golden(
        "provider-create",
        &host.run(&["provider", "create", "nkp-a"]),
    );
    golden(
        "provider-create-second",
        &host.run(&["provider", "create", "Site B"]),
    );
    golden("provider-list", &host.run(&["provider", "list"]));
    golden("provider-show", &host.run(&["provider", "show", "nkp-a"]));
    assert_eq!(mode(&host.state_dir()), 0o700);
}

#[test]
fn the_documents_hold_whole_values() {
    let host = Host::with_provider("nkp-a");
    let list = host.json(&["provider", "list"]);
    let provider = &list[0];
    let uuid = provider["uuid"].as_str().unwrap();
    assert!(ProviderUuid::parse(uuid).is_ok());
    assert_eq!(
        provider["key_id"].as_str().unwrap(),
        host.kek("nkp-a").key_id().to_string()
    );
    assert_eq!(provider["kind"], "native");
    assert_eq!(provider["key_version"], 1);
    assert_eq!(provider["is_default"], true);
    assert!(provider["exported_at"].is_null());
    assert!(provider["created_at"].as_i64().unwrap() > 1_700_000_000_000);

    let shown = host.json(&["provider", "show", uuid]);
    assert_eq!(shown["name"], "nkp-a");
    assert_eq!(shown["opens"], true);
    assert!(shown["trouble"].is_null());
}

#[test]
fn the_first_provider_is_the_default_until_another_is_made_so() {
    let host = Host::with_provider("a");
    let default = || {
        let list = host.json(&["provider", "list"]);
        let defaults = list
            .as_array()
            .unwrap()
            .iter()
            .filter(|p| p["is_default"] == true);
        defaults
            .map(|p| p["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(default(), ["a"]);
    host.run(&["provider", "create", "b"]).succeeds();
    assert_eq!(default(), ["a"]);
    host.run(&["provider", "create", "c", "--default"])
        .succeeds();
    assert_eq!(default(), ["c"]);
    host.run(&["provider", "set-default", "b"]).succeeds();
    assert_eq!(default(), ["b"]);
    let again = host.run(&["provider", "set-default", "b"]).succeeds();
    assert_eq!(
        again.stdout,
        "provider \"b\" is already the default; nothing changed\n"
    );
}

#[test]
fn a_name_that_is_taken_is_refused_and_leaves_no_key_behind() {
    let host = Host::with_provider("nkp-a");
    host.run(&["provider", "create", "nkp-b"]).succeeds();
    let before = host.stored();
    host.run(&["provider", "create", "nkp-a"])
        .ends_with(1)
        .saying("\"nkp-a\" already");
    host.run(&["provider", "rename", "nkp-b", "nkp-a"])
        .ends_with(1)
        .saying("\"nkp-a\" already");
    assert_eq!(host.stored(), before);
}

#[test]
fn what_cannot_be_a_name_is_refused_before_anything_is_made() {
    let host = Host::new();
    for name in [
        "",
        "a/b",
        "two\nlines",
        VM1,
        &"x".repeat(65),
        &"🔑".repeat(64),
    ] {
        host.run(&["provider", "create", name])
            .ends_with(2)
            .saying("cannot be a provider's name");
    }
    host.run(&["provider", "create", "--", "-f"])
        .ends_with(2)
        .saying("as options do");
    assert!(!host.state_dir().exists());
}

#[test]
fn a_renamed_provider_keeps_its_uuid_and_its_guests() {
    let host = Host::with_provider("old");
    host.run(&["key", "bind", VM1, "--provider", "old"])
        .succeeds();
    let uuid = host.json(&["provider", "show", "old"])["uuid"].clone();
    host.run(&["provider", "rename", "old", "new name"])
        .succeeds();
    let shown = host.json(&["provider", "show", "new name"]);
    assert_eq!((&shown["uuid"], &shown["guests"]), (&uuid, &1.into()));
    assert_eq!(host.json(&["key", "list"])[0]["provider_name"], "new name");
    let again = host
        .run(&["provider", "rename", "new name", "new name"])
        .succeeds();
    assert!(again.stdout.ends_with("nothing changed\n"));
}

#[test]
fn who_is_not_there_is_not_there_for_any_verb() {
    let empty = Host::new();
    let host = Host::with_provider("other");
    let words = "key provider \"nkp-a\" not found";
    for host in [&empty, &host] {
        for arguments in [
            &["provider", "show", "nkp-a"][..],
            &["provider", "rename", "nkp-a", "b"],
            &["provider", "set-default", "nkp-a"],
            &["provider", "export", "nkp-a", "--output", "f"],
            &["provider", "delete", "nkp-a"],
            &["key", "bind", VM1, "--provider", "nkp-a"],
        ] {
            let ran = host.run(arguments).ends_with(2).saying(words);
            assert_eq!(ran.stdout, "");
        }
    }
    assert!(!empty.state_dir().exists());
}

#[test]
fn an_error_is_a_document_too() {
    let ran = Host::new()
        .run(&["provider", "show", "x", "--json"])
        .ends_with(2);
    assert_eq!(ran.stdout, "");
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"], "key provider \"x\" not found");
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("vtpm-guard provider list")
    );
}

#[test]
fn a_key_that_is_gone_or_damaged_shows() {
    let host = Host::with_provider("nkp-a");
    let file = host
        .state_dir()
        .join("keys")
        .join(host.kek("nkp-a").key_id().to_string());
    fs::write(&file, "nonsense").unwrap();
    assert_eq!(host.json(&["provider", "list"])[0]["seal"], "damaged");
    fs::remove_file(&file).unwrap();
    let shown = host.json(&["provider", "show", "nkp-a"]);
    assert_eq!(
        (&shown["seal"], &shown["opens"]),
        (&"missing".into(), &false.into())
    );
    assert!(
        shown["trouble"]
            .as_str()
            .unwrap()
            .contains("this host holds no key")
    );
}

#[test]
fn a_provider_that_guests_need_is_not_deleted_unless_by_force() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    host.name_guest(VM1, "vm1");
    host.run(&["key", "bind", VM2]).succeeds();
    let before = host.stored();
    golden(
        "provider-delete-needed",
        &host.run(&["provider", "delete", "nkp-a"]),
    );
    let ran = host
        .run(&["provider", "delete", "nkp-a", "--json"])
        .ends_with(1);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["deleted"], false);
    assert_eq!(document["locked"][0]["name"], "vm1");
    assert_eq!(document["locked"][1]["uuid"], VM2);
    assert_eq!(host.stored(), before);

    golden(
        "provider-delete-by-force",
        &host.run(&["provider", "delete", "nkp-a", "--force"]),
    );
    let key_refs = host.json(&["key", "list"]);
    assert!(key_refs[0]["provider_uuid"].is_null());
    assert_eq!(key_refs[0]["provider_name"], "nkp-a");
    assert_eq!(host.sealed_keys(), []);
}

#[test]
fn a_provider_that_was_never_exported_is_not_deleted_unless_by_force() {
    let host = Host::with_provider("nkp-a");
    let before = host.stored();
    host.run(&["provider", "delete", "nkp-a"])
        .ends_with(1)
        .saying("was never exported");
    assert_eq!(host.stored(), before);
    host.run(&["provider", "delete", "nkp-a", "--force"])
        .succeeds();
    assert_eq!(host.json(&["provider", "list"]), serde_json::json!([]));
    assert_eq!(host.sealed_keys(), []);
}

#[test]
fn a_key_that_another_provider_has_too_is_kept() {
    let host = Host::with_provider("a");
    host.start_for_the_first_time(VM1, "a");
    let key_id = host.kek("a").key_id();
    let twin = NewProvider {
        uuid: ProviderUuid::random(),
        name: "b".to_owned(),
        key_id,
        key_version: 1,
        is_default: false,
        exported_at: None,
    };
    host.store()
        .create_provider(&twin, &[], Timestamp::now())
        .unwrap();
    let document = host.json(&["provider", "delete", "a", "--force"]);
    assert_eq!(document["key_removed"], false);
    assert_eq!(document["locked"], serde_json::json!([]));
    assert_eq!(host.sealed_keys(), [key_id]);
}
