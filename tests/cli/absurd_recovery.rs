//! Recovery files that ask for absurd things: what they cost is bounded, before anybody has typed a passphrase and after.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use sha2::{Digest, Sha256};

use crate::env::{Host, Ran};

/// What is refused at once takes less, on a busy machine too; what would be computed takes minutes.
const AT_ONCE: Duration = Duration::from_secs(20);

/// A whole file that asks for this.
fn asking_for(cost: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/recovery/opens.toml");
    let vector: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let file = vector["file"].as_str().unwrap();
    let lines = file.lines().filter(|line| !line.starts_with("Checksum: "));
    let lines: String = lines
        .map(|line| {
            if line.starts_with("Argon2id: ") {
                format!("Argon2id: {cost}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    let digest = Sha256::digest(&lines);
    let digits = digest.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").unwrap();
        digits
    });
    format!("{lines}Checksum: {digits}\n")
}

/// Imports a file with this much memory at most. Returns what was said, and how long it took.
fn import(host: &Host, file: &str, megabytes: u32) -> (Ran, Duration) {
    let passphrase = host.passphrase_file();
    let import = ["provider", "import", file, "--passphrase-file", &passphrase];
    let mut limited = Command::new("prlimit");
    limited
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg(format!("--data={}", u64::from(megabytes) << 20))
        .args(["--", env!("CARGO_BIN_EXE_vtpm-guard"), "--state-dir"])
        .arg(&*host.state_dir())
        .args(import);
    let started = Instant::now();
    (Ran::of(&mut limited), started.elapsed())
}

#[test]
fn what_no_file_may_ask_for_is_refused_at_once_and_in_little_memory() {
    let host = Host::new();
    for cost in [
        "m=4294967295 t=3 p=1",
        "m=1048577 t=1 p=1",
        "m=262144 t=4294967295 p=1",
        "m=262144 t=11 p=1",
        "m=262144 t=3 p=4294967295",
        "m=262144 t=3 p=17",
        "m=0 t=0 p=0",
        "m=7 t=1 p=16",
    ] {
        let file = host.file("absurd.recovery", &asking_for(cost));
        let (ran, time) = import(&host, &file, 64);
        ran.ends_with(4)
            .saying("its Argon2id parameters are beyond");
        assert!(time < AT_ONCE, "{cost}: {time:?}");
    }
    for cost in [
        "m=4294967296 t=3 p=1",
        "m=-1 t=3 p=1",
        "m=1e9 t=3 p=1",
        "m= t= p=",
    ] {
        let file = host.file("absurd.recovery", &asking_for(cost));
        let (ran, time) = import(&host, &file, 64);
        ran.ends_with(4).saying("it is damaged");
        assert!(time < AT_ONCE, "{cost}: {time:?}");
    }
}

#[test]
fn what_a_file_may_ask_for_and_this_host_does_not_have_is_an_error() {
    let host = Host::new();
    let file = host.file("dear.recovery", &asking_for("m=1048576 t=10 p=16"));
    let (ran, time) = import(&host, &file, 256);
    ran.ends_with(4)
        .saying("1048576 KiB of memory, more than is free");
    assert!(time < AT_ONCE, "{time:?}");
}

#[test]
fn a_file_of_any_length_is_read_to_its_bound_alone() {
    let host = Host::new();
    let path = host.file("long.recovery", &asking_for("m=256 t=1 p=1"));
    // Of no bytes at all on the disk.
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    for path in [&*path, "/dev/zero"] {
        let (ran, time) = import(&host, path, 64);
        ran.ends_with(4)
            .saying("it is not a vtpm-guard recovery file");
        assert!(time < AT_ONCE, "{path}: {time:?}");
    }
}

/// The dearest file that is opened, which takes seconds: what it costs is in docs/reliability.md.
#[test]
#[ignore = "takes seconds and 1 GiB"]
fn what_the_dearest_file_costs() {
    let host = Host::new();
    let file = host.file("dear.recovery", &asking_for("m=1048576 t=10 p=16"));
    let (ran, time) = import(&host, &file, 1200);
    ran.ends_with(4).saying("passphrase");
    eprintln!("1 GiB, 10 passes, 16 lanes: {time:?}");
    assert!(time < Duration::from_secs(300), "{time:?}");
}
