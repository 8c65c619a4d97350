//! Plugins that hang, flood, die, lie or leave children: each is a clear error within the deadline, and
//! nothing of it is left running.

use std::time::{Duration, Instant};

use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::kms::{KmsError, Trouble, WrappedKek};

use crate::plugin::{GRACE, Script, section};

/// For one that hangs: it is waited for.
const SHORT: Duration = Duration::from_secs(1);

/// For one that answers or ends, however busy the machine is.
const LONG: Duration = Duration::from_secs(20);

/// What a plugin of these tests does well.
const GOOD: &str = r#"#!/usr/bin/python3
import json, os, struct, sys, time

def read():
    head = sys.stdin.buffer.read(4)
    return sys.stdin.buffer.read(struct.unpack(">I", head)[0]) if head else sys.exit()

def write(data):
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()

def reply(**more):
    write(json.dumps({"ok": True, **more}).encode())

def hello():
    read()
    reply(protocol=1, kind="broken", version="1")
"#;

/// Starts a plugin that does this, asks it to unwrap a KEK, and returns the error.
#[track_caller]
fn error_of(script: &str) -> KmsError {
    error_within(LONG, script)
}

#[track_caller]
fn error_within(timeout: Duration, script: &str) -> KmsError {
    let script = Script::new("broken", &format!("{GOOD}{script}"));
    let start = Instant::now();
    let asked = unwrap(&script, timeout);
    let time = start.elapsed();
    assert!(time < timeout + GRACE, "it took {time:?}");
    script.nothing_is_left();
    asked.err().expect("it gave a key")
}

fn unwrap(script: &Script, timeout: Duration) -> Result<Kek, KmsError> {
    let wrapped = WrappedKek {
        blob: vec![1; 60],
        remote_version: None,
    };
    let mut client = script.connect(&section("broken", timeout, &[]))?;
    client.unwrap("any", &wrapped, Kek::generate().unwrap().key_id())
}

/// A plugin that does this is given up at the deadline.
#[track_caller]
fn does_not_answer(script: &str) {
    let error = error_within(SHORT, script);
    let trouble = match &error {
        KmsError::Refused { trouble, .. } => *trouble,
        other => panic!("{other:?}"),
    };
    assert_eq!(trouble, Trouble::Unreachable);
    let line = "kms.test: it does not answer: no answer within 1000 ms";
    assert_eq!(error.to_string(), line);
}

#[track_caller]
fn is_nonsense(error: &KmsError, reason: &str) {
    assert!(matches!(error, KmsError::Nonsense { .. }), "{error:?}");
    let line = format!("kms.test: kms-broken gave an answer that cannot be understood: {reason}");
    assert!(error.to_string().starts_with(&line), "{error}");
}

#[track_caller]
fn ended(error: &KmsError, reason: &str) {
    assert!(matches!(error, KmsError::Plugin { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("kms.test: kms-broken: {reason}"));
}

#[test]
fn one_that_hangs_is_killed_at_the_deadline() {
    does_not_answer("time.sleep(60)");
    does_not_answer("hello()\ntime.sleep(60)");
}

#[test]
fn one_that_does_not_end_with_its_stdin_is_killed() {
    let error = error_of("hello()\nread(); read()\nreply(); write(bytes(32))\ntime.sleep(60)");
    assert!(matches!(error, KmsError::OtherKey { .. }), "{error:?}");
}

#[test]
fn one_that_ignores_signals_is_killed() {
    does_not_answer(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nhello()\ntime.sleep(60)",
    );
}

#[test]
fn one_that_floods_its_stdout_gives_no_answer() {
    is_nonsense(
        &error_of("hello()\nwhile True: os.write(1, b'y' * 65536)"),
        "the message is too long",
    );
}

#[test]
fn one_that_floods_its_stderr_is_killed_at_the_deadline() {
    does_not_answer("hello()\nwhile True: os.write(2, b'y' * 65536)");
}

#[test]
fn one_that_sends_a_byte_now_and_then_is_killed_at_the_deadline() {
    does_not_answer(
        "hello()\nos.write(1, struct.pack('>I', 60000))\nwhile True: os.write(1, b' '); time.sleep(0.05)",
    );
}

#[test]
fn one_that_dies_is_quoted() {
    ended(
        &error_of("sys.exit('the library\\nis broken')"),
        "it ended without an answer: the library is broken",
    );
    ended(
        &error_of("hello()\nos.kill(os.getpid(), 9)"),
        "it ended without an answer",
    );
}

#[test]
fn one_that_dies_within_its_answer_gives_none() {
    let error = error_of("hello()\nread(); read()\nos.write(1, struct.pack('>I', 60) + b'{')");
    assert!(matches!(error, KmsError::Plugin { .. }), "{error:?}");
    let error = error_of("hello()\nread(); read()\nreply()");
    assert!(matches!(error, KmsError::Plugin { .. }), "{error:?}");
}

#[test]
fn one_that_talks_nonsense_is_not_understood() {
    is_nonsense(&error_of("hello()\nwrite(b'no JSON')"), "expected ");
    is_nonsense(&error_of("hello()\nwrite(b'')"), "EOF ");
    is_nonsense(&error_of("hello()\nwrite(b'{}')"), "missing field `ok`");
    is_nonsense(&error_of("hello()\nwrite(b'\\xff\\xfe')"), "");
    let deep = "hello()\nwrite(b'{\"ok\":true,\"detail\":' + b'[' * 60000)";
    is_nonsense(&error_of(deep), "");
}

#[test]
fn one_of_another_kind_or_version_is_not_used() {
    let reason = "it names another kind, or none";
    is_nonsense(&error_of("read(); reply(protocol=1, kind='other')"), reason);
    is_nonsense(&error_of("read(); reply(protocol=1)"), reason);
    let reason = "it speaks version 2 of the protocol, not 1";
    is_nonsense(
        &error_of("read(); reply(protocol=2, kind='broken')"),
        reason,
    );
}

#[test]
fn other_bytes_are_no_key() {
    let error = error_of("hello()\nread(); read()\nreply(); write(b'k' * 32)");
    assert!(matches!(error, KmsError::OtherKey { .. }), "{error:?}");
    let error = error_of("hello()\nread(); read()\nreply(); write(b'k' * 31)");
    assert!(matches!(error, KmsError::OtherKey { .. }), "{error:?}");
    is_nonsense(
        &error_of("hello()\nread(); read()\nreply(); write(b'k' * 33)"),
        "the message is too long",
    );
}

#[test]
fn a_child_that_lingers_ends_with_it() {
    let lingers = "if os.fork() == 0:\n  [os.close(fd) for fd in (0, 1, 2)]\n  time.sleep(60)\n";
    let error = error_of(&format!("hello()\n{lingers}sys.exit()"));
    ended(&error, "it ended without an answer");
    let error = error_of(&format!(
        "hello()\n{lingers}read(); read()\nreply(); write(b'k' * 32)"
    ));
    assert!(matches!(error, KmsError::OtherKey { .. }), "{error:?}");
}

#[test]
fn a_child_that_keeps_its_pipes_open_ends_with_it() {
    does_not_answer("hello()\nif os.fork() == 0: time.sleep(60)\nsys.exit()");
}

#[test]
fn what_it_wrapped_must_open_again() {
    let (kek, good) = (Kek::generate().unwrap(), GOOD);
    for (answer, reason) in [
        ("reply(); write(b'')", "the wrapped key is empty"),
        (
            "reply(remote_version='1' * 129); write(b'blob')",
            "remote_version is no version",
        ),
        (
            "reply(remote_version='1\\n2'); write(b'blob')",
            "remote_version is no version",
        ),
        (
            "reply(); os.write(1, struct.pack('>I', 65537))",
            "the message is too long",
        ),
    ] {
        let script = Script::new(
            "broken",
            &format!("{good}hello()\nread(); read()\n{answer}"),
        );
        let mut client = script.connect(&section("broken", LONG, &[])).unwrap();
        is_nonsense(&client.wrap("any", &kek).unwrap_err(), reason);
    }
    let other = "hello()\nread(); read()\nreply(); write(b'blob')\nread(); read()\nreply(); write(b'k' * 32)";
    let script = Script::new("broken", &format!("{good}{other}"));
    let mut client = script.connect(&section("broken", LONG, &[])).unwrap();
    let error = client.wrap("any", &kek).unwrap_err();
    assert!(matches!(error, KmsError::OtherKey { .. }), "{error:?}");
}

#[test]
fn its_words_stay_on_a_line() {
    let error = error_of(
        "hello()\nread(); read()\nwrite(json.dumps({'ok': False, 'error': 'no-key', 'message': 'a\\nb' + 'c' * 1000}).encode())",
    );
    let line = error.to_string();
    assert!(
        line.starts_with("kms.test: it has no such key: a bccc"),
        "{line}"
    );
    assert!(line.len() < 600 && !line.contains('\n'), "{line}");
}

#[test]
fn one_that_others_may_write_is_not_started() {
    let script = Script::new("broken", GOOD);
    let chmod = std::process::Command::new("chmod")
        .arg("777")
        .arg(script.path())
        .status();
    assert!(chmod.unwrap().success());
    let error = unwrap(&script, LONG).err().unwrap();
    assert!(matches!(error, KmsError::NotTrusted { .. }), "{error:?}");
}

#[test]
fn one_that_is_not_there_is_named() {
    let script = Script::new("broken", GOOD);
    std::fs::remove_file(script.path()).unwrap();
    let error = unwrap(&script, LONG).err().unwrap();
    assert!(matches!(error, KmsError::NoPlugin { .. }), "{error:?}");
}
