//! `provider rotate`, and what becomes of the previous key.

use std::time::Duration;

use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};
use zeroize::Zeroizing;

use crate::env::{Host, VM1, VM2, golden, soon};

/// The DEK of a guest's only key reference in use, opened with this KEK.
fn dek(host: &Host, guest: &str, kek: &Kek) -> Option<Dek> {
    let domain = DomainUuid::parse(guest).unwrap();
    let rows = host.store().all_key_refs(Some(domain), false).unwrap();
    assert_eq!(rows.len(), 1);
    let wrapped = rows[0].key_ref.wrapped_dek.as_ref().unwrap();
    wrapped.unwrap(kek, domain).unwrap()
}

fn export(host: &Host, file: &str) -> crate::env::Ran {
    let passphrase = host.passphrase_file();
    let file = host.path(file).to_str().unwrap().to_owned();
    let export = ["provider", "export", "nkp-a", "--output", &file];
    host.run(&[&export[..], &["--passphrase-file", &passphrase]].concat())
}

fn sealed_keys(host: &Host) -> usize {
    host.sealed_keys().len()
}

/// Runs SQL as another tool would.
fn sql(host: &Host, sql: &str) {
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    store.execute_batch(sql).unwrap();
}

#[test]
fn every_guest_keeps_its_key_under_the_new_one() {
    let host = Host::with_provider("nkp-a");
    host.name_guest(VM1, "vm1");
    host.start_for_the_first_time(VM1, "nkp-a");
    let retired = host.start_for_the_first_time(VM2, "nkp-a");
    host.run(&["key", "retire", &retired.0.to_string()])
        .succeeds();
    let old = host.kek("nkp-a");
    let before = dek(&host, VM1, &old).unwrap();
    export(&host, "first.recovery").succeeds();

    golden(
        "provider-rotate",
        &host.run(&["provider", "rotate", "nkp-a"]),
    );

    let new = host.kek("nkp-a");
    assert_ne!(new.key_id(), old.key_id());
    assert!(dek(&host, VM1, &new).unwrap().same_as(&before));
    assert!(
        dek(&host, VM1, &old).is_none(),
        "it is not the previous key's"
    );
    let rows = host.store().all_key_refs(None, true).unwrap();
    for row in &rows {
        assert_eq!(row.key_ref.key_version, Some(2));
        let kek_ref = format!("native:{}", new.key_id());
        assert_eq!(row.key_ref.kek_ref.as_deref(), Some(kek_ref.as_str()));
    }
    assert!(rows.iter().any(|row| row.retired_at.is_some()));

    let shown = host.json(&["provider", "show", "nkp-a"]);
    assert_eq!(shown["key_version"], 2);
    assert_eq!(shown["is_default"], true);
    assert!(shown["exported_at"].is_null(), "the new key is in no file");
}

#[test]
fn the_previous_key_goes_with_the_export_of_the_new_one_and_not_before() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    export(&host, "first.recovery").succeeds();
    let old = host.kek("nkp-a");
    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    assert!(host.keyring().open(old.key_id(), soon()).is_ok());
    assert_eq!(sealed_keys(&host), 2);

    golden(
        "provider-export-drops-previous",
        &export(&host, "second.recovery"),
    );
    assert_eq!(sealed_keys(&host), 1);
    let list = host.json(&["provider", "list"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
}

#[test]
fn a_previous_key_that_was_never_exported_stays() {
    let host = Host::with_provider("nkp-a");
    golden(
        "provider-rotate-never-exported",
        &host.run(&["provider", "rotate", "nkp-a"]),
    );
    export(&host, "second.recovery")
        .succeeds()
        .saying("it was never exported");
    assert_eq!(sealed_keys(&host), 2);
}

/// A host with two guests, of which the second has a damaged key.
fn with_a_damaged_key() -> Host {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    let damaged = host.start_for_the_first_time(VM2, "nkp-a");
    sql(
        &host,
        &format!(
            "UPDATE key_ref SET wrapped_dek = CAST(substr(wrapped_dek, 1, 60) ||
                 zeroblob(8) || substr(wrapped_dek, 69) AS BLOB) WHERE id = {damaged}"
        ),
    );
    host
}

#[test]
fn nobody_is_told_to_delete_a_previous_key_that_a_key_reference_needs() {
    let host = with_a_damaged_key();
    for asked in [
        host.run(&["provider", "rotate", "nkp-a"]),
        export(&host, "second.recovery"),
    ] {
        let asked = asked
            .succeeds()
            .saying("key references need it")
            .saying("never exported")
            .saying("vtpm-guard provider export nkp-a/");
        assert!(!asked.stderr.contains("--force"), "{}", asked.stderr);
    }
    assert_eq!(sealed_keys(&host), 2);
}

#[test]
fn a_previous_key_that_a_key_reference_needs_stays() {
    let host = with_a_damaged_key();
    export(&host, "first.recovery").succeeds();
    let document = host.json(&["provider", "rotate", "nkp-a"]);
    assert_eq!(document["rotated"], true);
    assert_eq!(
        (&document["rewrapped"], &document["not_opened"]),
        (&1.into(), &1.into())
    );
    let result = |index: usize| document["key_refs"][index]["result"].clone();
    assert_eq!(
        (result(0), result(1)),
        ("rewrapped".into(), "not-opened".into())
    );

    export(&host, "second.recovery")
        .succeeds()
        .saying("key references need it");
    assert_eq!(sealed_keys(&host), 2);
}

#[test]
fn running_it_again_first_re_wraps_what_was_missed() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    sql(&host, "CREATE TABLE kept AS SELECT * FROM key_ref");
    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    let new = host.kek("nkp-a");
    // Another tool writes the row of before back, beside today's.
    sql(
        &host,
        "UPDATE kept SET id = 77; INSERT INTO key_ref SELECT * FROM kept; DROP TABLE kept",
    );

    golden(
        "provider-rotate-finishes",
        &host.run(&["provider", "rotate", "nkp-a"]),
    );
    assert_eq!(host.kek("nkp-a").key_id(), new.key_id(), "no further key");
    for row in host.store().all_key_refs(None, false).unwrap() {
        let wrapped = row.key_ref.wrapped_dek.unwrap();
        assert!(matches!(wrapped.unwrap(&new, row.domain), Ok(Some(_))));
    }

    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    assert_ne!(host.kek("nkp-a").key_id(), new.key_id());
}

#[test]
fn a_key_that_does_not_open_is_not_rotated() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    host.keyring().remove(host.kek("nkp-a").key_id()).unwrap();
    let stored = host.stored();
    host.run(&["provider", "rotate", "nkp-a"])
        .ends_with(4)
        .saying("vtpm-guard provider import FILE");
    assert_eq!(host.stored(), stored);
}

#[test]
fn a_previous_key_that_does_not_open_does_not_stop_the_next_rotation() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    sql(&host, "CREATE TABLE kept AS SELECT * FROM key_ref");
    let old = host.kek("nkp-a").key_id();
    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    sql(
        &host,
        "UPDATE kept SET id = 77; INSERT INTO key_ref SELECT * FROM kept; DROP TABLE kept",
    );
    host.keyring().remove(old).unwrap();
    host.run(&["provider", "rotate", "nkp-a"])
        .succeeds()
        .saying("under the previous key");
    assert_eq!(host.json(&["provider", "show", "nkp-a"])["key_version"], 3);
}

#[test]
fn a_key_of_another_provider_is_not_called_a_previous_one() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    host.run(&["provider", "create", "nkp-b"]).succeeds();
    // Another tool has bound the guest to the one, and left its key as it was.
    sql(
        &host,
        "UPDATE key_ref SET provider_uuid = (SELECT uuid FROM key_provider WHERE name = 'nkp-b')",
    );
    host.keyring().remove(host.kek("nkp-a").key_id()).unwrap();
    host.run(&["provider", "rotate", "nkp-b"])
        .succeeds()
        .saying("1 key reference under the key of provider \"nkp-a\"");
}

#[test]
fn only_a_provider_is_rotated_and_no_previous_key() {
    let host = Host::with_provider("nkp-a");
    host.run(&["provider", "rotate", "nobody"]).ends_with(2);
    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    let list = host.json(&["provider", "list"]);
    let previous = list[1]["name"].as_str().unwrap();
    let stored = host.stored();
    host.run(&["provider", "rotate", previous])
        .ends_with(1)
        .saying("name that provider: nkp-a");
    assert_eq!(host.stored(), stored);
}

#[test]
fn a_previous_key_wraps_nothing_new() {
    let host = Host::with_provider("nkp-a");
    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    let list = host.json(&["provider", "list"]);
    let previous = list[1]["name"].as_str().unwrap();
    let stored = host.stored();
    for command in [
        &["key", "bind", VM1, "--provider", previous][..],
        &["provider", "set-default", previous],
        &["adopt", VM1, "--provider", previous],
        &["encrypt", VM1, "--provider", previous],
    ] {
        host.run(command)
            .ends_with(1)
            .saying("is a previous key of provider \"nkp-a\"")
            .saying("name that provider: nkp-a");
    }
    assert_eq!(host.stored(), stored);

    host.run(&["provider", "delete", "nkp-a", "--force"])
        .succeeds();
    host.run(&["key", "bind", VM1, "--provider", previous])
        .ends_with(1)
        .saying("that provider was deleted")
        .saying("vtpm-guard provider rename nkp-a/");
}

#[test]
fn an_imported_key_leaves_its_previous_provider_at_the_next_rotation() {
    let host = Host::with_provider("nkp-a");
    let id = host.start_for_the_first_time(VM1, "nkp-a");
    export(&host, "first.recovery").succeeds();
    let backup = host.path("store.backup").to_str().unwrap().to_owned();
    host.run(&["store", "backup", &backup]).succeeds();
    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    host.run(&["key", "retire", &id.to_string()]).succeeds();
    host.run(&["key", "import", VM1, "--from", &backup])
        .succeeds()
        .saying("that is a previous key of provider \"nkp-a\"")
        .saying("vtpm-guard provider rotate nkp-a");

    host.run(&["provider", "rotate", "nkp-a"]).succeeds();
    for row in host.store().all_key_refs(None, true).unwrap() {
        assert_eq!(row.key_ref.provider_name, "nkp-a");
    }
    export(&host, "second.recovery")
        .succeeds()
        .saying("is dropped");
    assert_eq!(sealed_keys(&host), 1);
}

#[test]
fn of_two_providers_with_one_key_each_keeps_its_own_guests() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    let old = host.kek("nkp-a");
    sql(
        &host,
        "INSERT INTO key_provider (uuid, name, key_id)
         SELECT '99999999-0000-4000-8000-000000000000', 'twin', key_id FROM key_provider",
    );
    host.start_for_the_first_time(VM2, "twin");
    let document = host.json(&["provider", "rotate", "nkp-a"]);
    assert_eq!(document["key_refs"][1]["result"], "not-ours");
    assert!(dek(&host, VM2, &old).is_some());
    assert!(dek(&host, VM1, &old).is_none());
    export(&host, "second.recovery").succeeds();
    assert_eq!(sealed_keys(&host), 2, "the twin needs it");
}

/// Gives many guests a key under the provider, as their first starts do.
fn add_guests(host: &Host, guests: usize) {
    let kek = host.kek("nkp-a");
    let mut store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    let transaction = store.transaction().unwrap();
    for number in 0..guests {
        let uuid = format!("d0000000-0000-4000-8000-{number:012x}");
        let domain = DomainUuid::parse(&uuid).unwrap();
        let dek = Dek::from_bytes(Zeroizing::new(b"a key".to_vec()));
        let wrapped = WrappedDek::wrap(&kek, &dek, domain, Generation(1)).unwrap();
        let sql = "INSERT INTO key_ref (resource_uuid, provider_name, kek_ref, wrapped_dek)
                   VALUES (?1, 'nkp-a', ?2, ?3)";
        let kek_ref = format!("native:{}", kek.key_id());
        transaction
            .execute(sql, (uuid, kek_ref, wrapped.as_bytes()))
            .unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn ten_thousand_guests_are_re_wrapped_at_once() {
    let host = Host::with_provider("nkp-a");
    add_guests(&host, 10_000);
    let document = host.json(&["provider", "rotate", "nkp-a"]);
    assert_eq!(document["rewrapped"], 10_000);
}

#[test]
fn a_kill_at_any_moment_leaves_every_key_under_one_of_the_provider_s() {
    let host = Host::with_provider("nkp-a");
    add_guests(&host, 1000);
    let mut killed = 0;
    for time_ms in (4..200).step_by(10) {
        let mut rotate = host.command(&["provider", "rotate", "nkp-a"]);
        let time = Duration::from_millis(time_ms);
        let output = rotate.timeout(time).output().unwrap();
        killed += usize::from(!output.status.success());
        // Rows are re-wrapped some at a time: the others are under a key that the provider had before.
        let providers = host.store().providers().unwrap();
        let keks: Vec<_> = providers.iter().map(|it| host.kek(&it.name)).collect();
        for row in host.store().all_key_refs(None, true).unwrap() {
            let wrapped = row.key_ref.wrapped_dek.unwrap();
            let opens = |kek: &Kek| matches!(wrapped.unwrap(kek, row.domain), Ok(Some(_)));
            assert!(keks.iter().any(opens), "{time_ms}");
        }
    }
    assert!(killed > 3, "{killed} were killed");
    let document = host.json(&["provider", "rotate", "nkp-a"]);
    // Where the last one was killed halfway, the next one completes it.
    let key_refs = document["key_refs"].as_array().unwrap();
    assert_eq!(key_refs.len(), 1000, "the next one works");
    let kek = host.kek("nkp-a");
    for row in host.store().all_key_refs(None, true).unwrap() {
        let wrapped = row.key_ref.wrapped_dek.unwrap();
        assert!(matches!(wrapped.unwrap(&kek, row.domain), Ok(Some(_))));
    }
}
