//! `provider export`.

use std::fs;
use std::path::Path;

use super::fixture::Fixture;
use super::kill;
use super::recovery::passphrase;
use crate::clock::Timestamp;
use crate::key::id::KeyId;
use crate::keyring::WeakerSeal;
use crate::manage::host::HostError;
use crate::manage::previous_keys::PreviousKey;
use crate::manage::provider_export::{ExportError, ExportedProvider, export, exportable};
use crate::manage::provider_rotate::rotate;
use crate::manage::providers::ProviderError;
use crate::recovery::file::{RecoveryError, RecoveryFile};
use crate::store::StoreError;

fn exported(fixture: &Fixture, file: &str) -> Result<ExportedProvider, ExportError> {
    let file = fixture.root().join(file);
    let provider = exportable(&fixture.host, "a", &file)?;
    export(&fixture.host, &provider, &file, &passphrase())
}

fn rotated(fixture: &Fixture) {
    rotate(&fixture.host, "a", WeakerSeal::Refused, &mut |_| {}).unwrap();
}

/// Of each: whether it was exported, and whether key references need it.
fn keys(kept: &[PreviousKey]) -> Vec<(KeyId, bool, bool)> {
    let kept = kept.iter();
    kept.map(|key| (key.key_id, key.is_exported, key.is_needed))
        .collect()
}

/// Whether the file opens to the key that the provider has.
fn holds_key(fixture: &Fixture, file: &Path) -> bool {
    let file = RecoveryFile::read(file).unwrap();
    file.open(&passphrase()).unwrap().key_id() == fixture.provider("a").key_id
}

#[test]
fn the_file_opens_to_the_key_and_the_store_knows_of_it() {
    let fixture = Fixture::new();
    let done = exported(&fixture, "one").unwrap();
    assert!(done.dropped.is_empty() && done.kept.is_empty());
    assert!(holds_key(&fixture, &done.file));
    assert!(fixture.provider("a").exported_at.is_some());
}

#[test]
fn what_fails_after_the_file_was_written_names_it() {
    let fixture = Fixture::new();
    rotated(&fixture);
    fixture.sql(
        "UPDATE key_provider SET exported_at = 1;
         ALTER TABLE key_ref RENAME COLUMN provider_name TO called",
    );
    let error = exported(&fixture, "one").unwrap_err();
    let ExportError::NotDropped(file, _) = error else {
        panic!("{error:?}");
    };
    assert!(holds_key(&fixture, &file));
    assert_ne!(fixture.provider("a").exported_at, Some(Timestamp(1)));
}

#[test]
fn a_previous_key_goes_when_it_was_exported_and_nothing_needs_it() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let first = fixture.provider("a").key_id;
    rotated(&fixture);
    let done = exported(&fixture, "never").unwrap();
    assert_eq!(keys(&done.kept), [(first, false, false)]);

    let second = fixture.provider("a").key_id;
    rotated(&fixture);
    fixture.sql("CREATE TABLE kept AS SELECT * FROM key_ref");
    rotated(&fixture);
    fixture.sql("UPDATE kept SET id = 77; INSERT INTO key_ref SELECT * FROM kept");
    let third = fixture.rows(&guest);
    let third = third.iter().find(|row| row.key_ref.id.0 == 77).unwrap();
    let third = third
        .key_ref
        .wrapped_dek
        .as_ref()
        .unwrap()
        .key_id()
        .unwrap();
    fixture.sql("UPDATE key_provider SET exported_at = 1 WHERE exported_at IS NULL");
    let done = exported(&fixture, "second").unwrap();
    assert!(
        done.dropped.contains(&first) && done.dropped.contains(&second),
        "{done:?}"
    );
    assert_eq!(keys(&done.kept), [(third, true, true)]);
    assert!(fixture.host.keyring().seal(first).is_err());
    assert!(fixture.host.keyring().seal(third).is_ok());
    assert!(fixture.would_start(&guest));
}

#[test]
fn what_is_known_to_fail_does_so_before_a_passphrase_is_typed() {
    let fixture = Fixture::new();
    let file = fixture.root().join("one");
    let can = |name: &str| exportable(&fixture.host, name, &file).map(drop);
    assert!(can("a").is_ok());
    let unknown = can("nobody").unwrap_err();
    assert!(matches!(unknown, ExportError::Provider(_)), "{unknown:?}");
    fixture.lose_key("b");
    let lost = can("b").unwrap_err();
    assert!(
        matches!(
            lost,
            ExportError::Provider(ProviderError::Host(HostError::Keyring(_)))
        ),
        "{lost:?}"
    );
    fs::write(&file, "mine").unwrap();
    let there = can("a").unwrap_err();
    assert!(
        matches!(there, ExportError::File(_, RecoveryError::Exists(_))),
        "{there:?}"
    );
}

#[test]
fn a_file_that_cannot_be_made_is_no_export() {
    let fixture = Fixture::new();
    let nowhere = exported(&fixture, "no/such/directory/file").unwrap_err();
    assert!(
        matches!(nowhere, ExportError::File(_, RecoveryError::Io(_))),
        "{nowhere:?}"
    );
    fixture.sql("UPDATE key_provider SET name = 'a' || char(7) WHERE name = 'a'");
    let provider = fixture.provider("a\u{7}");
    let file = fixture.root().join("one");
    let bad_name = export(&fixture.host, &provider, &file, &passphrase()).unwrap_err();
    assert!(
        matches!(bad_name, ExportError::File(_, RecoveryError::UnusableName)),
        "{bad_name:?}"
    );
    assert!(!file.exists());
    assert!(fixture.provider("a\u{7}").exported_at.is_none());
}

#[test]
fn an_export_that_a_rotation_overtakes_is_not_one_of_the_new_key() {
    let fixture = Fixture::new();
    let file = fixture.root().join("one");
    let provider = exportable(&fixture.host, "a", &file).unwrap();
    rotated(&fixture);
    let error = export(&fixture.host, &provider, &file, &passphrase()).unwrap_err();
    assert!(
        matches!(&error, ExportError::NotRecorded(path, StoreError::Changed) if *path == file),
        "{error:?}"
    );
    assert!(fixture.provider("a").exported_at.is_none());
}

#[test]
fn a_kill_loses_no_key_that_is_in_no_file() {
    kill::everywhere(
        |fixture| {
            fixture.guest_in_use("vm1");
            rotated(fixture);
            fixture.sql("UPDATE key_provider SET exported_at = 1 WHERE name LIKE 'a/%'");
        },
        |fixture| {
            // After a kill the first file may be there, and nothing is overwritten.
            let first = exported(fixture, "one");
            first.or_else(|_| exported(fixture, "two")).unwrap();
        },
        |fixture| {
            assert!(fixture.would_start(&fixture.defined("vm1")));
            let is_there = fixture.root().join("one").exists();
            assert!(is_there || fixture.provider("a").exported_at.is_none());
        },
        |fixture| {
            assert!(fixture.would_start(&fixture.defined("vm1")));
            let two = fixture.root().join("two");
            let file = if two.exists() {
                two
            } else {
                fixture.root().join("one")
            };
            let key_id = RecoveryFile::read(&file).unwrap().header().key_id;
            assert_eq!(key_id, fixture.provider("a").key_id);
            assert!(fixture.provider("a").exported_at.is_some());
            let providers = fixture.store().providers().unwrap();
            assert_eq!(
                providers.len(),
                2,
                "the previous key is gone: {providers:#?}"
            );
        },
    );
}
