//! vtpm-guard(8): the command line, verb by verb, in the words of `--help`.

use clap::{Arg, ArgGroup, Command, CommandFactory};
use vtpm_guard::internals::cli::args::Cli;

use crate::page::Page;

pub(crate) fn page() -> Page {
    let mut cli = Cli::command();
    cli.build();
    let mut page = Page::new(
        "vtpm-guard",
        8,
        "guards the start of guests with encrypted vTPMs",
    );
    page.section("SYNOPSIS")
        .text("vtpm-guard [--config FILE] [--state-dir DIR] [--json] COMMAND ...");
    page.section("DESCRIPTION");
    let about = cli.get_long_about().unwrap().to_string();
    for paragraph in about.split("\n\n") {
        page.paragraph(&joined(paragraph));
    }
    page.section("OPTIONS");
    for option in cli.get_arguments().filter(|arg| is_described(arg)) {
        page.entry(&term(option), &meaning(option));
    }
    page.section("COMMANDS");
    let (groups, single): (Vec<_>, Vec<_>) = cli
        .get_subcommands()
        .partition(|verb| verb.has_subcommands());
    for verb in single.into_iter().chain(groups) {
        describe(&mut page, verb, "");
    }
    page.section("EXIT STATUS");
    let statuses = cli.get_after_help().unwrap().to_string();
    page.text(&joined(statuses.trim_start_matches("Exit status: ")));
    page.section("ENVIRONMENT");
    page.entry("NO_COLOR", "If set and not empty, nothing is coloured.");
    page.section("FILES");
    for (path, what) in [
        (
            "/etc/vtpm-guard/config.toml",
            "The configuration: vtpm-guard.toml(5).",
        ),
        (
            "/var/lib/vtpm-guard/store.db",
            "Providers, key references, history.",
        ),
        ("/var/lib/vtpm-guard/keys", "The providers' keys, sealed."),
        (
            "/var/lib/vtpm-guard/captures",
            "The domain XML of the last refused starts, without the passwords of graphics devices. \
             <sysinfo>, <qemu:commandline> and <metadata> are in it, and may hold confidential data.",
        ),
        (
            "/etc/libvirt/hooks/qemu.d/50-vtpm-guard",
            "The link by which libvirtd finds the hook.",
        ),
    ] {
        page.entry(path, what);
    }
    page.see_also(
        "vtpm-guard-hook(8), vtpm-guard.toml(5), vtpm-guard-codes(7), virsh(1), swtpm(8)",
    );
    page
}

/// A verb with its arguments; a verb that has verbs of its own, by those.
fn describe(page: &mut Page, command: &Command, path: &str) {
    let name = command.get_name();
    if name == "help" {
        return;
    }
    let path = format!("{path}{name} ");
    if command.has_subcommands() {
        page.subsection(&format!("vtpm-guard {path}..."));
        page.text(&sentence(&command.get_about().unwrap().to_string()));
        for verb in command.get_subcommands() {
            describe(page, verb, &path);
        }
        return;
    }
    let usage = format!("{path}{}", arguments(command));
    let about = command.get_long_about().or(command.get_about()).unwrap();
    page.entry(usage.trim_end(), &sentence(&joined(&about.to_string())));
    page.indent();
    for argument in own_arguments(command) {
        page.entry(&term(argument), &meaning(argument));
    }
    page.outdent();
}

fn own_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_global_set() && is_described(arg))
}

fn is_described(arg: &Arg) -> bool {
    !["help", "version"].contains(&arg.get_id().as_str())
}

/// `DOMAIN --provider NAME`; alternatives as `DOMAIN... | --all`.
fn arguments(command: &Command) -> String {
    let choice = command
        .get_groups()
        .find(|group| group.is_required_set() && !is_multiple(group));
    let mut words = Vec::new();
    if let Some(group) = choice {
        let alternatives: Vec<String> = own_arguments(command)
            .filter(|arg| group.get_args().any(|id| id == arg.get_id()))
            .map(term)
            .collect();
        words.push(alternatives.join(" | "));
    }
    for arg in own_arguments(command) {
        if choice.is_some_and(|group| group.get_args().any(|id| id == arg.get_id())) {
            continue;
        }
        let word = term(arg);
        let needed = arg.is_required_set();
        words.push(if needed { word } else { format!("[{word}]") });
    }
    words.join(" ")
}

fn is_multiple(group: &ArgGroup) -> bool {
    group.clone().is_multiple()
}

fn term(arg: &Arg) -> String {
    let values: Vec<String> = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    let value = values.join(" ");
    let takes_value = arg.get_action().takes_values();
    match arg.get_long() {
        Some(long) if takes_value => format!("--{long} {value}"),
        Some(long) => format!("--{long}"),
        None if matches!(arg.get_action(), clap::ArgAction::Append) => format!("{value}..."),
        None => value,
    }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or(arg.get_help());
    let text = sentence(&joined(&help.map(ToString::to_string).unwrap_or_default()));
    match arg.get_default_values() {
        [default] if arg.get_action().takes_values() => {
            format!("{text} Default: {}.", default.to_string_lossy())
        }
        _ => text,
    }
}

/// The lines of a paragraph as one.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// clap takes the full stop from short texts.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', '?', '!']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}
