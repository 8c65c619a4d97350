//! That every command is killed, or has a reason not to be.

use super::*;

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
    use clap::CommandFactory;
    fn leaves(command: &clap::Command, words: &str, all: &mut Vec<String>) {
        if !command.has_subcommands() {
            all.push(words.trim().to_owned());
        }
        for verb in command.get_subcommands() {
            leaves(verb, &format!("{words} {}", verb.get_name()), all);
        }
    }
    let mut commands = Vec::new();
    leaves(&crate::cli::args::Cli::command(), "", &mut commands);
    let killed = all();
    let left_out = |command: &str| {
        let is_it = |(left, _): &&(&str, &str)| command == *left;
        LEFT_OUT.iter().any(|it| is_it(&it))
    };
    for command in &commands {
        let is_killed = killed.iter().any(|it| it.command == command);
        assert!(
            is_killed != left_out(command),
            "{command}: killed {is_killed}, left out {}",
            left_out(command)
        );
    }
    for scenario in &killed {
        let is_hook = scenario.tool == Tool::Hook;
        assert!(
            is_hook || commands.iter().any(|it| it == scenario.command),
            "{} is no command",
            scenario.command
        );
    }
}
