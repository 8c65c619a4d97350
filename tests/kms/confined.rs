//! The programs that speak TLS give up what they do not need as soon as they know their settings, before they connect
//! ("Privileges" of docs/reliability.md); and all programs of kms/ and stores/ keep their memory to themselves.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use serde_json::{Value, json};

use crate::built::built;
use crate::plugin::private_dir;
use crate::privileges::{IPC_LOCK, Process, command, open_to_all};
use crate::spoken::Spoken;

/// All of them.
pub(crate) const PROGRAMS: [&str; 5] = [
    "kms-exec",
    "kms-kmip",
    "kms-pkcs11",
    "kms-transit",
    "store-postgresql",
];

/// The most memory that one of those that are confined may have, in bytes.
const MAX_MEMORY: &str = "536870912";

/// Any question but the first, which it answers with an error.
pub(crate) fn any_question() -> Value {
    json!({"op": "status", "deadline_ms": 1})
}

/// Those that speak TLS, with settings that they take: all of them name `ca.pem` in this directory.
fn confined(dir: &Path) -> [(&'static str, Value); 3] {
    let path = |name: &str| dir.join(name).display().to_string();
    let ca = path("ca.pem");
    [
        (
            "kms-transit",
            json!({"address": "https://127.0.0.1:1", "ca": ca, "token_file": path("token")}),
        ),
        (
            "kms-kmip",
            json!({"address": "127.0.0.1:1", "ca": ca, "certificate": path("own.pem"), "key": path("own.key")}),
        ),
        (
            "store-postgresql",
            json!({"address": "postgresql://host@127.0.0.1:1/vtpm_guard", "ca": ca}),
        ),
    ]
}

fn start_open(program: impl AsRef<Path>) -> Spoken {
    Spoken::start(command(&open_to_all()).arg(program.as_ref()))
}

/// Tells it its settings, which it takes.
#[track_caller]
fn say_hello(program: &mut Spoken, settings: &Value) {
    let answer = program.ask(&json!({"op": "hello", "protocol": 1, "settings": settings}));
    assert_eq!(answer["ok"], true, "{answer}");
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn every_program_that_speaks_tls_has_given_up_the_rest_before_it_connects() {
    let dir = tempfile::tempdir().unwrap();
    for (name, settings) in confined(dir.path()) {
        let mut program = start_open(built(name));
        program.ask(&any_question());
        let process = Process::of(program.0.id());
        let filters = |process: &Process| -> Vec<u32> {
            let counts = process.status("Seccomp_filters").into_iter();
            counts.map(|count| count.parse().unwrap()).collect()
        };
        // This process may be confined itself, as in a container.
        let [before] = filters(&process)[..] else {
            panic!("{name} has a second thread before it has its settings");
        };
        say_hello(&mut program, &settings);

        let all = |key: &str, value: &str| {
            let found = process.status(key);
            assert!(
                found.iter().all(|it| it == value),
                "{name}: {key}: {found:?}"
            );
        };
        all("NoNewPrivs", "1");
        all("Seccomp", "2");
        let now = filters(&process);
        assert!(
            now.iter().all(|count| *count == before + 1),
            "{name}: {before}, {now:?}"
        );
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let held = process.capabilities(set);
            assert_eq!(held & !IPC_LOCK, 0, "{name}: {set}: {held:x}");
        }
        assert_eq!(process.limit("Max data size"), [MAX_MEMORY; 2], "{name}");
        assert_eq!(process.exposed(), [""; 0], "{name}");
    }
}

/// A file that became a link into another directory, which is one of the host's secrets for all that the program knows.
#[test]
fn no_program_that_speaks_tls_reads_what_its_settings_do_not_name() {
    if !has_landlock() {
        eprintln!("\nleft out: this kernel has no Landlock");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [own, others] = ["own", "others"].map(|name| private_dir(dir.path(), name));
    let (ca, secret) = (own.join("ca.pem"), others.join("secret"));
    write(&own.join("token"), "token");
    write(&secret, "a secret");
    for (name, settings) in confined(&own) {
        let _ = fs::remove_file(&ca);
        write(&ca, "nothing in PEM");
        let mut program = start_open(built(name));
        say_hello(&mut program, &settings);
        let mut says = || {
            let answer = program.ask(&json!({"op": "status", "deadline_ms": 5000}));
            answer["message"].as_str().unwrap_or_default().to_owned()
        };
        let said = says();
        assert!(
            said.contains("there is no certificate in PEM"),
            "{name}: {said}"
        );
        fs::remove_file(&ca).unwrap();
        symlink(&secret, &ca).unwrap();
        let said = says();
        assert!(said.contains("Permission denied"), "{name}: {said}");
    }
}

fn has_landlock() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ruleset = ruleset.handle_access(AccessFs::from_all(ABI::V1));
    ruleset.and_then(Ruleset::create).is_ok()
}

#[test]
fn every_program_keeps_its_memory_and_its_files_to_itself() {
    let seen = |program: &Spoken| Process::of(program.0.id()).exposed();
    let mut witness = start_open("cat");
    assert_eq!(witness.ask(&any_question()), any_question());
    let open = seen(&witness);
    for what in ["it is dumpable", "umask: [\"0000\"]"] {
        assert!(open.iter().any(|it| it == what), "{open:?}");
    }
    for name in PROGRAMS {
        let mut program = start_open(built(name));
        program.ask(&any_question());
        assert_eq!(seen(&program), [""; 0], "{name}");
    }
}

/// The units have no capability for it, and no limit. Under a limit, a program that has locked all that it has would soon
/// get no more. This one has less than the limit, so it could.
#[test]
fn memory_is_locked_where_that_is_not_limited_and_only_there() {
    let without_capability = [
        "setpriv",
        "--bounding-set=-ipc_lock",
        "--inh-caps=-ipc_lock",
        "--",
    ];
    for (limit, is_locked) in [("unlimited", true), ("8000000", false)] {
        let limit = format!("--memlock={limit}:{limit}");
        let limited = [&["prlimit", &limit, "--"], &without_capability[..]].concat();
        let tried = command(&[&limited[..], &["true"]].concat())
            .output()
            .unwrap();
        if !tried.status.success() {
            eprintln!(
                "\nleft out, {limit}: {}",
                String::from_utf8_lossy(&tried.stderr)
            );
            continue;
        }
        let mut words = command(&[&limited[..], &open_to_all()].concat());
        let mut program = Spoken::start(words.arg(built("kms-exec")));
        program.ask(&any_question());
        let locked = Process::of(program.0.id()).status("VmLck");
        assert_eq!(locked[0] != "0 kB", is_locked, "{limit:?}: {locked:?}");
    }
}
