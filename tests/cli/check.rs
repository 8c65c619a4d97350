//! `check | repair | replay` on a captured XML: the answer for programs, the exit statuses,
//! and who may ask. What libvirt decides is tried in `tests/e2e`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Value;

use crate::env::{Host, VM1, mode};
use crate::programs::copy_program;

const SECRET: &str = "6dd3e4a5-1f2e-4a0b-9c8d-7e6f5a4b3c2d";

fn xml(host: &Host) -> String {
    let xml = format!(
        "<domain type='kvm'><name>vm1</name><uuid>{VM1}</uuid><devices><tpm model='tpm-crb'>\
         <backend type='emulator' version='2.0'><encryption secret='{SECRET}'/></backend>\
         </tpm></devices></domain>"
    );
    host.file("vm1.xml", &xml)
}

/// The keys of a JSON object.
fn keys(document: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = document
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_json_has_the_documented_keys() {
    let host = Host::with_provider("nkp-a");
    host.run(&["key", "bind", VM1, "--provider", "nkp-a"])
        .succeeds();
    let xml = xml(&host);
    let ran = host
        .run(&["replay", &xml, "--dry-run", "--no-secret", "--json"])
        .succeeds();
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        keys(&answer),
        [
            "code", "decision", "domain", "dry_run", "findings", "hint", "message", "repairs",
            "secret", "vtpm"
        ]
    );
    assert_eq!(keys(&answer["domain"]), ["name", "uuid"]);
    assert_eq!(
        keys(&answer["vtpm"]),
        ["backend", "secret_uuid", "state", "version"]
    );
    assert_eq!(keys(&answer["secret"]), ["action", "uuid"]);
    assert_eq!(answer["decision"], "allow");
    assert_eq!(answer["code"], Value::Null);
    assert_eq!(answer["repairs"][0]["kind"], "create-key");
    assert_eq!(answer["repairs"][0]["key_ref"], 1);
    assert_eq!(answer["dry_run"], true);
}

#[test]
fn a_start_that_could_not_be_given_its_key_would_not_start() {
    let host = Host::with_provider("nkp-a");
    host.run(&["key", "bind", VM1, "--provider", "nkp-a"])
        .succeeds();
    let config = host.file("config.toml", "[secret]\nuri = \"secret:///nowhere\"\n");
    let xml = xml(&host);
    let ran = host
        .run(&["--config", &config, "check", "--xml", &xml, "--json"])
        .ends_with(1);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["decision"], "deny");
    assert_eq!(answer["code"], "VG302");
    assert_eq!(answer["secret"]["action"], "none");
}

#[test]
fn a_configuration_that_was_named_must_be_there() {
    let host = Host::new();
    let xml = xml(&host);
    host.run(&["--config", "no-such-file", "check", "--xml", &xml])
        .ends_with(2)
        .saying("no-such-file: no such file");
}

#[test]
fn what_is_no_start_is_said_to_be_none() {
    let host = Host::new();
    let xml = xml(&host);
    let ran = host
        .run(&["replay", &xml, "--operation", "reconnect"])
        .succeeds();
    assert_eq!(
        ran.stdout,
        "vm1: not a start: only prepare can be refused\n"
    );
}

#[test]
fn a_name_from_a_file_cannot_forge_a_line_or_speak_to_the_terminal() {
    let host = Host::new();
    let file = host.file("a\u{1b}[31m\nvm2: would start.xml", "no XML");
    let ran = host.run(&["check", "--xml", &file]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
    assert!(lines.iter().all(|line| !line.starts_with("vm2")), "{ran:?}");
}

#[test]
fn a_guest_whose_xml_cannot_be_read_is_never_said_to_start() {
    let host = Host::new();
    let cut = "<domain><name>vm1</name><devices><tpm><backend type='emulator'>";
    for content in [cut, "no XML", ""] {
        let file = host.file("broken.xml", content);
        let ran = host.run(&["check", "--xml", &file]).ends_with(1);
        assert!(ran.stdout.contains("would not start: VG501 "), "{ran:?}");
        let ran = host.run(&["check", "--xml", &file, "--json"]).ends_with(1);
        let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(answer["decision"], "deny");
    }
}

#[test]
fn a_user_who_may_not_read_the_store_gets_no_verdict() {
    if !geteuid().is_root() {
        eprintln!("skipped: another user is needed, and this one is not root");
        return;
    }
    let host = Host::with_provider("nkp-a");
    let xml = xml(&host);
    let program = for_everybody(&host);
    assert_eq!(mode(&host.state_dir()), 0o700);
    for verb in [
        &["check", "--xml", &xml][..],
        &["replay", &xml, "--dry-run", "--no-secret"],
    ] {
        let output = Command::new(&program)
            .arg("--state-dir")
            .arg(&*host.state_dir())
            .args(verb)
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("no permission"), "{said}");
        assert!(said.contains("run it as root"), "{said}");
        assert_eq!(output.stdout, b"", "{said}");
    }
}

#[test]
fn keys_that_a_check_opens_are_out_of_reach_of_the_users_other_processes() {
    if !geteuid().is_root() {
        eprintln!("skipped: another user is needed, and this one is not root");
        return;
    }
    let host = Host::new();
    let mut child = Command::new(for_everybody(&host))
        .arg("--state-dir")
        .arg(&*host.state_dir())
        .args(["check", "--xml", "-"])
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // A process that cannot be dumped is root's in /proc (proc(5)).
    let process = format!("/proc/{}/environ", child.id());
    let out_of_reach = || fs::metadata(&process).is_ok_and(|file| file.uid() == 0);
    let is_protected = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        out_of_reach()
    });
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(is_protected);
}

/// The program where every user may run it, beside the state directory.
fn for_everybody(host: &Host) -> PathBuf {
    let above = host.state_dir().parent().unwrap().to_owned();
    fs::set_permissions(&above, fs::Permissions::from_mode(0o755)).unwrap();
    let program = above.join("vtpm-guard");
    copy_program(Path::new(env!("CARGO_BIN_EXE_vtpm-guard")), &program);
    program
}
