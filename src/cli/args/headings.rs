//! The list of commands in the help of the program, under headings.

use std::fmt::Write as _;

use clap::Subcommand as _;
use clap::builder::styling::Styles;

use super::Command;

/// What a person works on, and the commands for it.
pub(super) const GROUPS: [(&str, &[&str]); 3] = [
    (
        "Guests",
        &[
            "check", "repair", "adopt", "encrypt", "reset", "state", "history",
        ],
    ),
    (
        "Keys",
        &["provider", "open", "key", "store", "sync", "fleet"],
    ),
    (
        "Host",
        &[
            "status",
            "doctor",
            "explain",
            "replay",
            "completions",
            "help",
        ],
    ),
];

/// The commands that units of systemd run.
pub(super) const OF_UNITS: [&str; 2] = ["stage", "unstage"];

/// The help of the program, for clap to fill in.
pub(super) fn template() -> String {
    let styles = Styles::styled();
    let (heading, literal) = (styles.get_header(), styles.get_literal());
    let commands = Command::augment_subcommands(clap::Command::new("vtpm-guard"));
    let about = |name: &str| {
        let found = commands.find_subcommand(name);
        let about = found.and_then(clap::Command::get_about);
        about.map_or_else(
            || "Show the help of a command".to_owned(),
            ToString::to_string,
        )
    };
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    // Writing into a string does not fail.
    for (group, names) in GROUPS {
        let _ = writeln!(text, "\n{heading}{group}:{heading:#}");
        for name in names {
            let _ = writeln!(text, "  {literal}{name:13}{literal:#}{}", about(name));
        }
    }
    let of_units = OF_UNITS.join(", ");
    let _ = writeln!(
        text,
        "\nRun by libvirtd's unit: {of_units} (vtpm-guard help COMMAND)"
    );
    text + &format!("\n{heading}Options:{heading:#}\n{{options}}{{after-help}}")
}
