//! `history`: past decisions, newest first.

use std::io;

use crate::cli::args;
use crate::cli::commands::explain;
use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::cli::ui::time;
use crate::manage::history::{Asked, Decisions, history};
use crate::messages::{Arg, Command, label};

pub(crate) fn run(context: &Context, which: &args::Decisions) -> Result<(), CommandError> {
    let at = |text: &Option<String>| text.as_deref().map(time::parse).transpose();
    let asked = Asked {
        guest: which.domain.as_deref(),
        code: which.code.as_deref().map(explain::parse).transpose()?,
        since: at(&which.since)?,
        until: at(&which.until)?,
    };
    let decisions = history(&context.host, asked, which.limit)?;
    context.output.print(&decisions)
}

impl Answer for Decisions {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.list.is_empty() {
            let none = if self.all {
                "decisions yet"
            } else {
                "such decisions"
            };
            return writeln!(out, "no {none}");
        }
        let mut rows = table(&[
            "WHEN",
            "DOMAIN",
            "OPERATION",
            "DECISION",
            "REPAIRS",
            "MESSAGE",
        ]);
        for decision in &self.list {
            rows.add_row([
                Cell::new(time(Some(decision.at))),
                Cell::new(decision.guest.name.as_deref().unwrap_or_default()),
                Cell::new(&decision.operation),
                match decision.code {
                    None if decision.has_failed() => Cell::new("failed").fg(BAD),
                    None => Cell::new("allow").fg(GOOD),
                    Some(code) => Cell::new(code).fg(BAD),
                },
                Cell::new(decision.repair_kinds().join(" ")),
                Cell::new(&decision.message),
            ]);
        }
        out.table(&rows)
    }

    /// What an administrator who asked for a name may not know of it.
    fn notes(&self) -> Vec<String> {
        let Some(name) = &self.name else {
            return Vec::new();
        };
        let mut notes = Vec::new();
        let names: Vec<_> = self.other_names().into_iter().map(label).collect();
        if !names.is_empty() {
            notes.push(format!("also listed: its other names {}", names.join(", ")));
        }
        let guests = self.guests();
        if guests > 1 {
            notes.push(format!(
                "{guests} guests had the name {}; for one of them: {} (--json shows the UUIDs)",
                label(name),
                Command::HistoryOf(Arg::BY_UUID)
            ));
        }
        notes
    }
}
