//! Every command line that a message may name is one that its program takes; every command has its
//! place in the help.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::{Cli, headings};
use crate::messages::Command;

/// The other programs that messages name.
const OTHER_PROGRAMS: [&str; 25] = [
    "ausearch",
    "chmod",
    "chown",
    "df",
    "findmnt",
    "kill",
    "ln",
    "ls",
    "man",
    "mkdir",
    "mount",
    "mv",
    "pgrep",
    "ps",
    "restorecon",
    "rm",
    "sed",
    "semodule",
    "sqlite3",
    "systemctl",
    "systemd-creds",
    "timedatectl",
    "tpm2_changeauth",
    "uuidgen",
    "virsh",
];

#[test]
fn every_command_in_a_message_parses() {
    for command in Command::every() {
        let line = command.to_string();
        // A key reference is a number.
        let words: Vec<_> = line
            .split(' ')
            .map(|word| if word == "KeyRef" { "1" } else { word })
            .collect();
        if OTHER_PROGRAMS.contains(&words[0]) || line.starts_with("virt-install --print-xml") {
            continue;
        }
        assert_eq!(words[0], "vtpm-guard", "{line}");
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_could_only_be_ignored_is_a_wrong_argument() {
    for line in [
        "check --fleet --nagios",
        "check --fleet --metrics FILE",
        "check --fleet --all",
        "history --captures --limit 3",
        "history --captures --since 2h",
        "history --captures vm1",
        "history --fleet --captures",
        "history --fleet --code VG101",
        "status --fleet --problems",
        "status --fleet --plain",
        "status --fleet --provider a",
        "sync --follow --compare",
        "sync --follow --metadata-only",
        "sync --compare --metadata-only",
        "doctor --passphrase-file FILE",
        "replay FILE --capture 1",
        "adopt vm1 --all",
    ] {
        let words = ["vtpm-guard"].into_iter().chain(line.split(' '));
        let kind = Cli::try_parse_from(words).map_err(|error| error.kind());
        let expected = [
            ErrorKind::ArgumentConflict,
            ErrorKind::MissingRequiredArgument,
        ];
        assert!(kind.is_err_and(|kind| expected.contains(&kind)), "{line}");
    }
}

#[test]
fn every_command_is_listed_once() {
    let mut listed: Vec<_> = headings::GROUPS
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    listed.extend(headings::OF_UNITS);
    listed.sort_unstable();
    let mut cli = Cli::command();
    cli.build();
    let mut all: Vec<_> = cli.get_subcommands().map(clap::Command::get_name).collect();
    all.sort_unstable();
    assert_eq!(listed, all);
}
