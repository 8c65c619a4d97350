//! `key …` and `reset`.

use std::fs;

use serde_json::json;
use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::ids::ProviderUuid;
use vtpm_guard::internals::store::NewProvider;

use crate::env::{Host, VM1, VM2, golden};

#[test]
fn a_guest_is_bound_once() {
    let host = Host::with_provider("nkp-a");
    golden(
        "key-bind",
        &host.run(&["key", "bind", VM1, "--provider", "nkp-a"]),
    );
    let before = host.stored();
    golden(
        "key-bind-again",
        &host.run(&["key", "bind", VM1, "--provider", "nkp-a"]),
    );
    assert_eq!(host.stored(), before);
    assert_eq!(host.json(&["key", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn without_a_named_provider_the_default_one_is_taken() {
    let host = Host::new();
    host.run(&["key", "bind", VM1])
        .ends_with(2)
        .saying("there is no default provider");
    host.run(&["provider", "create", "a"]).succeeds();
    host.run(&["provider", "create", "b", "--default"])
        .succeeds();
    assert_eq!(host.json(&["key", "bind", VM1])["provider"]["name"], "b");
}

#[test]
fn a_placeholder_moves_to_the_named_provider() {
    let host = Host::with_provider("a");
    host.run(&["provider", "create", "b"]).succeeds();
    host.run(&["key", "bind", VM1, "--provider", "a"])
        .succeeds();
    golden(
        "key-bind-moves",
        &host.run(&["key", "bind", VM1, "--provider", "b"]),
    );
    let rows = host.json(&["key", "list", VM1]);
    assert_eq!(
        (rows.as_array().unwrap().len(), &rows[0]["provider_name"]),
        (1, &"b".into())
    );
}

#[test]
fn a_key_is_never_bound_to_a_provider_that_does_not_open_it() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    host.run(&["provider", "delete", "nkp-a", "--force"])
        .succeeds();
    // The same name, and another key.
    host.run(&["provider", "create", "nkp-a"]).succeeds();
    let before = host.stored();
    host.run(&["key", "bind", VM1, "--provider", "nkp-a"])
        .ends_with(1)
        .saying("does not open it");
    assert_eq!(host.stored(), before);
}

#[test]
fn of_two_providers_with_its_key_the_named_one_gets_the_guest() {
    let host = Host::with_provider("gone");
    let id = host.start_for_the_first_time(VM1, "gone");
    let key_id = host.kek("gone").key_id();
    for name in ["a", "b"] {
        let twin = NewProvider {
            uuid: ProviderUuid::random(),
            name: name.to_owned(),
            key_id,
            key_version: 1,
            is_default: false,
            exported_at: None,
        };
        host.store()
            .create_provider(&twin, &[], Timestamp::now())
            .unwrap();
    }
    host.run(&["provider", "delete", "gone", "--force"])
        .succeeds();
    let bound = host.json(&["key", "bind", VM1, "--provider", "b"]);
    assert_eq!(
        (&bound["action"], &bound["key_refs"]),
        (&"rebound".into(), &json!([id.0]))
    );
    let row = &host.json(&["key", "list"])[0];
    assert_eq!(row["provider_name"], "b");
    assert_eq!(row["provider_uuid"], bound["provider"]["uuid"]);
    let again = host.json(&["key", "bind", VM1, "--provider", "b"]);
    assert_eq!(again["action"], "none");
}

#[test]
fn a_key_that_a_sealed_provider_may_open_is_not_guessed_at() {
    let host = Host::with_provider("a");
    host.start_for_the_first_time(VM1, "a");
    host.run(&["provider", "create", "b"]).succeeds();
    let key = host.kek("b").key_id();
    host.keyring().remove(key).unwrap();
    let before = host.stored();
    host.run(&["key", "bind", VM1, "--provider", "b"])
        .ends_with(4)
        .saying("this host holds no key")
        .saying("if a key manager has it: vtpm-guard open; else restore it: vtpm-guard provider import FILE");
    assert_eq!(host.stored(), before);
}

#[test]
fn the_list_shows_every_state_and_the_names_that_are_known() {
    let host = Host::with_provider("nkp-a");
    let first = host.start_for_the_first_time(VM1, "nkp-a");
    let second = host.start_for_the_first_time(VM1, "nkp-a");
    host.name_guest(VM1, "vm1");
    host.run(&["key", "bind", VM2]).succeeds();
    golden("key-list", &host.run(&["key", "list"]));
    golden("key-list-nothing", &Host::new().run(&["key", "list"]));

    let rows = host.json(&["key", "list", VM1]);
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(
        (&rows[0]["id"], &rows[0]["state"]),
        (&first.0.into(), &"retired".into())
    );
    assert_eq!(
        (&rows[1]["id"], &rows[1]["state"]),
        (&second.0.into(), &"keyed".into())
    );
    let kek = host.kek("nkp-a");
    assert_eq!(rows[1]["key_id"], kek.key_id().to_string());
    assert_eq!(rows[1]["kek_ref"], format!("native:{}", kek.key_id()));
    assert_eq!(rows[1]["domain"], json!({ "name": "vm1", "uuid": VM1 }));
    assert!(rows[1]["first_used_at"].is_i64() && rows[1]["retired_at"].is_null());
}

#[test]
fn what_each_key_opens_is_shown() {
    let host = Host::with_provider("gone");
    host.start_for_the_first_time(VM1, "gone");
    host.run(&["provider", "create", "sealed"]).succeeds();
    host.start_for_the_first_time(VM1, "sealed");
    host.run(&["provider", "create", "here"]).succeeds();
    host.start_for_the_first_time(VM1, "here");
    host.name_guest(VM1, "vm1");
    host.run(&["provider", "delete", "gone", "--force"])
        .succeeds();
    let key = host.kek("sealed").key_id();
    fs::write(
        host.state_dir().join("keys").join(key.to_string()),
        "nonsense",
    )
    .unwrap();

    golden("key-show", &host.run(&["key", "show", VM1]));
    let shown = host.json(&["key", "show", VM1]);
    assert_eq!(shown["tpm_state"]["state"], "absent");
    let opens: Vec<_> = shown["key_refs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["opens"])
        .collect();
    assert_eq!(opens, [false, false, true]);
    assert!(shown["key_refs"][0]["provider"].is_null());
    assert_eq!(shown["key_refs"][2]["provider"]["name"], "here");
}

#[test]
fn a_guest_without_key_references_has_nothing_to_show_or_unbind() {
    for host in [Host::new(), Host::with_provider("nkp-a")] {
        for verb in ["show", "unbind"] {
            host.run(&["key", verb, VM1])
                .ends_with(2)
                .saying("has no key reference");
        }
    }
}

#[test]
fn unbinding_keeps_the_key_and_use_takes_it_back() {
    let host = Host::with_provider("nkp-a");
    let id = host.start_for_the_first_time(VM1, "nkp-a").0;
    golden("key-unbind", &host.run(&["key", "unbind", VM1]));
    assert_eq!(host.json(&["key", "list"])[0]["state"], "retired");
    let used = host.json(&["key", "use", &id.to_string()]);
    assert_eq!(
        (&used["changed"], &used["retired"]),
        (&true.into(), &json!([]))
    );
    assert_eq!(host.json(&["key", "list"])[0]["state"], "keyed");
    assert_eq!(
        host.json(&["key", "use", &id.to_string()])["changed"],
        false
    );
}

#[test]
fn the_used_key_retires_the_others() {
    let host = Host::with_provider("nkp-a");
    let first = host.start_for_the_first_time(VM1, "nkp-a").0;
    let second = host.start_for_the_first_time(VM1, "nkp-a").0;
    let used = host.json(&["key", "use", &first.to_string()]);
    assert_eq!(used["retired"], json!([second]));
    // Both were of one generation: the chosen one goes before the other now, on every host.
    assert_eq!(used["generation"], 2);
    let rows = host.json(&["key", "list"]);
    let states = |row: &serde_json::Value| (row["id"].clone(), row["state"].clone());
    let rows: Vec<_> = rows.as_array().unwrap().iter().map(states).collect();
    assert_eq!(
        rows,
        [
            (json!(first), json!("retired")),
            (json!(second), json!("retired")),
            (used["key_ref"].clone(), json!("keyed"))
        ]
    );
    let again = host.run(&["key", "use", &first.to_string()]).succeeds();
    let told = format!("it holds the key of key reference {first}, as generation 2");
    assert!(again.stdout.contains(&told) && again.stdout.contains("nothing changed"));
}

#[test]
fn retiring_twice_changes_nothing_the_second_time() {
    let host = Host::with_provider("nkp-a");
    let id = host.start_for_the_first_time(VM1, "nkp-a").to_string();
    host.run(&["key", "retire", &id])
        .succeeds()
        .saying("has no key in use now");
    let before = host.stored();
    let again = host.run(&["key", "retire", &id]).succeeds();
    assert!(again.stdout.ends_with("nothing changed\n"));
    assert_eq!(host.stored(), before);
}

#[test]
fn a_placeholder_cannot_be_used_and_nobody_can_be_retired() {
    let host = Host::with_provider("nkp-a");
    let id = host.json(&["key", "bind", VM1])["key_refs"][0].to_string();
    let before = host.stored();
    host.run(&["key", "use", &id])
        .ends_with(1)
        .saying("has no key");
    for verb in ["use", "retire"] {
        host.run(&["key", verb, "99"])
            .ends_with(2)
            .saying("key reference 99 not found");
        Host::new().run(&["key", verb, "99"]).ends_with(2);
        host.run(&["key", verb, "nonsense"]).ends_with(2);
    }
    assert_eq!(host.stored(), before);
}

#[test]
fn reset_lets_the_next_start_make_a_new_tpm() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    golden("reset", &host.run(&["reset", VM1]));
    let row = &host.json(&["key", "list"])[0];
    assert_eq!(
        (&row["first_used_at"], &row["state"]),
        (&json!(null), &"keyed".into())
    );
    golden("reset-again", &host.run(&["reset", VM1]));
}

#[test]
fn reset_is_refused_where_there_is_no_key() {
    Host::new()
        .run(&["reset", VM1])
        .ends_with(1)
        .saying("has no key");
    let host = Host::with_provider("nkp-a");
    host.run(&["key", "bind", VM1]).succeeds();
    host.run(&["reset", VM1]).ends_with(1).saying("has no key");
}
