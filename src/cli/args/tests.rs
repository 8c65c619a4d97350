//! Every command line that a message may name is one that its program takes; every command has its
//! place in the help.

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
