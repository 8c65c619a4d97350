use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::prelude::*;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::domain::{StateSource, TpmVersion};
use crate::host::sys;
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

/// Why swtpm would refuse it whatever the key.
fn damage(state: StateFile) -> String {
    match state {
        StateFile::Damaged(reason) => reason,
        other => panic!("not damaged: {other:?}"),
    }
}

/// Why nothing is known of it.
fn doubt(state: StateFile) -> String {
    match state {
        StateFile::Unreadable(reason) => reason,
        other => panic!("not in doubt: {other:?}"),
    }
}

/// Reads a state, which must not take longer than an honest one does.
fn read_at_once(states: &TempDir) -> StateFile {
    let started = Instant::now();
    let state = read(states);
    assert!(started.elapsed() < Duration::from_millis(100), "{state:?}");
    state
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
fn links_are_followed_down_to_libvirts_directory_of_states() {
    let (states, place) = states();
    fs::write(&place, STATE).unwrap();
    let disk = tempfile::tempdir().unwrap();
    let link = disk.path().join("swtpm");
    for target in [states.path(), Path::new("relative")] {
        symlink(states.path(), disk.path().join("relative")).ok();
        fs::remove_file(&link).ok();
        symlink(target, &link).unwrap();
        let domain = DomainUuid::parse(DOMAIN).unwrap();
        let state = read_state(&link, domain, &emulator(TpmVersion::V2_0, None));
        assert!(matches!(state, StateFile::Encrypted(_)), "{state:?}");
    }
}

#[test]
fn below_it_no_link_is_followed_wherever_it_leads() {
    let (states, place) = states();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("tpm2-00.permall"), STATE).unwrap();
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, "root:$y$TOP-SECRET-OF-ROOT").unwrap();
    let relative = Path::new("../../../..").join(secret.strip_prefix("/").unwrap());
    let targets = [
        secret.as_path(),
        &relative,
        &elsewhere.path().join("tpm2-00.permall"),
        Path::new("/proc/kmsg"),
        Path::new("/sys/kernel/uevent_seqnum"),
        Path::new("/dev/zero"),
        Path::new("/nowhere/state"),
        &place,
    ];
    for target in targets {
        symlink(target, &place).unwrap();
        let reason = damage(read_at_once(&states));
        let named = format!("{} is a link, made by ", place.display());
        assert!(reason.contains(&named), "{reason}");
        assert!(
            !reason.contains("SECRET") && !reason.contains("root:"),
            "{reason}"
        );
        let vtpm = emulator(TpmVersion::V2_0, None);
        let place_of_it = StatePath::of(states.path(), DomainUuid::parse(DOMAIN).unwrap(), &vtpm);
        assert!(read_bytes(&place_of_it).is_err());
        fs::remove_file(&place).unwrap();
    }
    for directory in [place.parent().unwrap(), place.ancestors().nth(2).unwrap()] {
        fs::remove_dir_all(directory).unwrap();
        symlink(elsewhere.path(), directory).unwrap();
        let named = format!("{} is a link, made by ", directory.display());
        assert!(damage(read_at_once(&states)).contains(&named));
        fs::remove_file(directory).unwrap();
        fs::create_dir_all(directory).unwrap();
    }
}

#[test]
fn on_the_way_to_a_source_only_links_of_roots_own_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    fs::create_dir(&target).unwrap();
    fs::write(target.join("tpm2-00.permall"), STATE).unwrap();
    fs::write(target.join("store"), LINEAR_STORE).unwrap();
    symlink("target", &link).unwrap();
    let read_dir = || {
        let source = Some(StateSource::Dir(link.clone()));
        let domain = DomainUuid::parse(DOMAIN).unwrap();
        read_state(&link, domain, &emulator(TpmVersion::V2_0, source))
    };
    assert!(matches!(read_dir(), StateFile::Encrypted(_)));
    assert!(matches!(
        read_store(&link.join("store")),
        StateFile::Encrypted(_)
    ));
    symlink("store", target.join("device")).unwrap();
    assert!(matches!(
        read_store(&link.join("device")),
        StateFile::Encrypted(_)
    ));

    // Others could have put it there.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let named = format!("{} is a link, made by ", link.display());
    assert!(damage(read_dir()).contains(&named));
    assert!(damage(read_store(&link.join("store"))).contains(&named));
    symlink("circle", target.join("circle")).unwrap();
    assert!(doubt(read_store(&target.join("circle"))).contains("symbolic links"));
}

#[test]
fn a_link_to_a_missing_source_directory_is_in_doubt_for_it_may_not_be_mounted() {
    let (_states, place) = states();
    let missing = place.parent().unwrap().join("missing");
    symlink("/nowhere", &missing).unwrap();
    let source = Some(StateSource::Dir(missing.clone()));
    let domain = DomainUuid::parse(DOMAIN).unwrap();
    let state = read_state(&missing, domain, &emulator(TpmVersion::V2_0, source));
    let named = format!("{} is a symbolic link to something", missing.display());
    assert!(doubt(state).contains(&named));
    let named = format!("the directory {} is not there", missing.display());
    assert!(doubt(read_store(&missing.join("store"))).contains(&named));
}

#[test]
fn what_is_no_file_is_damage_and_nobody_waits_for_it() {
    let (states, place) = states();
    fs::create_dir(&place).unwrap();
    assert!(damage(read_at_once(&states)).contains("it is a directory"));
    assert!(damage(read_store(&place)).contains("it is a directory"));

    fs::remove_dir(&place).unwrap();
    mkfifo(&place, Mode::S_IRWXU).unwrap();
    assert!(damage(read_at_once(&states)).contains("it is a FIFO"));
    assert!(damage(read_store(&place)).contains("it is a FIFO"));

    assert!(damage(read_store(Path::new("/dev/zero"))).contains("neither a file nor a directory"));
    assert!(damage(read_store(Path::new("/proc/version"))).contains("procfs"));
    let sysfs = Path::new("/sys/kernel/uevent_seqnum");
    assert!(!sysfs.exists() || damage(read_store(sysfs)).contains("sysfs"));
}

#[test]
fn a_file_on_the_way_is_damage() {
    let (states, place) = states();
    let directory = place.parent().unwrap();
    fs::remove_dir_all(directory).unwrap();
    fs::write(directory, "").unwrap();
    assert!(damage(read(&states)).contains("is not a directory"));
}

#[test]
fn a_lease_is_not_waited_for() {
    let (states, place) = states();
    fs::write(&place, STATE).unwrap();
    let file = fs::File::options().write(true).open(&place).unwrap();
    sys::take_lease(&file).unwrap();
    assert!(doubt(read_at_once(&states)).contains("has a lease on it"));
    drop(file);
    assert!(matches!(read_at_once(&states), StateFile::Encrypted(_)));
}

#[test]
fn a_huge_file_is_not_read_to_its_end() {
    let (states, place) = states();
    let file = fs::File::create(&place).unwrap();
    file.set_len(u64::from(MAX_STATE_LEN)).unwrap();
    assert!(damage(read(&states)).contains("its length (8388608 bytes)"));
    file.set_len(1 << 40).unwrap();
    assert!(damage(read(&states)).contains("damaged or no TPM state"));
    // A TPM of the future may be larger.
    let len = MAX_STATE_LEN + 1;
    file.set_len(len.into()).unwrap();
    let header = [&[2, 1, 0, 10, 0, 9][..], &len.to_be_bytes()].concat();
    file.write_all_at(&header, 0).unwrap();
    assert!(doubt(read(&states)).contains("longer than any TPM state"));
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
fn a_state_that_only_a_newer_swtpm_reads_is_not_called_damaged() {
    for (version, min_version) in [(3, 3), (3, 1), (2, 3), (15, 15)] {
        // A newer header may be longer.
        for header_len in [10, 24] {
            let mut blob = vec![version, min_version, 0, header_len, 0, 0, 0, 0, 0, 40];
            blob.resize(40, 7);
            let parsed = format::parse(&blob);
            let newest = version.max(min_version);
            assert!(matches!(parsed, Err(StateError::Version(v)) if v == newest));
            let state = state_in(&blob, Backend::Directory);
            assert!(matches!(state, StateFile::Unreadable(_)), "{state:?}");
        }
    }
    for (version, min_version) in [(0, 0), (16, 1), (2, 200), (255, 255)] {
        let blob = [version, min_version, 0, 10, 0, 0, 0, 0, 0, 10];
        assert!(matches!(format::parse(&blob), Err(StateError::Header)));
    }
}

/// What swtpm 0.8 to 0.10, started by libvirt with a 256-bit key, makes of a file in its place,
/// whatever the key: `SWTPM_NVRAM_LoadData`, `SWTPM_NVRAM_CheckHeader`,
/// `SWTPM_NVRAM_DecryptData` (`src/swtpm/swtpm_nvstore.c`), written down once more, in its order.
mod model {
    /// Whether some key could open it.
    pub(super) fn could_start_with_a_key(file: &[u8]) -> bool {
        let (version, flags, body) = header(file);
        match version {
            // Decrypted without a MAC: AES-CBC wants whole blocks.
            1 => body.len() >= 32 && body.len().is_multiple_of(16),
            2 => {
                let find = |tag| record(body, tag);
                let iv_fits = find(6).is_none_or(|iv| iv.len() == 32);
                let data_fits =
                    find(2).is_some_and(|data| data.len() >= 32 && data.len().is_multiple_of(16));
                flags & 8 != 0 && find(3).is_some_and(|mac| mac.len() >= 32) && data_fits && iv_fits
            }
            _ => false,
        }
    }

    /// Whether libtpms gets something that begins as its own data does.
    pub(super) fn could_start_without_a_key(file: &[u8]) -> bool {
        let (version, _, body) = header(file);
        let data = match version {
            1 => Some(body),
            2 => record(body, 1),
            _ => None,
        };
        data.is_some_and(|data| {
            data.get(2..6) == Some(&[0xab, 0x36, 0x47, 0x23]) || data.starts_with(&[0, 1, 0, 0x22])
        })
    }

    /// Version, flags and body; a file without a valid header counts as one of version 1.
    fn header(file: &[u8]) -> (u8, u16, &[u8]) {
        let headerless = (1, 0, file);
        if file.len() < 10 {
            return headerless;
        }
        let long = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        let short = |at: usize| u16::from_be_bytes(file[at..at + 2].try_into().unwrap());
        if u64::from(long(6)) != file.len() as u64 || file[1] > 2 || short(2) != 10 {
            return headerless;
        }
        (file[0], short(4), &file[10..])
    }

    fn record(mut body: &[u8], wanted: u16) -> Option<&[u8]> {
        while body.len() >= 6 {
            let tag = u16::from_be_bytes(body[..2].try_into().unwrap());
            let len = u32::from_be_bytes(body[2..6].try_into().unwrap()) as usize;
            let value = body.get(6..6 + len)?;
            if tag == wanted {
                return Some(value);
            }
            body = &body[6 + len..];
        }
        None
    }
}

/// Nothing is called startable that the model refuses, and nothing damaged that it starts from;
/// except what has neither header nor MAC, which no libvirt ever made.
fn agrees_with_the_model(file: &[u8]) {
    let state = state_in(file, Backend::Directory);
    let (with_key, without) = (
        model::could_start_with_a_key(file),
        model::could_start_without_a_key(file),
    );
    match &state {
        StateFile::Encrypted(_) => assert!(with_key, "{file:?}"),
        StateFile::Plain => assert!(without, "{file:?}"),
        StateFile::Damaged(why) => {
            let has_header = file.len() >= 10
                && u64::from(u32::from_be_bytes(file[6..10].try_into().unwrap()))
                    == file.len() as u64;
            assert!(!without || !has_header, "{why}: {file:?}");
            assert!(
                !with_key || !has_header || file[1] > 2 || file[2..4] != [0, 10],
                "{why}: {file:?}"
            );
        }
        StateFile::Unreadable(_) => {}
        StateFile::Absent => panic!("absent: {file:?}"),
    }
}

#[test]
fn every_vector_and_what_befalls_files_agrees_with_the_model() {
    let plain = include_bytes!("../../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall");
    let plain_1_2 = include_bytes!("../../tests/vectors/tpm-state/tpm1.2-plain/tpm-00.permall");
    let random: Vec<_> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for whole in [STATE, plain, plain_1_2] {
        agrees_with_the_model(whole);
        assert!(!matches!(
            state_in(whole, Backend::Directory),
            StateFile::Damaged(_)
        ));
        for cut in [0, 1, 9, 10, 15, whole.len() / 2, whole.len() - 1] {
            agrees_with_the_model(&whole[..cut]);
            assert!(matches!(
                state_in(&whole[..cut], Backend::Directory),
                StateFile::Damaged(_)
            ));
        }
    }
    for other in [&random[..], &[0; 4096], b"# a text file\n", LINEAR_STORE] {
        agrees_with_the_model(other);
        assert!(matches!(
            state_in(other, Backend::Directory),
            StateFile::Damaged(_)
        ));
    }
    // As swtpm wrote plain states before they had a header; 0.8 has forgotten them.
    assert!(matches!(
        format::parse(&plain[16..]),
        Err(StateError::Headerless)
    ));
    // With the flag for a 256-bit key gone, libvirt's swtpm takes no key at all.
    let mut short_key = STATE.to_vec();
    short_key[5] ^= 8;
    agrees_with_the_model(&short_key);
    assert!(matches!(
        state_in(&short_key, Backend::Directory),
        StateFile::Damaged(_)
    ));
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
    fn what_the_model_of_swtpm_refuses_is_never_called_startable(
        file in prop::sample::select(vec![
            STATE.to_vec(),
            include_bytes!("../../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall").to_vec(),
        ]),
        changes in prop::collection::vec((0..60_usize, any::<u8>()), 0..4),
        len in prop::option::of(0..1500_usize),
        fix_length in any::<bool>(),
    ) {
        let mut file = file;
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Some(len) = len {
            file.resize(len, 0);
        }
        if fix_length && file.len() >= 10 {
            let len = u32::try_from(file.len()).unwrap();
            file[6..10].copy_from_slice(&len.to_be_bytes());
        }
        agrees_with_the_model(&file);
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
