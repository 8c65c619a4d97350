//! `doctor`: what can make the guard fail silently, or a start fail later.

mod hook;
mod host;
mod key;
mod seal;

use std::io;
use std::process::ExitCode;

use comfy_table::Color;
use serde::Serialize;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::passphrase;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, NOTABLE};
use crate::manage::checks::{Finding, RecoveryFiles, examine};
use crate::messages::count;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Severity {
    /// The guard does not do its work, or a start will fail.
    #[serde(rename = "fault")]
    Error,
    /// It works, and something should be addressed.
    #[serde(rename = "advice")]
    Warning,
    /// A fact about this host that helps to understand what happens on it.
    #[serde(rename = "note")]
    Note,
}

/// A finding in words: what, why it matters, the command that fixes it.
#[derive(Debug, Serialize)]
struct Described {
    severity: Severity,
    what: String,
    why: &'static str,
    command: String,
}

impl Described {
    fn error(what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            what: what.into(),
            why,
            command: fix.into(),
        }
    }

    fn warning(what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(what, why, fix)
        }
    }

    fn note(what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(what, why, fix)
        }
    }
}

pub(crate) fn run(
    context: &Context,
    recovery: &args::RecoveryFiles,
) -> Result<ExitCode, CommandError> {
    let passphrase = recovery.passphrase_file.as_deref();
    let recovery = RecoveryFiles {
        files: &recovery.recovery_file,
        passphrase: passphrase
            .map(|file| passphrase::ask(Some(file)))
            .transpose()?,
    };
    let found = examine(&context.host, &recovery);
    let mut described: Vec<_> = found.iter().map(describe).collect();
    described.sort_by_key(|one| one.severity);
    context.output.print(&described)?;
    let errors = number(&described, Severity::Error);
    Ok(ExitCode::from(u8::from(errors > 0)))
}

fn describe(finding: &Finding) -> Described {
    match finding {
        Finding::Hook(finding) => hook::describe(finding),
        Finding::Host(finding) => host::describe(finding),
        Finding::Key(finding) => key::describe(finding),
    }
}

fn number(described: &[Described], severity: Severity) -> usize {
    let such = described.iter().filter(|one| one.severity == severity);
    such.count()
}

impl Answer for Vec<Described> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        for one in self {
            let (colour, sign, gap) = match one.severity {
                Severity::Error => (BAD, "error", "    "),
                Severity::Warning => (NOTABLE, "warning", "  "),
                Severity::Note => (Color::Reset, "note", "     "),
            };
            out.painted(colour, sign)?;
            out.part(format_args!("{gap}"))?;
            out.hanging(9, &one.what)?;
            out.part(format_args!("         why: "))?;
            out.hanging(14, one.why)?;
            // To be copied: no line breaks are put into it.
            writeln!(out, "         fix: {}", one.command)?;
        }
        let errors = number(self, Severity::Error);
        match (errors, number(self, Severity::Warning)) {
            (0, 0) => writeln!(out, "nothing found"),
            (errors, warnings) => writeln!(
                out,
                "{}, {}",
                count(errors, "error"),
                count(warnings, "warning")
            ),
        }
    }
}
