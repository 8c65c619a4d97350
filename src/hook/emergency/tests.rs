use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::config::{Config, LogTarget};
use crate::host::dirs::StateDir;

/// The scene that a child process of this test plays.
const SCENE: &str = "VTPM_GUARD_TEST_SCENE";

/// The file in which the scene writes down a refusal.
const RECORD: &str = "VTPM_GUARD_TEST_RECORD";

/// The file that is the scene's log.
const LOG: &str = "VTPM_GUARD_TEST_LOG";

const DEADLINE: Duration = Duration::from_millis(300);

/// Longer than the deadline, and than what may follow it.
fn hang() {
    thread::sleep(Duration::from_secs(20));
}

#[test]
#[ignore = "ends its own process: run by the tests below in one of its own"]
fn scene() {
    let scene = std::env::var(SCENE).unwrap();
    if !scene.contains("not refusable") {
        may_refuse("vm1");
    }
    if let Some(log) = std::env::var_os(LOG) {
        let config = Config {
            log_target: LogTarget::File(log.into()),
            ..Config::default()
        };
        log::init(&config, &StateDir::default()).unwrap();
    }
    is_about("vm1", Operation::Started);
    if let Some(record) = std::env::var_os(RECORD) {
        let hangs = scene.contains("cannot be written down");
        write_down_by(move |refusal| {
            std::fs::write(&record, refusal.code().as_str()).unwrap();
            if hangs {
                hang();
            }
        });
    }
    if scene.contains("before its deadline is known") {
        answer_at(Deadline::after(Duration::from_secs(15)));
    }
    answer_at(Deadline::after(DEADLINE));
    answer_for_panics();
    match scene.as_str() {
        "hangs"
        | "hangs, not refusable"
        | "hangs, cannot be written down"
        | "watched before its deadline is known, hangs" => hang(),
        "panics" | "panics, not refusable" => panic!("a fault"),
        // As a provider key that opens at the last moment.
        "hangs, then allows" => {
            while ANSWER.load(Ordering::SeqCst) == UNDECIDED {
                thread::sleep(Duration::from_millis(5));
            }
            allowed();
            process::exit(0);
        }
        "allowed, then hangs" => {
            allowed();
            hang();
        }
        "allowed, then panics" => {
            allowed();
            panic!("a fault");
        }
        "refused, then hangs" => {
            refuse("the line");
            hang();
        }
        "refused, then panics" => {
            refuse("the line");
            panic!("a fault");
        }
        other => panic!("no scene {other}"),
    }
}

fn play(scene: &str, stderr: Stdio) -> Child {
    scene_in(scene, stderr).spawn().unwrap()
}

fn scene_in(scene: &str, stderr: Stdio) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--ignored", "hook::emergency::tests::scene"])
        .env(SCENE, scene)
        .stdout(Stdio::null())
        .stderr(stderr);
    command
}

/// The status, the lines on stderr, and how long it took.
fn played(scene: &str) -> (i32, String, Duration) {
    let started = Instant::now();
    let output = play(scene, Stdio::piped()).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said, started.elapsed())
}

#[test]
fn a_passed_deadline_and_a_panic_refuse_only_guests_that_may_be_refused() {
    for scene in ["hangs", "watched before its deadline is known, hangs"] {
        let (status, said, took) = played(scene);
        assert!(
            status == 1 && said.starts_with("vtpm-guard: VG302 "),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    let (status, said, _) = played("panics");
    assert!(
        status == 1 && said.starts_with("vtpm-guard: VG901 "),
        "{said}"
    );
    for scene in ["hangs, not refusable", "panics, not refusable"] {
        let (status, said, _) = played(scene);
        assert_eq!((status, said.as_str()), (0, ""), "{scene}");
    }
}

#[test]
fn what_the_deadline_or_a_panic_refuses_is_written_down_and_stays_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (scene, code) in [
        ("hangs", Some("VG302")),
        ("panics", Some("VG901")),
        ("hangs, cannot be written down", Some("VG302")),
        ("hangs, then allows", Some("VG302")),
        ("hangs, not refusable", None),
        ("allowed, then hangs", None),
    ] {
        let record = dir.path().join(scene);
        let started = Instant::now();
        let mut scene_played = scene_in(scene, Stdio::null());
        let status = scene_played.env(RECORD, &record).status().unwrap();
        let time = started.elapsed();
        assert_eq!(status.code(), Some(i32::from(code.is_some())), "{scene}");
        let written = std::fs::read_to_string(&record).ok();
        assert_eq!(written.as_deref(), code, "{scene}");
        assert!(time < Duration::from_secs(10), "{scene}: {time:?}");
    }
}

#[test]
fn nothing_after_the_verdict_refuses_an_allowed_start_or_delays_it_for_long() {
    for scene in ["allowed, then hangs", "allowed, then panics"] {
        let (status, said, time) = played(scene);
        assert_eq!((status, said.as_str()), (0, ""), "{scene}");
        assert!(time < Duration::from_secs(10), "{scene}: {time:?}");
    }
}

/// Nobody would learn of a fault in what follows a start.
#[test]
fn a_panic_and_a_passed_deadline_that_refuse_nothing_are_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    for (scene, code, words) in [
        (
            "panics, not refusable",
            "VG901",
            "panic at src/hook/emergency/tests.rs:",
        ),
        (
            "allowed, then panics",
            "VG901",
            "panic at src/hook/emergency/tests.rs:",
        ),
        (
            "hangs, not refusable",
            "VG302",
            "the hook ended before its work was done",
        ),
        (
            "allowed, then hangs",
            "VG302",
            "the hook ended before its work was done",
        ),
    ] {
        let log = dir.path().join("log");
        let ended = scene_in(scene, Stdio::null()).env(LOG, &log).status();
        assert_eq!(ended.unwrap().code(), Some(0), "{scene}");
        let line = std::fs::read_to_string(&log).unwrap();
        assert_eq!(line.lines().count(), 1, "{scene}: {line}");
        for words in [code, words, "vm1", "Started"] {
            assert!(line.contains(words), "{scene}: {words}: {line}");
        }
        assert!(
            !line.contains("a fault"),
            "what a panic says may have a key in it: {line}"
        );
        std::fs::remove_file(log).unwrap();
    }
}

#[test]
fn nothing_after_the_verdict_lets_a_refused_start_pass() {
    for scene in ["refused, then hangs", "refused, then panics"] {
        let (status, said, _) = played(scene);
        assert_eq!((status, said.as_str()), (1, "the line\n"), "{scene}");
    }
}

#[test]
fn a_blocked_stderr_gets_the_line_before_the_status() {
    for scene in ["refused, then hangs", "hangs"] {
        let (mut reader, mut writer) = io::pipe().unwrap();
        // 64 KiB are what a pipe holds.
        writer.write_all(&vec![b'x'; 64 << 10]).unwrap();
        let mut child = play(scene, writer.into());
        thread::sleep(2 * DEADLINE);
        assert!(child.try_wait().unwrap().is_none(), "{scene}: no line yet");
        let mut said = Vec::new();
        reader.read_to_end(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{scene}");
        let line = String::from_utf8(said[64 << 10..].to_vec()).unwrap();
        assert_eq!(line.lines().count(), 1, "{scene}: {line}");
    }
}
