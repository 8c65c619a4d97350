//! That every command is killed, or has a reason not to be.

#[path = "../../commands/mod.rs"]
mod commands;

use clap::CommandFactory;

use self::commands::{are_played_or_left_out, every_command};
use super::*;
use crate::cli::args::Cli;

/// Commands that are not killed here, and why.
const LEFT_OUT: [(&str, &str); 14] = [
    ("completions", READS),
    ("doctor", READS),
    ("explain", READS),
    ("history", READS),
    ("key list", READS),
    ("key show", READS),
    ("provider list", READS),
    ("provider show", READS),
    ("provider slot list", READS),
    ("state list", READS),
    ("state show", READS),
    ("status", READS),
    ("store check", READS),
    ("fleet status", READS),
];

const READS: &str = "it changes nothing";

#[test]
fn every_command_is_killed_or_has_a_reason_not_to_be() {
    let commands = every_command(&Cli::command());
    let scenarios = all();
    let commanded = scenarios.iter().filter(|it| it.tool != Tool::Hook);
    let killed: Vec<_> = commanded.map(|it| it.command.to_owned()).collect();
    for command in &killed {
        assert!(commands.contains(command), "{command} is no command");
    }
    are_played_or_left_out(&commands, &killed, &LEFT_OUT);
}
