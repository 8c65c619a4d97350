//! `--help` of every command, word by word, and the completions.

use clap::CommandFactory;
use vtpm_guard::internals::cli::args::Cli;

use crate::env::{Host, golden_verbatim};

/// Every command line that has a help text; the first is that of the program itself.
pub(crate) fn commands() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    collect(&Cli::command(), &[], &mut all);
    all
}

fn collect(command: &clap::Command, prefix: &[String], all: &mut Vec<Vec<String>>) {
    all.push(prefix.to_vec());
    for verb in command.get_subcommands() {
        let mut path = prefix.to_vec();
        path.push(verb.get_name().to_owned());
        collect(verb, &path, all);
    }
}

#[test]
fn every_command_explains_itself() {
    let host = Host::new();
    let all = commands();
    assert!(all.len() > 25, "{all:?}");
    for path in all {
        let mut arguments: Vec<_> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let ran = host.run(&arguments).succeeds();
        assert_eq!(ran.stderr, "");
        let name = ["help", &path.join("-")].join("-");
        golden_verbatim(name.trim_end_matches('-'), &ran);
    }
}

#[test]
fn completions_know_the_verbs_of_each_shell() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = host.run(&["completions", shell]).succeeds().stdout;
        assert!(script.contains("set-default"), "{shell}");
    }
    host.run(&["completions", "tcsh"]).ends_with(2);
}

#[test]
fn without_a_verb_or_with_a_wrong_one_usage_is_told() {
    let host = Host::new();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["provider"],
        &["provider", "create"],
        &["key", "bind"],
    ] {
        let ran = host.run(arguments).ends_with(2);
        assert!(
            ran.stdout.is_empty() && ran.stderr.contains("Usage:"),
            "{ran:?}"
        );
    }
}
