//! Every command line that a message may name is one that its program takes.

use clap::Parser;

use super::Cli;
use crate::messages::Command;

/// The other programs that messages name.
const OTHER_PROGRAMS: [&str; 19] = [
    "ausearch",
    "chmod",
    "chown",
    "kill",
    "ln",
    "man",
    "mkdir",
    "mount",
    "mv",
    "pgrep",
    "ps",
    "restorecon",
    "rm",
    "setsebool",
    "sqlite3",
    "systemctl",
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
