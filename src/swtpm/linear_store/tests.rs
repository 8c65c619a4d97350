use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::domain::{Emulator, StateSource, TpmVersion};
use crate::ids::DomainUuid;
use crate::swtpm::linear::read_permall;

/// As swtpm made it.
const PLAIN: &[u8] = include_bytes!("../../../tests/vectors/tpm-state/linear-plain/state.linear");

fn with_store(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.linear");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn lock(path: &Path) -> Result<Option<LinearStore>, LockError> {
    let vtpm = Emulator {
        version: TpmVersion::V2_0,
        secret_uuid: None,
        source: Some(StateSource::File(path.to_owned())),
        persistent_state: false,
    };
    let domain = DomainUuid::random();
    LinearStore::lock(&StatePath::of(Path::new("/nowhere"), domain, &vtpm))
}

fn permall(path: &Path) -> Vec<u8> {
    read_permall(fs::File::open(path).unwrap())
        .unwrap()
        .unwrap()
}

/// Whether any of the bytes of `old` are still in the file, as long as a cipher's block.
fn has_remains(path: &Path, old: &[u8]) -> bool {
    let file = fs::read(path).unwrap();
    let mut blocks = old
        .chunks_exact(32)
        .filter(|block| block.iter().any(|&byte| byte != 0));
    blocks.any(|block| file.windows(32).any(|found| found == block))
}

fn replace(path: &Path, state: &[u8]) {
    let mut store = lock(path).unwrap().unwrap();
    store.stage(state).unwrap();
    assert!(matches!(store.install(), Ok(OldState::Erased)));
    assert!(!store.has_remains().unwrap());
}

#[test]
fn a_state_is_replaced_again_and_again_and_nothing_of_the_old_ones_stays() {
    let (_dir, path) = with_store(PLAIN);
    let mut old = permall(&path);
    for (nth, len) in [old.len() + 72, 9000, 100, 70_000, 70_000, 3000]
        .into_iter()
        .enumerate()
    {
        let new = vec![b'a' + u8::try_from(nth).unwrap(); len];
        replace(&path, &new);
        assert_eq!(permall(&path), new);
        assert!(!has_remains(&path, &old));
        // swtpm allows its states to grow into sections whose length is a power of two.
        let header = Header::read(&mut fs::File::open(&path).unwrap())
            .unwrap()
            .unwrap();
        let section = header.permall().unwrap();
        assert!(section.len.is_power_of_two() && section.len >= section.data_len);
        assert_eq!(fs::metadata(&path).unwrap().len(), section.end());
        old = new;
    }
}

#[test]
fn a_staged_state_that_is_not_installed_leaves_the_file_as_it_was() {
    let (_dir, path) = with_store(PLAIN);
    let mut store = lock(&path).unwrap().unwrap();
    store.stage(&[b'n'; 7000]).unwrap();
    assert_eq!(permall(&path), store.read().unwrap().to_vec());
    assert_ne!(fs::read(&path).unwrap(), PLAIN);
    drop(store);
    let left = fs::read(&path).unwrap();
    assert!(PLAIN.starts_with(&left) && PLAIN[left.len()..].iter().all(|&byte| byte == 0));
}

#[test]
fn an_old_state_that_cannot_be_overwritten_is_reported_and_seen() {
    let (_dir, path) = with_store(PLAIN);
    let old = permall(&path);
    let mut store = lock(&path).unwrap().unwrap();
    assert!(!store.has_remains().unwrap());
    store.stage(&[b'n'; 7000]).unwrap();
    crash::armed::fail_at(1);
    assert!(matches!(store.install(), Ok(OldState::Left(_))));
    assert_eq!(permall(&path), [b'n'; 7000]);
    assert!(has_remains(&path, &old) && store.has_remains().unwrap());
    store.erase_unused().unwrap();
    assert!(!has_remains(&path, &old) && !store.has_remains().unwrap());
}

#[test]
fn what_is_unused_is_outside_of_all_sections() {
    let section = |offset, len| Section {
        offset,
        data_len: len,
        len,
    };
    let parts = |sections: &[Section], len| {
        let parts = unused(sections.iter().copied(), len).into_iter();
        parts.map(|part| (part.start, part.end)).collect::<Vec<_>>()
    };
    assert_eq!(parts(&[], 192), []);
    assert_eq!(parts(&[], 300), [(192, 300)]);
    assert_eq!(parts(&[section(192, 64)], 256), []);
    let both = [section(1000, 100), section(300, 100)];
    let between = [(192, 300), (400, 1000), (1100, 1200)];
    assert_eq!(parts(&both, 1200), between);
    // Cut off, or with entries that overlap.
    assert_eq!(parts(&both, 350), [(192, 300)]);
    let overlapping = [section(192, 500), section(300, 8)];
    assert_eq!(parts(&overlapping, 700), [(692, 700)]);
}

#[test]
fn only_one_process_at_a_time_locks_a_store() {
    let (_dir, path) = with_store(PLAIN);
    let held = lock(&path).unwrap().unwrap();
    assert!(matches!(lock(&path), Err(LockError::InUse)));
    drop(held);
    assert!(lock(&path).unwrap().is_some());
}

#[test]
fn what_is_no_store_or_holds_more_is_left_alone() {
    for absent in [&PLAIN[..0], &[0; 500]] {
        let (_dir, path) = with_store(absent);
        assert!(lock(&path).unwrap().is_none());
        assert_eq!(fs::read(&path).unwrap(), absent);
    }
    let mut volatile = PLAIN.to_vec();
    volatile[PERMALL_ENTRY + 12] = 1;
    let (_dir, path) = with_store(&volatile);
    assert!(matches!(lock(&path), Err(LockError::Volatile(_))));
    let mut into_the_header = PLAIN.to_vec();
    into_the_header[PERMALL_ENTRY] = 1;
    for broken in [&into_the_header[..], b"another file"] {
        let (_dir, path) = with_store(broken);
        assert!(matches!(lock(&path), Err(LockError::State(error)) if error.is_damage()));
        assert_eq!(fs::read(&path).unwrap(), broken);
    }
    assert!(lock(Path::new("/nowhere/at/all")).is_err());
    assert!(matches!(
        lock(Path::new("/dev/null")),
        Err(LockError::State(_))
    ));
}
