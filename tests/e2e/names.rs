//! Guests whose names somebody chose with care: libvirt takes any, and the guard's answers and
//! hints are about the guest that is meant all the same.

use std::process::Command;

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output};

/// A guest of this name whose key was used, and whose TPM state is gone: a start is refused with
/// VG205, and its hint names `reset`.
fn lost_guest(host: &Host, name: &str) -> Guest {
    let guest = host.define_guest("nobody", Tpm::Encrypted(SecretUuid::random()));
    host.guard(&[
        "key",
        "bind",
        &guest.uuid.to_string(),
        "--provider",
        "nkp-a",
    ])
    .ok();
    host.start_and_stop(&guest);
    host.virsh(&["domrename", "nobody", "--", name]).ok();
    host.remove_tpm_state(&guest);
    Guest {
        name: name.to_owned(),
        ..guest
    }
}

fn start(host: &Host, guest: &Guest) -> Output {
    host.virsh(&["start", "--domain", &guest.uuid.to_string()])
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_that_is_named_after_another_one_turns_no_hint_against_it() {
    let (host, vm1) = Host::with_used_guest();
    let thief = lost_guest(&host, &vm1.uuid.to_string());

    // virsh looks for a UUID first, too: only the thief's own starts it.
    let refused = start(&host, &thief);
    let hint = format!("vtpm-guard reset {}", thief.uuid);
    assert!(refused.stderr.contains("VG205"), "{refused:?}");
    assert!(refused.stderr.trim_end().ends_with(&hint), "{refused:?}");

    let before = host.key_refs(&vm1);
    let uuid = vm1.uuid.to_string();
    for verb in [
        &["reset"][..],
        &["check"],
        &["repair"],
        &["encrypt"],
        &["adopt"],
        &["key", "show"],
        &["key", "list"],
        &["key", "bind"],
        &["key", "unbind"],
        &["key", "renew"],
        &["key", "clone", "vm1"],
        &["state", "show"],
        &["state", "restore"],
    ] {
        let answer = host.guard(&[verb, &[uuid.as_str()]].concat());
        assert_eq!(answer.status, 2, "{verb:?}: {answer:?}");
        let words = format!(
            "\"{uuid}\" is ambiguous: it is the UUID of one guest (vm1) and the name of another (UUID {})",
            thief.uuid
        );
        assert!(answer.stderr.contains(&words), "{verb:?}: {answer:?}");
        let hint = format!("for the first: vm1; for the other: {}", thief.uuid);
        assert!(answer.stderr.contains(&hint), "{verb:?}: {answer:?}");
    }
    assert_eq!(host.key_refs(&vm1), before);
    assert_eq!(host.guard(&["check", "vm1"]).status, 0);

    // The hint, word for word.
    host.guard(&["reset", &thief.uuid.to_string()]).ok();
    assert_eq!(host.key_refs(&vm1), before);
    start(&host, &thief).ok();
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_name_that_would_be_read_as_something_else_is_not_used_in_hints() {
    let host = Host::new();
    host.create_provider("nkp-a");
    // The last one is a UUID to virsh, which takes dashes between any two bytes.
    for name in [
        "-f",
        "7",
        "ev\u{202e}il",
        "a\u{200b}b",
        "6695eb01f6a48304-79-aa-97f2-502e193f",
    ] {
        let guest = lost_guest(&host, name);
        let refused = start(&host, &guest);
        let hint = format!("vtpm-guard reset {}", guest.uuid);
        assert!(refused.stderr.contains("VG205"), "{refused:?}");
        assert!(refused.stderr.trim_end().ends_with(&hint), "{refused:?}");
        let checked = host.guard(&["check", "--", name]);
        assert_eq!(checked.status, 1, "{checked:?}");
        assert!(checked.stdout.trim_end().ends_with(&hint), "{checked:?}");
    }
    // One that is a command line is a word of the command.
    let name = "x; vtpm-guard provider delete nkp-a --force";
    let refused = start(&host, &lost_guest(&host, name));
    assert!(
        refused
            .stderr
            .contains(&format!(": \"{name}\": the vTPM's key")),
        "{refused:?}"
    );
    let hint = format!("vtpm-guard reset '{name}'");
    assert!(refused.stderr.trim_end().ends_with(&hint), "{refused:?}");
}

/// Runs the administrator's command on a terminal.
fn at_terminal(host: &Host, arguments: &str) -> String {
    let command = format!("stty cols 3000; exec /usr/sbin/vtpm-guard {arguments}");
    let mut script: Command = host.command(&[
        "script",
        "--quiet",
        "--return",
        "--command",
        &command,
        "/dev/null",
    ]);
    let shown = script.env("TERM", "xterm").output().unwrap();
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_hostile_name_reaches_no_terminal_and_no_log_as_it_is() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let name = "ev\u{9b}31mil\u{202e}\u{2028}\u{7f}\u{200b}";
    let guest = lost_guest(&host, name);
    // Progress bars are shown for several guests.
    lost_guest(&host, "other");
    start(&host, &guest);
    host.forget_boot();
    let shown = [
        "check --all",
        "check --all --json",
        "repair --all",
        "adopt --all",
        "status",
        "status --json",
        "history",
        "history --captures",
        "key list",
        "key prune",
        "doctor",
        "provider delete nkp-a",
        "stage",
        "unstage",
    ]
    .map(|arguments| at_terminal(&host, arguments));
    let log = host.read("/var/log/vtpm-guard.log");
    for shown in shown.iter().chain([&log]) {
        for forbidden in ["\u{9b}", "\u{202e}", "\u{2028}", "\u{7f}", "\u{200b}"] {
            assert!(!shown.contains(forbidden), "{forbidden:?}: {shown:?}");
        }
    }
    let named = shown.iter().filter(|shown| shown.contains("31mil"));
    assert!(named.count() > 5, "{shown:#?}");
    assert!(log.contains("31mil"), "{log}");
}
