//! Every command of `vtpm-guard`, for tests that play all of them.

/// The words of each: `key bind`.
pub(crate) fn every_command(cli: &clap::Command) -> Vec<String> {
    fn leaves(command: &clap::Command, words: &str, all: &mut Vec<String>) {
        if !command.has_subcommands() {
            all.push(words.trim().to_owned());
        }
        for verb in command.get_subcommands() {
            leaves(verb, &format!("{words} {}", verb.get_name()), all);
        }
    }
    let mut all = Vec::new();
    leaves(cli, "", &mut all);
    all
}

/// Asserts that each command is in one of these command lines (without the program, options of all commands before the
/// command), or has a reason not to be, and none both.
#[track_caller]
pub(crate) fn are_played_or_left_out(all: &[String], lines: &[String], left_out: &[(&str, &str)]) {
    for (left, reason) in left_out {
        assert!(
            all.iter().any(|command| command == left),
            "\"{left}\", left out because {reason}, is no command"
        );
    }
    let is_played = |command: &str| {
        let mut lines = lines.iter();
        lines.any(|line| {
            let rest = line.strip_prefix(command);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        })
    };
    let is_left_out = |command: &str| left_out.iter().any(|(left, _)| *left == command);
    let wrong = |command: &&String| is_played(command) == is_left_out(command);
    let wrong: Vec<_> = all.iter().filter(wrong).collect();
    assert!(
        wrong.is_empty(),
        "neither played nor left out with a reason, or both: {wrong:?}"
    );
}
