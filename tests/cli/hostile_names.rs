//! Names and other people's words are data: whatever stands in the store, in the files that the
//! command reads, or in its arguments, no byte of it commands a terminal, forges a line, or shows
//! as something else than it is. The hook's own line and its log are tried in `src/messages` and
//! `src/log`, guests that libvirt names in `tests/e2e/names.rs`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use vtpm_guard::internals::capture;
use vtpm_guard::internals::cli::args::Cli;
use vtpm_guard::internals::verdict::code::Code;
use vtpm_guard::internals::verdict::facts::CopyReason;

use crate::env::{Host, Ran, VM1, VM2};
use crate::state::STATE;

/// ESC (an OSC that sets the window's title, and a CSI), BEL, CR, LF, DEL, CSI of C1, and the
/// marks of Unicode that turn the line around, end it, or do not show.
const EVIL: &str = "e\u{1b}]0;x\u{7}\u{1b}[35my\r\nFORGED\u{7f}\u{9b}35mz\u{202e}l\u{2028}i\u{2029}v\u{2066}e\u{200b}\u{61c}\u{feff}";

/// What none of that may leave on a terminal. ESC itself is in the program's own colours and
/// progress bars.
const FORBIDDEN: [&str; 13] = [
    "\u{1b}]",
    "\u{1b}[35m",
    "\u{7}",
    "\nFORGED",
    "\u{7f}",
    "\u{9b}",
    "\u{202e}",
    "\u{2028}",
    "\u{2029}",
    "\u{2066}",
    "\u{200b}",
    "\u{61c}",
    "\u{feff}",
];

/// Every command, with what it is asked about. `EVIL` is a name that is in the store, in history
/// and on the command line.
const COMMANDS: &[&[&str]] = &[
    &["provider", "list"],
    &["provider", "show", EVIL],
    &["provider", "create", EVIL],
    &["provider", "rename", EVIL, EVIL],
    &["provider", "rename", EVIL, "other"],
    &["provider", "set-default", EVIL],
    &["provider", "rotate", EVIL],
    &["provider", "slot", "add", EVIL, EVIL],
    &["provider", "slot", "add", EVIL, "box:key", "--label", EVIL],
    &["provider", "slot", "list", EVIL],
    &["provider", "slot", "verify", EVIL],
    &["provider", "slot", "remove", EVIL, EVIL],
    &["open"],
    &["open", EVIL],
    &["provider", "reseal"],
    &["provider", "reseal", EVIL],
    &[
        "provider",
        "export",
        EVIL,
        "--output",
        "recovery",
        "--passphrase-file",
        "passphrase",
    ],
    &[
        "provider",
        "export",
        EVIL,
        "--output",
        EVIL,
        "--passphrase-file",
        "passphrase",
    ],
    &[
        "provider",
        "import",
        "exported",
        "--passphrase-file",
        "passphrase",
    ],
    &[
        "provider",
        "import",
        EVIL,
        "--passphrase-file",
        "passphrase",
    ],
    &[
        "provider",
        "import",
        "exported",
        "--passphrase-file",
        "passphrase",
        "--name",
        EVIL,
    ],
    &["provider", "delete", EVIL],
    &["provider", "delete", EVIL, "--force"],
    &["provider", "accept", EVIL],
    &["provider", "accept", EVIL, "--key", EVIL],
    &["provider", "rotate", EVIL, "--without", EVIL],
    &["fleet", "init"],
    &["fleet", "init", "--address", EVIL],
    &["fleet", "join", "--name", EVIL],
    &["fleet", "status"],
    &["fleet", "leave"],
    &["fleet", "leave", "--force"],
    &["fleet", "lost", EVIL],
    &["status", "--fleet"],
    &["check", "--fleet"],
    &["history", EVIL, "--fleet"],
    &["state", "list", "--fleet"],
    &["state", "restore", VM1, "--copy", EVIL],
    &["key", "bind", VM2, "--provider", EVIL],
    &["key", "bind", EVIL],
    &["key", "import", EVIL, "--from", "backup"],
    &["key", "import", VM1, "--from", EVIL],
    &["key", "import", VM1, "--from", "backup", "--as", EVIL],
    &["key", "metadata", EVIL],
    &["key", "metadata", EVIL, "--write"],
    &["key", "metadata", VM1],
    &["key", "list"],
    &["key", "list", EVIL],
    &["key", "show", EVIL],
    &["key", "show", VM1],
    &["key", "unbind", EVIL],
    &["key", "retire", "1"],
    &["key", "retire", EVIL],
    &["key", "renew", EVIL],
    &["key", "clone", EVIL, EVIL],
    &["key", "use", "2"],
    &["key", "prune", "--older-than", EVIL],
    &["key", "prune"],
    &["adopt", EVIL],
    &["adopt", "--all", "--provider", EVIL],
    &["check", EVIL],
    &["check", "--xml", "guest.xml"],
    &["check", "--xml", EVIL],
    &["check", "--xml", "guest.xml", "--nagios"],
    &["repair", EVIL],
    &["replay", "guest.xml", "--no-secret"],
    &["replay", "guest.xml", "--no-secret", "--operation", EVIL],
    &[
        "replay",
        "guest.xml",
        "--no-secret",
        "--config",
        "config.toml",
    ],
    &["encrypt", EVIL],
    &["reset", EVIL],
    &["stage"],
    &["sync"],
    &["unstage"],
    &["state", "list"],
    &["state", "show", EVIL],
    &["state", "restore", EVIL],
    &["state", "persist", EVIL],
    &["state", "drop", EVIL],
    &["state", "drop", VM1, "--copy", EVIL],
    &["status"],
    &["status", "--provider", EVIL],
    &["doctor", "--recovery-file", EVIL],
    &[
        "doctor",
        "--recovery-file",
        "exported",
        "--config",
        "config.toml",
    ],
    &["history"],
    &["history", EVIL],
    &["history", "--code", EVIL],
    &["history", "--since", EVIL],
    &["history", "--captures"],
    &["explain", EVIL],
    &["store", "check"],
    &["store", "backup", EVIL],
    &["store", "restore", EVIL],
    &["store", "rebuild"],
    &["store", "restore", "backup"],
    &["completions", EVIL],
    &[EVIL],
    &["key", EVIL],
    &["check", "--state-dir", EVIL, VM1],
    &["check", "--config", EVIL, VM1],
];

/// The commands without which [`COMMANDS`] would not be all.
fn verbs(command: &clap::Command, path: &str, all: &mut BTreeSet<String>) {
    for verb in command.get_subcommands() {
        let path = format!("{path} {}", verb.get_name());
        if verb.has_subcommands() {
            verbs(verb, &path, all);
        } else {
            all.insert(path.trim_start().to_owned());
        }
    }
}

#[test]
fn no_command_is_left_out() {
    let mut all = BTreeSet::new();
    verbs(&Cli::command(), "", &mut all);
    for tried in COMMANDS {
        for words in 1..=tried.len().min(3) {
            all.remove(&tried[..words].join(" "));
        }
    }
    assert_eq!(all, BTreeSet::new());
}

/// Hostile words in every column of text, in files that commands read, and nowhere a key is lost.
fn hostile_host() -> Host {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    host.name_guest(VM1, "vm1");
    host.keep_state(VM1, EVIL, STATE, CopyReason::Release);
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    store.pragma_update(None, "foreign_keys", false).unwrap();
    let repairs = serde_json::json!([{ "kind": EVIL, "key_ref": 1 }]).to_string();
    store
        .execute(
            "INSERT INTO event (domain_uuid, domain_name, operation, decision, code, message, repairs)
             VALUES (?1, ?2, ?2, 'deny', 'VG201', ?2, ?3), (?1, ?2, ?2, ?2, ?2, ?2, ?2)",
            (VM1, EVIL, repairs),
        )
        .unwrap();
    store
        .execute("UPDATE key_provider SET name = ?1", [EVIL])
        .unwrap();
    store
        .execute(
            "UPDATE key_ref SET provider_name = ?1, kek_ref = ?1, algorithm = ?1",
            [EVIL],
        )
        .unwrap();
    for (resource, key_id) in [(VM2, "x"), (EVIL, EVIL)] {
        store
            .execute(
                "INSERT INTO key_ref (resource_uuid, secret_uuid, provider_uuid, provider_name, kek_ref)
                 VALUES (?1, ?2, ?2, ?2, ?2)",
                (resource, EVIL),
            )
            .unwrap();
        store
            .execute(
                "INSERT INTO key_provider (uuid, name, kind, key_id) VALUES (?1, ?1, ?2, ?2)",
                (format!("{EVIL}{resource}"), key_id),
            )
            .unwrap();
    }
    drop(store);
    let xml = format!(
        "<domain type='kvm'><name>{}</name><uuid>{VM1}</uuid><devices><tpm model='tpm-crb'>\
         <backend type='emulator' version='2.0'>\
         <encryption secret='6dd3e4a5-1f2e-4a0b-9c8d-7e6f5a4b3c2d'/></backend></tpm></devices></domain>",
        // XML has no ESC; what it has reaches the program.
        EVIL.replace(['\u{1b}', '\u{7}', '\r', '\n'], "")
    );
    host.file("guest.xml", &xml);
    capture::keep(&host.state_dir(), xml.as_bytes(), Code::KeyMissing, EVIL, 9).unwrap();
    let captures = host.state_dir().join("captures");
    let name = format!("000000000000001-VG201-{EVIL}.xml");
    fs::write(captures.join(name), EVIL).unwrap();
    host.file(
        "config.toml",
        &format!(
            "[policy]\n\"{}\" = 1\n",
            EVIL.replace(['\r', '\n', '\u{1b}', '\u{7}', '\u{7f}'], "")
        ),
    );
    host.passphrase_file();
    host.file("exported", &EVIL.repeat(3));
    fs::copy(host.state_dir().join("store.db"), host.path("backup")).unwrap();
    host
}

/// Runs a command on a terminal of its own, a wide one. Gives all that reached it.
fn at_terminal(host: &Host, arguments: &[&str]) -> String {
    let program = host.command(arguments);
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''")));
    let words: Vec<_> = quoted.collect();
    let script = format!("stty cols 3000 rows 50\nexec {}\n", words.join(" "));
    host.file("command.sh", &script);
    let shown = Command::new("script")
        .args([
            "--quiet",
            "--return",
            "--command",
            "sh command.sh",
            "/dev/null",
        ])
        .current_dir(host.path(""))
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

fn found(shown: &str) -> Vec<&'static str> {
    // A terminal's line ends in CR LF.
    let shown = shown.replace("\r\n", "\n");
    let found = FORBIDDEN.into_iter().filter(|bytes| shown.contains(bytes));
    found.collect()
}

#[test]
fn no_command_lets_a_hostile_word_reach_a_terminal_or_a_pipe_as_it_is() {
    let host = hostile_host();
    let pristine = host.path("pristine");
    copy(&host.state_dir(), &pristine);
    let (mut seen, mut seen_on_terminal) = (0, 0);
    let mut faults = Vec::new();
    for command in COMMANDS {
        for json in [&[][..], &["--json"]] {
            let arguments = [command, json].concat();
            fs::remove_dir_all(host.state_dir()).unwrap();
            copy(&pristine, &host.state_dir());
            let ran = host.run(&arguments);
            let both = format!("{}\n{}", ran.stdout, ran.stderr);
            seen += usize::from(both.contains("FORGED"));
            let mut bytes = found(&both);
            if both.contains('\u{1b}') {
                bytes.push("\u{1b}");
            }
            if !bytes.is_empty() {
                faults.push(format!("{arguments:?} in a pipe: {bytes:?}\n{both:?}"));
            }
            fs::remove_dir_all(host.state_dir()).unwrap();
            copy(&pristine, &host.state_dir());
            let shown = at_terminal(&host, &arguments);
            seen_on_terminal += usize::from(shown.contains("FORGED"));
            let bytes = found(&shown);
            if !bytes.is_empty() {
                faults.push(format!("{arguments:?} on a terminal: {bytes:?}\n{shown:?}"));
            }
            for made in ["recovery", EVIL] {
                let _ = fs::remove_file(host.path(made));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    // The words do come out, as words.
    assert!(seen > COMMANDS.len(), "{seen}");
    assert_eq!(seen, seen_on_terminal);
}

#[test]
fn no_command_needs_a_state_directory_whose_path_is_text() {
    let host = hostile_host();
    let odd = host.path("").join(OsStr::from_bytes(b"st\xe4te"));
    let mut faults = Vec::new();
    for command in COMMANDS {
        for json in [&[][..], &["--json"]] {
            let _ = fs::remove_dir_all(&odd);
            copy(&host.state_dir(), &odd);
            let arguments = [command, json].concat();
            let ran = Ran::of(&mut host.command_in(&odd, &arguments));
            if format!("{ran:?}").contains("internal error") {
                faults.push(format!("{arguments:?}: {ran:?}"));
            }
            for made in ["recovery", EVIL] {
                let _ = fs::remove_file(host.path(made));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    let status = host.command_in(&odd, &["status", "--json"]);
    let status = Ran::of(&mut { status }).succeeds().stdout;
    assert!(status.contains("st\u{fffd}te/store.db"), "{status}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}
