//! Damaged files: every answer is an error or the truth, never a panic.

use std::fs;

use tempfile::TempDir;

use super::super::testing::*;
use super::super::{Access, EventFilter, StoreError, StoreFinding};
use crate::verdict::facts::StoreAccessError;

/// A store in one file, with some content, as bytes.
fn healthy() -> Vec<u8> {
    let (dir, mut store) = new_store();
    let provider = make_provider(&mut store, "p", 1);
    for i in 0..50 {
        make_key(&mut store, domain(i), &provider);
        store.record_event(&event(domain(i), "vm", NOW)).unwrap();
    }
    drop(store);
    raw(dir.path(), "PRAGMA wal_checkpoint(TRUNCATE)");
    fs::read(dir.path().join("store.db")).unwrap()
}

fn with_file(bytes: &[u8]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("store.db"), bytes).unwrap();
    dir
}

#[test]
fn a_file_that_is_not_a_database_is_corrupt() {
    for bytes in [
        b"not a database, but long enough to look at".repeat(100),
        vec![0; 8192],
    ] {
        let dir = with_file(&bytes);
        for access in [Access::Read, Access::Write, Access::Create] {
            let refused = open(dir.path(), access).unwrap_err();
            assert!(
                matches!(refused.access_error(), StoreAccessError::Corrupt(_)),
                "{refused}"
            );
        }
        assert_eq!(
            fs::read(dir.path().join("store.db")).unwrap(),
            bytes,
            "left as it was"
        );
    }
}

#[test]
fn a_truncated_file_is_corrupt_or_missing() {
    let whole = healthy();
    for len in [
        2,
        99,
        100,
        512,
        4095,
        4096,
        5000,
        8192,
        whole.len() / 2,
        whole.len() - 4096,
    ] {
        let dir = with_file(&whole[..len]);
        let answer = open(dir.path(), Access::Read)
            .and_then(|store| store.check())
            .map(|findings| findings.iter().any(StoreFinding::is_damage));
        match answer {
            Ok(is_damaged) => assert!(is_damaged, "{len} bytes"),
            Err(error) => assert!(
                matches!(error, StoreError::Corrupt { .. }),
                "{len}: {error}"
            ),
        }
    }
}

#[test]
fn flipped_bytes_never_panic_and_never_count_as_another_error() {
    let whole = healthy();
    for seed in 0..240_u8 {
        let mut bytes = whole.clone();
        for i in 0..8 {
            let seed = usize::from(seed);
            let at = (seed * 7919 + i * 104_729 + seed * seed * 31) % bytes.len();
            bytes[at] ^= 0xA5;
        }
        let dir = with_file(&bytes);
        let answer = open(dir.path(), Access::Write).and_then(|mut store| {
            for i in 0..50 {
                let seen = store.references(domain(i), NOW)?;
                store.apply(&change(domain(i), &seen, &[]))?;
            }
            store.mark_started(domain(seed % 50), NOW)?;
            store.history(EventFilter::All, 100)?;
            store.check().map(drop)
        });
        match answer {
            Ok(()) | Err(StoreError::Corrupt { .. } | StoreError::TooNew { .. }) => {}
            Err(StoreError::Missing | StoreError::Unavailable { .. })
                if bytes[..100] != whole[..100] => {}
            Err(other) => panic!("seed {seed}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_table_is_corrupt() {
    let (dir, store) = new_store();
    drop(store);
    raw(dir.path(), "DROP TABLE key_ref");
    let store = open(dir.path(), Access::Read).unwrap();
    let refused = store.references(domain(1), NOW).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Corrupt { .. }),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .ends_with("store.db: no such table: key_ref"),
        "{refused}"
    );
}
