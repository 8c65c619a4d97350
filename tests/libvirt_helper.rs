//! The helper and its caller where libvirt does not play along. No libvirtd is needed: a
//! socket that nobody serves looks like a daemon that is busy starting its guests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with tests of other programs")]
mod programs;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use programs::write_program;
use vtpm_guard::internals::clock::Deadline;
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::libvirt::secret::{HostSecrets, SecretError};
use vtpm_guard::internals::libvirt::{LibvirtClient, Silence};
use vtpm_guard::internals::verdict::Over;
use zeroize::Zeroizing;

const HELPER: &str = env!("CARGO_BIN_EXE_vtpm-guard-libvirt");

/// A daemon that takes connections and never answers.
struct SilentDaemon {
    socket: UnixListener,
    uri: String,
    _dir: tempfile::TempDir,
}

impl SilentDaemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libvirt-sock");
        Self {
            socket: UnixListener::bind(&path).unwrap(),
            uri: format!("secret:///system?socket={}", path.display()),
            _dir: dir,
        }
    }
}

/// What an unreachable libvirt says.
fn words(libvirt: &LibvirtClient, time: Duration) -> String {
    match libvirt.inspect(SecretUuid::random(), Deadline::after(time)) {
        Err(SecretError::Unreachable(words)) => words,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was reached"),
    }
}

fn start_helper(uri: &str) -> Child {
    Command::new(HELPER)
        .arg(uri)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// How the helper ends, which it must do by itself.
fn end_of(helper: &mut Child) -> ExitStatus {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        if let Some(status) = helper.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    helper.kill().unwrap();
    panic!("the helper does not end");
}

#[test]
fn a_daemon_that_never_answers_is_unreachable_at_the_deadline() {
    let daemon = SilentDaemon::new();
    let libvirt = LibvirtClient::at(&daemon.uri).with_helper(HELPER.into());
    let asked = Instant::now();
    let said = words(&libvirt, Duration::from_millis(300));
    let waited = asked.elapsed();
    assert_eq!(said, "libvirt did not answer in time");
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    assert!(waited < Duration::from_secs(20), "{waited:?}");
}

#[test]
fn a_daemon_that_was_silent_once_is_not_waited_for_again() {
    let daemon = SilentDaemon::new();
    let silence = Silence::default();
    let client = || {
        let client = LibvirtClient::at(&daemon.uri).with_helper(HELPER.into());
        client.with_silence(silence.clone())
    };
    words(&client(), Duration::from_millis(300));
    let asked = Instant::now();
    for _ in 0..50 {
        let said = words(&client(), Duration::from_secs(30));
        assert_eq!(said, "libvirt did not answer in time");
    }
    assert!(asked.elapsed() < Duration::from_secs(20));
    // What changes something is tried all the same.
    let asked = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(300));
    let dropped = client().drop_own(SecretUuid::random(), DomainUuid::random(), deadline);
    assert!(dropped.is_err() && asked.elapsed() >= Duration::from_millis(300));
}

/// A helper whose daemon is away for the first calls, and then has no such secret.
fn helper_of_a_daemon_that_comes_back(dir: &Path, away: u32) -> PathBuf {
    let (program, calls) = (dir.join("helper"), dir.join("calls"));
    let frame = |json: &str| format!("printf '\\0\\0\\0\\{:o}%s' '{json}'", json.len());
    let script = format!(
        "#!/bin/sh\necho >>{calls}\nif [ $(wc -l <{calls}) -le {away} ]; then {}; else {}; fi\n\
         exec cat >/dev/null\n",
        frame(r#"{"unreachable":"no such socket"}"#),
        frame(r#""absent""#),
        calls = calls.display(),
    );
    write_program(&program, &script);
    program
}

#[test]
fn a_daemon_that_is_away_for_a_moment_is_asked_again_and_no_longer_than_that() {
    let dir = tempfile::tempdir().unwrap();
    let helper = helper_of_a_daemon_that_comes_back(dir.path(), 3);
    let client = |patience| {
        let client = LibvirtClient::at("secret:///system").with_helper(helper.clone());
        client.with_patience(Duration::from_millis(patience))
    };
    let ask = |client: &LibvirtClient| {
        let deadline = Deadline::after(Duration::from_secs(20));
        client.inspect(SecretUuid::random(), deadline)
    };
    // By itself nobody is patient.
    let asked = Instant::now();
    assert!(
        matches!(ask(&client(0)), Err(SecretError::Unreachable(words)) if words == "no such socket")
    );
    assert!(matches!(
        ask(&client(100)),
        Err(SecretError::Unreachable(_))
    ));
    assert!(asked.elapsed() < Duration::from_secs(15));
    assert!(matches!(ask(&client(10_000)), Ok(None)));
}

#[test]
fn a_deadline_that_has_passed_starts_no_helper() {
    let daemon = SilentDaemon::new();
    daemon.socket.set_nonblocking(true).unwrap();
    let libvirt = LibvirtClient::at(&daemon.uri).with_helper(HELPER.into());
    assert_eq!(
        words(&libvirt, Duration::ZERO),
        "libvirt did not answer in time"
    );
    assert!(daemon.socket.accept().is_err());
}

#[test]
fn a_daemon_that_is_not_there_is_unreachable_in_libvirts_words() {
    let libvirt =
        LibvirtClient::at("secret:///system?socket=/nowhere/sock").with_helper(HELPER.into());
    let said = words(&libvirt, Duration::from_secs(20));
    assert!(said.contains("'/nowhere/sock'"), "{said}");

    let dek = Dek::from_bytes(Zeroizing::new(b"made-up key".to_vec()));
    let provided = libvirt.provide(
        SecretUuid::random(),
        DomainUuid::random(),
        &dek,
        Over::GuardsOwn,
        Deadline::after(Duration::from_secs(20)),
    );
    assert!(
        matches!(provided, Err(SecretError::Unreachable(_))),
        "{provided:?}"
    );
}

#[test]
fn a_helper_that_is_not_installed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let not_executable = dir.path().join("helper");
    fs::write(&not_executable, "").unwrap();
    for (program, why) in [
        ("/usr/nowhere/helper".into(), "No such file"),
        (not_executable, "Permission denied"),
    ] {
        let libvirt = LibvirtClient::at("secret:///system").with_helper(program.clone());
        let asked = libvirt.inspect(
            SecretUuid::random(),
            Deadline::after(Duration::from_secs(20)),
        );
        let Err(SecretError::NoHelper(said)) = asked else {
            panic!("{:?}", asked.err());
        };
        let named = format!("{}: {why}", program.display());
        assert!(said.starts_with(&named), "{said}");
    }
}

#[test]
fn a_helper_that_ends_without_an_answer_is_quoted() {
    // Any program will do that complains about the URI.
    let libvirt = LibvirtClient::at("not-a-script").with_helper("/usr/bin/bash".into());
    let said = words(&libvirt, Duration::from_secs(20));
    assert!(
        said.starts_with("/usr/bin/bash: it ended without an answer"),
        "{said}"
    );
    assert!(said.contains("not-a-script"), "{said}");
}

#[test]
fn a_helper_whose_caller_dies_while_libvirt_keeps_silent_ends() {
    let daemon = SilentDaemon::new();
    let mut helper = start_helper(&daemon.uri);
    let _connection = daemon.socket.accept().unwrap();
    drop(helper.stdin.take());
    end_of(&mut helper);
}

#[test]
fn a_helper_dumps_no_core() {
    let daemon = SilentDaemon::new();
    let mut helper = start_helper(&daemon.uri);
    let _connection = daemon.socket.accept().unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", helper.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let values: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{core}");
    drop(helper.stdin.take());
    end_of(&mut helper);
}

#[test]
fn a_helper_that_is_asked_nonsense_ends_without_an_answer() {
    for nonsense in [
        &b"\0\0\0\x04what"[..],
        b"\xff\xff\xff\xff",
        b"\0\0\0\x09cut",
    ] {
        let mut helper = start_helper("secret:///system?socket=/nowhere/sock");
        let mut stdin = helper.stdin.take().unwrap();
        stdin.write_all(nonsense).unwrap();
        drop(stdin);
        assert_eq!(end_of(&mut helper).code(), Some(1));
        let output = helper.wait_with_output().unwrap();
        assert!(output.stdout.is_empty());
    }
}
