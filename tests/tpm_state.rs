//! TPM states that swtpm made, read and proven: those of tests/vectors/tpm-state, and fresh ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde::Deserialize;
use vtpm_guard::internals::domain::{Emulator, StateSource, TpmVersion};
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::swtpm::{
    LockHolder, LockProblem, StateFile, StatePath, lock_problem, read_state,
};
use vtpm_guard::internals::verdict::facts::Damage;
use zeroize::Zeroizing;

#[derive(Deserialize)]
struct Vectors {
    state: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    tpm: String,
    source: String,
    kind: String,
    #[serde(default)]
    opened_by: Vec<String>,
    #[serde(default)]
    refuted_by: Vec<String>,
    #[serde(default)]
    reason: String,
    #[serde(default, rename = "made")]
    _made: String,
}

fn vectors_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tpm-state")
}

fn read(source: StateSource, version: TpmVersion) -> StateFile {
    let emulator = Emulator {
        version,
        secret_uuid: None,
        persistent_state: false,
        source: Some(source),
    };
    read_state(Path::new("/nowhere"), DomainUuid::random(), &emulator)
}

fn dek(passphrase: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(passphrase.to_vec()))
}

fn dek_of_hex(hex: &str) -> Dek {
    let digits = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
    dek(&bytes)
}

fn check(vector: &Vector) {
    let dir = vectors_dir().join(&vector.name);
    let source = match vector.source.as_str() {
        "dir" => StateSource::Dir(dir),
        "file" => StateSource::File(dir.join("state.linear")),
        other => panic!("{}: source {other}", vector.name),
    };
    let version = match vector.tpm.as_str() {
        "1.2" => TpmVersion::V1_2,
        "2.0" => TpmVersion::V2_0,
        other => panic!("{}: tpm {other}", vector.name),
    };
    match (vector.kind.as_str(), read(source, version)) {
        ("absent", StateFile::Absent) | ("plain", StateFile::Plain) => {}
        ("damaged", StateFile::Damaged(Damage { how: reason, .. }))
        | ("unreadable", StateFile::Unreadable(reason)) => {
            assert!(!vector.reason.is_empty(), "{}", vector.name);
            assert!(reason.contains(&vector.reason), "{}: {reason}", vector.name);
        }
        ("encrypted", StateFile::Encrypted(state)) => {
            assert!(!vector.opened_by.is_empty(), "{}", vector.name);
            for hex in &vector.opened_by {
                assert!(
                    state.is_opened_by(&dek_of_hex(hex)),
                    "{}: {hex}",
                    vector.name
                );
            }
            for hex in &vector.refuted_by {
                assert!(
                    !state.is_opened_by(&dek_of_hex(hex)),
                    "{}: {hex}",
                    vector.name
                );
            }
        }
        (kind, found) => panic!("{}: {found:?}, should be {kind}", vector.name),
    }
}

#[test]
fn every_vector_is_what_its_description_says() {
    let text = fs::read_to_string(vectors_dir().join("vectors.toml")).unwrap();
    let vectors: Vectors = toml::from_str(&text).unwrap();
    vectors.state.iter().for_each(check);

    let described = vectors.state.len();
    let stored = fs::read_dir(vectors_dir())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .count();
    assert_eq!(described, stored, "a vector without description");
}

/// Makes a new state with swtpm, as libvirt does for an encrypted vTPM.
fn manufacture(tpm_state: &str, version: TpmVersion, passphrase: &Path) {
    let mut setup = Command::new("swtpm_setup");
    if version == TpmVersion::V2_0 {
        setup.arg("--tpm2");
    }
    let output = setup
        .args(["--tpm-state", tpm_state, "--not-overwrite"])
        .args(["--cipher", "aes-256-cbc", "--pwdfile"])
        .arg(passphrase)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "needs swtpm: ./dev test runs it"]
fn a_fresh_state_is_proven_by_its_passphrase_alone() {
    let passphrases: [&[u8]; 5] = [
        b"made up",
        b"line feed\n",
        b"nul\0byte",
        &[b'x'; 512],
        &[0xff; 3000],
    ];
    for version in [TpmVersion::V1_2, TpmVersion::V2_0] {
        for passphrase in passphrases {
            let dir = tempfile::tempdir().unwrap();
            let (states, store) = (dir.path().join("states"), dir.path().join("store"));
            let passphrase_file = dir.path().join("passphrase");
            fs::create_dir(&states).unwrap();
            fs::write(&passphrase_file, passphrase).unwrap();
            let store_uri = format!("file://{}", store.display());
            manufacture(states.to_str().unwrap(), version, &passphrase_file);
            manufacture(&store_uri, version, &passphrase_file);

            for source in [StateSource::Dir(states), StateSource::File(store)] {
                let StateFile::Encrypted(state) = read(source, version) else {
                    panic!("swtpm encrypts what it is given a passphrase for");
                };
                assert!(state.is_opened_by(&dek(passphrase)));
                assert!(!state.is_opened_by(&dek(&passphrase[1..])));
            }
        }
    }
}

/// A directory with a state that swtpm made under this passphrase, in the file `passphrase`.
fn with_state(passphrase: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let states = dir.path().join("states");
    let passphrase_file = dir.path().join("passphrase");
    fs::create_dir(&states).unwrap();
    fs::write(&passphrase_file, passphrase).unwrap();
    manufacture(states.to_str().unwrap(), TpmVersion::V2_0, &passphrase_file);
    (dir, states)
}

/// Runs this machine's swtpm on a directory of states as libvirt does, under the passphrase.
fn run_swtpm(dir: &Path, states: &Path) -> Child {
    let _ = fs::remove_file(dir.join("socket"));
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", states.display()))
        .arg("--key")
        .arg(format!(
            "pwdfile={},mode=aes-256-cbc",
            dir.join("passphrase").display()
        ))
        .arg("--server")
        .arg(format!("type=unixio,path={}", dir.join("socket").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether swtpm runs with this state; it ends at once where it refuses it.
fn starts(dir: &Path, states: &Path) -> bool {
    let before = fs::read(states.join("tpm2-00.permall")).unwrap();
    let mut swtpm = run_swtpm(dir, states);
    let patience = Instant::now() + Duration::from_secs(20);
    let started = loop {
        if swtpm.try_wait().unwrap().is_some() {
            break false;
        }
        // It counts its start in the state.
        if fs::read(states.join("tpm2-00.permall")).unwrap() != before {
            break true;
        }
        assert!(Instant::now() < patience, "swtpm neither starts nor ends");
        sleep(Duration::from_millis(10));
    };
    let _ = swtpm.kill();
    swtpm.wait().unwrap();
    started
}

#[test]
#[ignore = "needs swtpm: ./dev test runs it"]
fn what_is_called_damaged_this_machines_swtpm_refuses_under_the_right_key() {
    let (dir, states) = with_state(b"made up");
    let file = states.join("tpm2-00.permall");
    let whole = fs::read(&file).unwrap();
    let noise: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    let plain = fs::read(vectors_dir().join("tpm2-plain/tpm2-00.permall")).unwrap();
    let damaged = [
        Vec::new(),
        whole[..9].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], b"\0"].concat(),
        noise,
        vec![0; 4096],
        b"<domain/>".to_vec(),
        changed(0, 0),
        changed(3, 12),
        changed(5, 1),
        changed(11, 9),
        plain[16..].to_vec(),
    ];
    for bytes in damaged {
        fs::write(&file, &bytes).unwrap();
        let state = read(StateSource::Dir(states.clone()), TpmVersion::V2_0);
        assert!(matches!(state, StateFile::Damaged(_)), "{state:?}");
        assert!(
            !starts(dir.path(), &states),
            "{state:?}: swtpm starts from it"
        );
    }
    fs::write(&file, &whole).unwrap();
    assert!(starts(dir.path(), &states));
}

#[test]
#[ignore = "needs swtpm: ./dev test runs it"]
fn a_lock_is_seen_with_its_holder_and_looking_at_it_disturbs_no_start() {
    let (dir, states) = with_state(b"made up");
    let vtpm = Emulator {
        version: TpmVersion::V2_0,
        secret_uuid: None,
        persistent_state: false,
        source: Some(StateSource::Dir(states.clone())),
    };
    let place = StatePath::of(Path::new("/nowhere"), DomainUuid::random(), &vtpm);
    assert_eq!(lock_problem(&place), None);

    let (looking, looked) = (AtomicBool::new(true), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while looking.load(Ordering::SeqCst) {
                    let found = lock_problem(&place);
                    looked.fetch_or(found.is_some(), Ordering::SeqCst);
                }
            });
        }
        for _ in 0..10 {
            assert!(starts(dir.path(), &states), "it could not take its lock");
        }
        looking.store(false, Ordering::SeqCst);
    });
    assert!(looked.load(Ordering::SeqCst));

    let mut swtpm = run_swtpm(dir.path(), &states);
    let patience = Instant::now() + Duration::from_secs(20);
    let problem = loop {
        match lock_problem(&place) {
            Some(problem) => break problem,
            None => assert!(Instant::now() < patience, "swtpm does not start"),
        }
    };
    let pid = i32::try_from(swtpm.id()).unwrap();
    let name = "swtpm".to_owned();
    let expected = LockProblem::Held(LockHolder::Process { pid, name });
    swtpm.kill().unwrap();
    swtpm.wait().unwrap();
    assert_eq!(problem, expected);
    assert_eq!(lock_problem(&place), None);

    // Neither a FIFO nor a link in its place is waited for or followed.
    let lock = states.join(".lock");
    for make in [
        |lock: &Path| nix::unistd::mkfifo(lock, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        |lock: &Path| std::os::unix::fs::symlink("/etc/hostname", lock).unwrap(),
    ] {
        let _ = fs::remove_file(&lock);
        make(&lock);
        let started = Instant::now();
        let problem = lock_problem(&place);
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(
            matches!(problem, Some(LockProblem::Unusable { .. })),
            "{problem:?}"
        );
    }
}
