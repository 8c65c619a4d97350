use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::prelude::*;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::domain::{StateSource, TpmVersion};
use crate::key::dek::Dek;

const DOMAIN: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// An encrypted state, and what opens it.
const STATE: &[u8] = include_bytes!("../../tests/vectors/tpm-state/tpm2-encrypted/tpm2-00.permall");
const PASSPHRASE: &[u8] = b"correct horse";
const LINEAR_STORE: &[u8] =
    include_bytes!("../../tests/vectors/tpm-state/linear-encrypted/state.linear");
const LINEAR_PASSPHRASE: &[u8] = b"one file";
/// Where the state in [`LINEAR_STORE`] ends; behind it is room.
const LINEAR_END: usize = 192 + 1404;

fn emulator(version: TpmVersion, source: Option<StateSource>) -> Emulator {
    Emulator {
        version,
        secret_uuid: None,
        persistent_state: false,
        source,
    }
}

fn path(version: TpmVersion, source: Option<StateSource>) -> PathBuf {
    let domain = DomainUuid::parse(DOMAIN).unwrap();
    state_path(Path::new("/states"), domain, &emulator(version, source))
}

/// A directory as libvirt's, and the place in it of the TPM 2.0 state of [`DOMAIN`].
fn states() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join(DOMAIN).join("tpm2/tpm2-00.permall");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    (dir, place)
}

fn read(states: &TempDir) -> StateFile {
    let domain = DomainUuid::parse(DOMAIN).unwrap();
    read_state(states.path(), domain, &emulator(TpmVersion::V2_0, None))
}

fn read_store(path: &Path) -> StateFile {
    let source = Some(StateSource::File(path.to_owned()));
    let domain = DomainUuid::parse(DOMAIN).unwrap();
    read_state(path, domain, &emulator(TpmVersion::V2_0, source))
}

fn reason(state: StateFile) -> String {
    match state {
        StateFile::Unreadable(reason) => reason,
        other => panic!("readable: {other:?}"),
    }
}

fn is_proven(contents: &Result<Contents, StateError>, passphrase: &[u8]) -> bool {
    let dek = Dek::from_bytes(Zeroizing::new(passphrase.to_vec()));
    matches!(contents, Ok(Contents::Encrypted(state)) if state.is_opened_by(&dek))
}

#[test]
fn the_place_of_a_state_is_where_libvirt_has_it() {
    use TpmVersion::{V1_2, V2_0};
    let dir = || Some(StateSource::Dir("/srv/tpm".into()));
    let file = || Some(StateSource::File("/dev/vg/tpm".into()));
    let default = PathBuf::from("/states").join(DOMAIN);

    assert_eq!(path(V2_0, None), default.join("tpm2/tpm2-00.permall"));
    assert_eq!(path(V1_2, None), default.join("tpm1.2/tpm-00.permall"));
    assert_eq!(path(V2_0, dir()), Path::new("/srv/tpm/tpm2-00.permall"));
    assert_eq!(path(V1_2, dir()), Path::new("/srv/tpm/tpm-00.permall"));
    assert_eq!(path(V2_0, file()), Path::new("/dev/vg/tpm"));
    assert_eq!(path(V1_2, file()), Path::new("/dev/vg/tpm"));
}

#[test]
fn a_state_is_read_where_libvirt_has_it() {
    let (states, place) = states();
    fs::write(&place, STATE).unwrap();
    assert!(matches!(read(&states), StateFile::Encrypted(_)));
}

#[test]
fn nothing_and_an_empty_directory_are_absent() {
    let (states, place) = states();
    assert!(matches!(read(&states), StateFile::Absent));
    fs::write(place.with_file_name(".lock"), "").unwrap();
    assert!(matches!(read(&states), StateFile::Absent));
    fs::remove_dir_all(states.path().join(DOMAIN)).unwrap();
    assert!(matches!(read(&states), StateFile::Absent));
    assert!(matches!(
        read_store(&states.path().join("store")),
        StateFile::Absent
    ));
}

#[test]
fn links_are_followed_to_the_file_and_to_the_directory() {
    let (states, place) = states();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("state"), STATE).unwrap();
    symlink(elsewhere.path().join("state"), &place).unwrap();
    assert!(matches!(read(&states), StateFile::Encrypted(_)));

    fs::rename(&place, elsewhere.path().join("tpm2-00.permall")).unwrap();
    fs::remove_dir(place.parent().unwrap()).unwrap();
    symlink(elsewhere.path(), place.parent().unwrap()).unwrap();
    assert!(matches!(read(&states), StateFile::Encrypted(_)));
}

#[test]
fn a_link_to_a_missing_state_is_absent_for_swtpm_replaces_it() {
    let (states, place) = states();
    symlink("/nowhere/state", place).unwrap();
    assert!(matches!(read(&states), StateFile::Absent));
}

#[test]
fn a_link_to_a_missing_directory_is_named_for_libvirt_cannot_make_it() {
    let (states, place) = states();
    fs::remove_dir_all(states.path().join(DOMAIN)).unwrap();
    symlink("/nowhere", states.path().join(DOMAIN)).unwrap();
    let named = format!("{DOMAIN} is a symbolic link to something that is not there");
    assert!(reason(read(&states)).contains(&named));
    let named = format!(
        "the directory {} is not there",
        place.parent().unwrap().display()
    );
    assert!(reason(read_store(&place)).contains(&named));
}

#[test]
fn what_is_no_file_is_unreadable_and_nobody_waits_for_it() {
    let (states, place) = states();
    fs::create_dir(&place).unwrap();
    assert!(reason(read(&states)).contains("it is a directory"));
    assert!(reason(read_store(&place)).contains("it is a directory"));

    fs::remove_dir(&place).unwrap();
    mkfifo(&place, Mode::S_IRWXU).unwrap();
    assert!(reason(read(&states)).contains("it is a FIFO"));
    assert!(reason(read_store(&place)).contains("it is a FIFO"));

    fs::remove_file(&place).unwrap();
    symlink("/dev/zero", &place).unwrap();
    assert!(reason(read(&states)).contains("neither a file nor a directory"));
    assert!(reason(read_store(&place)).contains("neither a file nor a directory"));
}

#[test]
fn a_file_on_the_way_is_unreadable_and_so_is_a_circle_of_links() {
    let (states, place) = states();
    symlink(&place, &place).unwrap();
    assert!(reason(read(&states)).contains("symbolic links"));

    let directory = place.parent().unwrap();
    fs::remove_dir_all(directory).unwrap();
    fs::write(directory, "").unwrap();
    assert!(reason(read(&states)).contains("Not a directory"));
}

#[test]
fn a_huge_file_is_not_read_to_its_end() {
    let (states, place) = states();
    let file = fs::File::create(&place).unwrap();
    file.set_len(u64::from(MAX_STATE_LEN)).unwrap();
    assert!(reason(read(&states)).contains("it should have 0 bytes"));
    file.set_len(1 << 40).unwrap();
    assert!(reason(read(&states)).contains("longer than any TPM state"));
}

#[test]
fn an_unchanged_state_is_proven_in_both_formats() {
    assert!(is_proven(&format::parse(STATE), PASSPHRASE));
    let permall = linear::read_permall(Cursor::new(&LINEAR_STORE[..LINEAR_END]));
    let permall = permall.unwrap().unwrap();
    assert!(is_proven(&format::parse(&permall), LINEAR_PASSPHRASE));
}

#[test]
fn a_linear_store_that_claims_too_much_is_refused_before_it_is_read() {
    let mut store = LINEAR_STORE.to_vec();
    store[16..20].copy_from_slice(&(MAX_STATE_LEN + 1).to_le_bytes());
    let read = linear::read_permall(Cursor::new(store));
    assert!(matches!(read, Err(StateError::TooLong)));
}

#[test]
fn encryption_of_version_1_is_refused_for_it_has_no_mac() {
    let blob = [1, 1, 0, 10, 0, 1, 0, 0, 0, 14, 1, 2, 3, 4];
    let parsed = format::parse(&blob);
    assert!(matches!(parsed, Err(StateError::EncryptedVersion1)));
}

#[test]
fn a_state_that_only_a_newer_swtpm_reads_is_refused() {
    for (version, min_version) in [(3, 3), (3, 1), (0, 0)] {
        let blob = [version, min_version, 0, 10, 0, 0, 0, 0, 0, 10];
        let parsed = format::parse(&blob);
        assert!(matches!(parsed, Err(StateError::Version(v)) if v == version));
    }
}

#[test]
fn the_border_between_data_and_iv_cannot_be_moved() {
    // The MAC covers both without a border; swtpm then fails at the IV's length.
    let mut blob = STATE.to_vec();
    let data_len = u32::from_be_bytes(blob[12..16].try_into().unwrap());
    let data_end = 16 + data_len as usize;
    let (data, iv) = (&STATE[16..data_end], &STATE[STATE.len() - 32..]);
    let mac = &STATE[data_end + 6..data_end + 38];
    let (shorter, moved) = data.split_at(data.len() - 32);
    blob.truncate(10);
    for (tag, value) in [
        (2_u16, shorter.to_vec()),
        (3, mac.to_vec()),
        (6, [moved, iv].concat()),
    ] {
        blob.extend(tag.to_be_bytes());
        blob.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        blob.extend(value);
    }
    assert_eq!(blob.len(), STATE.len());
    assert!(matches!(
        format::parse(&blob),
        Err(StateError::EncryptedData)
    ));
}

/// Where the ciphertext, the MAC and the IV of [`STATE`] are: behind each record's header.
fn is_protected(position: usize) -> bool {
    let data_end = STATE.len() - 32 - 6 - 32 - 6;
    let mac = data_end + 6..data_end + 38;
    (16..data_end).contains(&position) || mac.contains(&position) || position >= STATE.len() - 32
}

proptest! {
    #[test]
    fn a_flipped_bit_never_proves_where_it_counts(
        position in 0..STATE.len(),
        bit in 0..8_u32,
    ) {
        let mut blob = STATE.to_vec();
        blob[position] ^= 1_u8 << bit;
        let proven = is_proven(&format::parse(&blob), PASSPHRASE);
        prop_assert!(!(proven && is_protected(position)));
    }

    #[test]
    fn a_truncated_state_is_never_readable(len in 0..STATE.len()) {
        prop_assert!(format::parse(&STATE[..len]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic_nor_prove(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(!is_proven(&format::parse(&bytes), PASSPHRASE));
        let _ = linear::read_permall(Cursor::new(bytes));
    }

    #[test]
    fn arbitrary_records_never_panic_nor_prove(
        flags in any::<u16>(),
        records in prop::collection::vec((0..8_u16, 0..80_u32, prop::collection::vec(any::<u8>(), 0..80)), 0..6),
    ) {
        let mut blob = vec![2, 1, 0, 10];
        blob.extend(flags.to_be_bytes());
        blob.extend([0; 4]);
        for (tag, len, value) in records {
            blob.extend(tag.to_be_bytes());
            blob.extend(len.to_be_bytes());
            blob.extend(value);
        }
        let len = u32::try_from(blob.len()).unwrap();
        blob[6..10].copy_from_slice(&len.to_be_bytes());
        prop_assert!(!is_proven(&format::parse(&blob), PASSPHRASE));
    }

    #[test]
    fn a_truncated_linear_store_never_proves(len in 0..LINEAR_END) {
        let read = linear::read_permall(Cursor::new(&LINEAR_STORE[..len]));
        if let Ok(Some(permall)) = read {
            prop_assert!(!is_proven(&format::parse(&permall), LINEAR_PASSPHRASE));
        }
    }

    #[test]
    fn an_arbitrary_table_of_contents_never_panics_nor_reads_beyond_the_store(
        table in prop::collection::vec(any::<u8>(), 16),
    ) {
        let mut store = LINEAR_STORE.to_vec();
        store[8..24].copy_from_slice(&table);
        if let Ok(Some(permall)) = linear::read_permall(Cursor::new(store)) {
            prop_assert!(permall.len() <= LINEAR_STORE.len());
        }
    }
}
