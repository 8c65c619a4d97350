//! Backup and restore.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::super::testing::*;
use super::super::{Access, Store, StoreError, UnavailableReason};
use crate::clock::Timestamp;

fn restore(
    dir: &std::path::Path,
    from: &std::path::Path,
) -> Result<crate::store::backup::Restored, StoreError> {
    Store::restore(dir, from, Timestamp(1_800_000_000_123), soon())
}

fn names(store: &Store) -> Vec<String> {
    store
        .providers()
        .unwrap()
        .into_iter()
        .map(|it| it.name)
        .collect()
}

/// A store with one provider of that name, and a backup of it.
fn store_and_backup(name: &str) -> (TempDir, Store, TempDir, std::path::PathBuf) {
    let (dir, mut store) = new_store();
    make_provider(&mut store, name, 1);
    let shelf = TempDir::new().unwrap();
    let backup = shelf.path().join("store.backup");
    store.backup(&backup, soon()).unwrap();
    (dir, store, shelf, backup)
}

#[test]
fn a_backup_is_one_private_file_with_everything_in_it() {
    let (_dir, _store, shelf, backup) = store_and_backup("p");
    assert_eq!(fs::read_dir(shelf.path()).unwrap().count(), 1);
    assert_eq!(
        fs::metadata(&backup).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(
        fs::read(&backup).unwrap()[18],
        1,
        "no write-ahead log belongs to it"
    );
    let elsewhere = TempDir::new().unwrap();
    fs::copy(&backup, elsewhere.path().join("store.db")).unwrap();
    let copy = open(elsewhere.path(), Access::Write).unwrap();
    assert_eq!(names(&copy), ["p"]);
    assert_eq!(copy.check().unwrap(), []);
}

#[test]
fn a_backup_overwrites_no_file() {
    let (_dir, store, _shelf, backup) = store_and_backup("p");
    let before = fs::read(&backup).unwrap();
    let refused = store.backup(&backup, soon());
    assert!(matches!(
        refused,
        Err(StoreError::Unavailable {
            reason: UnavailableReason::Io(_),
            ..
        })
    ));
    assert_eq!(fs::read(&backup).unwrap(), before);
}

#[test]
fn a_restore_replaces_the_store_and_keeps_the_previous_one() {
    let (dir, mut store, _shelf, backup) = store_and_backup("p");
    make_provider(&mut store, "later", 2);
    let previous = restore(dir.path(), &backup).unwrap().previous.unwrap();
    assert_eq!(names(&store), ["p"], "a store that is open sees it too");
    assert_eq!(names(&open(dir.path(), Access::Read).unwrap()), ["p"]);
    assert_eq!(
        previous.file_name().unwrap(),
        "store.db.replaced-20270115T080000.123Z"
    );
    assert_eq!(
        fs::metadata(&previous).unwrap().permissions().mode() & 0o7777,
        0o600
    );

    restore(dir.path(), &previous).unwrap_err();
    Store::restore(dir.path(), &previous, Timestamp(0), soon()).unwrap();
    assert_eq!(names(&store), ["later", "p"], "and back again");
    make_provider(&mut store, "after", 3);
}

#[test]
fn a_restore_creates_a_missing_store() {
    let (_dir, _store, shelf, backup) = store_and_backup("p");
    let state_dir = shelf.path().join("new");
    assert_eq!(restore(&state_dir, &backup).unwrap().previous, None);
    assert_eq!(fs::read_dir(&state_dir).unwrap().count(), 1);
    assert_eq!(names(&open(&state_dir, Access::Write).unwrap()), ["p"]);
}

#[test]
fn a_restore_replaces_a_store_that_cannot_be_opened() {
    let (_dir, _store, _shelf, backup) = store_and_backup("p");
    let broken = TempDir::new().unwrap();
    for garbage in [b"garbage".repeat(2000), vec![0; 5]] {
        fs::write(broken.path().join("store.db"), &garbage).unwrap();
        fs::write(broken.path().join("store.db-wal"), "garbage too").unwrap();
        let previous = restore(broken.path(), &backup).unwrap().previous.unwrap();
        assert_eq!(fs::read(&previous).unwrap(), garbage);
        assert_eq!(names(&open(broken.path(), Access::Write).unwrap()), ["p"]);
        fs::remove_file(previous).unwrap();
    }
}

#[test]
fn a_restore_replaces_a_newer_store() {
    let (dir, store, _shelf, backup) = store_and_backup("p");
    drop(store);
    raw(dir.path(), "PRAGMA user_version = 99");
    restore(dir.path(), &backup).unwrap();
    assert_eq!(names(&open(dir.path(), Access::Write).unwrap()), ["p"]);
}

#[test]
fn another_page_size_is_accepted_without_a_store_and_reported_with_one() {
    let (dir, store, shelf, backup) = store_and_backup("p");
    rusqlite::Connection::open(&backup)
        .unwrap()
        .execute_batch("PRAGMA page_size = 1024; VACUUM")
        .unwrap();
    let refused = restore(dir.path(), &backup);
    let (store_size, backup_size) = match refused {
        Err(StoreError::Unavailable {
            reason: UnavailableReason::PageSize { store, backup },
            ..
        }) => (store, backup),
        other => panic!("{other:?}"),
    };
    assert_eq!((store_size, backup_size), (4096, 1024));
    assert_eq!(names(&store), ["p"]);
    let new = shelf.path().join("new");
    restore(&new, &backup).unwrap();
    assert_eq!(open(&new, Access::Write).unwrap().check().unwrap(), []);
}

#[test]
fn a_copy_of_a_store_in_use_is_read_with_its_log() {
    let (_dir, mut store) = new_store();
    make_provider(&mut store, "p", 1);
    let source = store.path.clone();
    let shelf = TempDir::new().unwrap();
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", source.display());
        fs::copy(from, shelf.path().join(format!("copy{suffix}"))).unwrap();
    }
    let target = TempDir::new().unwrap();
    restore(target.path(), &shelf.path().join("copy")).unwrap();
    assert_eq!(names(&open(target.path(), Access::Read).unwrap()), ["p"]);
}

#[test]
fn a_backup_of_any_length_is_not_copied_into_memory() {
    let (dir, _store, shelf, backup) = store_and_backup("p");
    let huge = shelf.path().join("huge");
    fs::copy(&backup, &huge).unwrap();
    let file = fs::File::options().write(true).open(&huge).unwrap();
    // Of holes: it takes no room on the disk.
    file.set_len(1 << 40).unwrap();
    let started = std::time::Instant::now();
    let restored = restore(dir.path(), &huge);
    let opened = Store::open_copy(&huge, soon());
    for error in [restored.err().unwrap(), opened.err().unwrap()] {
        let words = error.to_string();
        let too_long = "it has 1099511627776 bytes, more than a backup of a store";
        assert!(words.ends_with(too_long), "{words}");
    }
    assert!(started.elapsed().as_secs() < 2);
}

#[test]
fn a_file_that_is_not_a_whole_store_is_refused_and_nothing_changes() {
    type Expected = fn(&StoreError) -> bool;
    let (dir, mut store, shelf, backup) = store_and_backup("p");
    make_provider(&mut store, "kept", 2);
    let whole = fs::read(&backup).unwrap();
    let mut torn = whole.clone();
    torn[4096..5000].fill(0xFF);
    let other = TempDir::new().unwrap();
    raw(other.path(), "CREATE TABLE bookmarks (url)");
    let newer = TempDir::new().unwrap();
    fs::copy(&backup, newer.path().join("store.db")).unwrap();
    raw(newer.path(), "PRAGMA user_version = 99");
    let cases: [(&str, Vec<u8>, Expected); 6] = [
        ("nothing", vec![], |it| {
            matches!(
                it,
                StoreError::Unavailable {
                    reason: UnavailableReason::NotAStore,
                    ..
                }
            )
        }),
        ("garbage", b"garbage".repeat(999), |it| {
            matches!(it, StoreError::Corrupt { .. })
        }),
        ("torn", torn, |it| matches!(it, StoreError::Corrupt { .. })),
        ("cut", whole[..whole.len() - 8192].to_vec(), |it| {
            matches!(it, StoreError::Corrupt { .. })
        }),
        (
            "foreign",
            fs::read(other.path().join("store.db")).unwrap(),
            |it| {
                matches!(
                    it,
                    StoreError::Unavailable {
                        reason: UnavailableReason::NotAStore,
                        ..
                    }
                )
            },
        ),
        (
            "newer",
            fs::read(newer.path().join("store.db")).unwrap(),
            |it| matches!(it, StoreError::TooNew { found: 99, .. }),
        ),
    ];
    for (what, bytes, is_expected) in cases {
        let file = shelf.path().join(what);
        fs::write(&file, bytes).unwrap();
        let refused = restore(dir.path(), &file).unwrap_err();
        assert!(is_expected(&refused), "{what}: {refused:?}");
        assert_eq!(names(&store), ["kept", "p"], "{what}");
    }
    let missing = restore(dir.path(), &shelf.path().join("not there"));
    assert!(matches!(
        missing,
        Err(StoreError::Unavailable {
            reason: UnavailableReason::Io(_),
            ..
        })
    ));
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(
        left, 3,
        "the store, its log and its index, and no side copy"
    );
}

#[test]
fn a_backup_that_another_tool_made_is_migrated() {
    let (_dir, _store, _shelf, backup) = store_and_backup("p");
    rusqlite::Connection::open(&backup)
        .unwrap()
        .execute_batch("DROP TABLE arriving; DROP TABLE seen_state; PRAGMA application_id = 0; PRAGMA user_version = 0")
        .unwrap();
    let target = TempDir::new().unwrap();
    restore(target.path(), &backup).unwrap();
    let store = open(target.path(), Access::Write).unwrap();
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn two_restores_and_writers_at_once_leave_a_whole_store() {
    let (dir, _store, _shelf, backup) = store_and_backup("p");
    std::thread::scope(|scope| {
        for i in 0..4_u8 {
            let (dir, backup) = (dir.path(), &backup);
            scope.spawn(move || {
                if i < 2 {
                    Store::restore(dir, backup, Timestamp(i64::from(i)), soon()).unwrap();
                } else {
                    let mut store = open(dir, Access::Write).unwrap();
                    for _ in 0..20 {
                        store.record_event(&event(domain(i), "vm", NOW)).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(open(dir.path(), Access::Read).unwrap().check().unwrap(), []);
}

/// What the owner of a backup's directory may do to it while root writes there.
#[test]
fn a_backup_touches_no_other_file_while_the_directorys_owner_swaps_files() {
    let (_dir, mut store) = new_store();
    make_provider(&mut store, "p", 1);
    let (shelf, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let text = elsewhere.path().join("precious");
    let database = elsewhere.path().join("other.db");
    fs::write(&text, "precious").unwrap();
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute_batch("CREATE TABLE other (x)")
        .unwrap();
    let targets = [&text, &database].map(|path| (path.clone(), fs::read(path).unwrap()));

    let backup = shelf.path().join("x.db");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let link = shelf.path().join("link");
            for (target, _) in targets.iter().cycle() {
                if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                // Whatever is there just now, the link takes its place.
                for entry in fs::read_dir(shelf.path()).unwrap().flatten() {
                    let _ = std::os::unix::fs::symlink(target, &link);
                    let _ = fs::rename(&link, entry.path());
                }
            }
        });
        for _ in 0..300 {
            // It may be refused, for the name is taken.
            let _ = store.backup(&backup, soon());
            let _ = fs::remove_file(&backup);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for (target, content) in targets {
        assert_eq!(fs::read(&target).unwrap(), content, "{}", target.display());
    }
}

#[test]
fn a_backup_with_a_trigger_or_a_view_is_not_restored() {
    for (sql, kind, name) in [
        (
            "CREATE TRIGGER t\u{1b} AFTER UPDATE OF wrapped_dek ON key_ref
             BEGIN UPDATE key_ref SET wrapped_dek = randomblob(9) WHERE id = new.id; END",
            "trigger",
            "t\u{1b}",
        ),
        ("CREATE VIEW v AS SELECT * FROM key_ref", "view", "v"),
    ] {
        let (dir, store, _shelf, backup) = store_and_backup("p");
        let other = rusqlite::Connection::open(&backup).unwrap();
        other
            .execute_batch(&sql.replace("t\u{1b}", "\"t\u{1b}\""))
            .unwrap();
        drop(other);
        match restore(dir.path(), &backup) {
            Err(error @ StoreError::Unavailable { .. }) => {
                let words = error.to_string();
                assert!(words.contains(&format!("{kind} {name:?}")), "{words}");
                assert!(!words.contains('\u{1b}'), "{words}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(names(&store), ["p"]);
        Store::open_copy(&backup, soon()).unwrap();
    }
}
