//! Which file is read as a state, whatever is in its place.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::{LINEAR_STORE, STATE};
use crate::domain::{Emulator, StateSource, TpmVersion};
use crate::host::crash::armed;
use crate::host::sys;
use crate::ids::DomainUuid;
use crate::swtpm::{MAX_STATE_LEN, StateFile, StatePath, read_bytes, read_state, state_path};

const DOMAIN: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

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

/// A directory like libvirt's, and the path in it of the TPM 2.0 state of [`DOMAIN`].
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

/// Returns why swtpm would refuse it whatever the key.
fn damage(state: StateFile) -> String {
    match state {
        StateFile::Damaged(damage) => damage.how,
        other => panic!("not damaged: {other:?}"),
    }
}

/// Returns why it is unreadable.
fn unreadable(state: StateFile) -> String {
    match state {
        StateFile::Unreadable(reason) => reason,
        other => panic!("not unreadable: {other:?}"),
    }
}

/// Reads a state, which must not take long: a look that hangs is given up after three seconds.
fn read_at_once(states: &TempDir) -> StateFile {
    let started = Instant::now();
    let state = read(states);
    assert!(started.elapsed() < Duration::from_secs(2), "{state:?}");
    state
}

#[test]
fn the_path_of_a_state_is_that_of_libvirt() {
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
fn a_state_is_read_at_libvirts_path() {
    let (states, place) = states();
    fs::write(&place, STATE).unwrap();
    assert!(matches!(read(&states), StateFile::Encrypted(_)));
}

#[test]
fn a_missing_file_and_an_empty_directory_are_absent() {
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
fn below_it_no_link_is_followed() {
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
fn on_the_path_to_a_source_only_roots_links_are_followed() {
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

    // Other users could have made it.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let named = format!("{} is a link, made by ", link.display());
    assert!(damage(read_dir()).contains(&named));
    assert!(damage(read_store(&link.join("store"))).contains(&named));
    symlink("circle", target.join("circle")).unwrap();
    assert!(unreadable(read_store(&target.join("circle"))).contains("symbolic links"));
}

#[test]
fn a_link_to_a_missing_source_directory_is_unreadable_as_it_may_not_be_mounted() {
    let (_states, place) = states();
    let missing = place.parent().unwrap().join("missing");
    symlink("/nowhere", &missing).unwrap();
    let source = Some(StateSource::Dir(missing.clone()));
    let domain = DomainUuid::parse(DOMAIN).unwrap();
    let state = read_state(&missing, domain, &emulator(TpmVersion::V2_0, source));
    let named = format!(
        "{} is a symbolic link whose target does not exist",
        missing.display()
    );
    assert!(unreadable(state).contains(&named));
    let named = format!("the directory {} does not exist", missing.display());
    assert!(unreadable(read_store(&missing.join("store"))).contains(&named));
}

#[test]
fn anything_but_a_file_is_damage_and_is_not_waited_for() {
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
fn a_file_instead_of_a_directory_is_damage() {
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
    assert!(unreadable(read_at_once(&states)).contains("has a lease on it"));
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
    // A future TPM may be larger.
    let len = MAX_STATE_LEN + 1;
    file.set_len(len.into()).unwrap();
    let header = [&[2, 1, 0, 10, 0, 9][..], &len.to_be_bytes()].concat();
    file.write_all_at(&header, 0).unwrap();
    assert!(unreadable(read(&states)).contains("longer than any TPM state"));
}

#[test]
fn a_state_that_no_thread_could_read_for_a_moment_is_read_again() {
    let (states, place) = states();
    armed::refuse_threads(1);
    assert!(matches!(read_at_once(&states), StateFile::Absent));
    fs::write(&place, STATE).unwrap();
    armed::refuse_threads(1);
    assert!(matches!(read_at_once(&states), StateFile::Encrypted(_)));
    armed::refuse_threads(2);
    assert!(unreadable(read_at_once(&states)).contains("no thread to read it in"));
}
