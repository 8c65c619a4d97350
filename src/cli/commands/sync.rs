//! `sync`: the keys of guests in their domain XML.

use std::io;
use std::process::ExitCode;
use std::sync::OnceLock;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::cli::ui::travelling::finding;
use crate::manage::sync::{SyncAction, SyncError, Synced, SyncedGuest, sync};
use crate::messages::count;

pub(crate) fn run(context: &Context) -> Result<ExitCode, CommandError> {
    let progress = OnceLock::new();
    let synced = sync(&context.host, &|all, name| {
        let progress = progress.get_or_init(|| Progress::new("writing", all));
        progress.at(name);
    });
    progress.into_inner().as_ref().map(Progress::done);
    let synced = synced?;
    context.output.print(&synced)?;
    Ok(ExitCode::from(if synced.failed > 0 { 4 } else { 0 }))
}

impl Answer for Synced {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let shown: Vec<_> = self
            .guests
            .iter()
            .filter(|guest| guest.is_shown())
            .collect();
        if !shown.is_empty() {
            let mut lines = table(&["DOMAIN", "KEYS", "RESULT", "WHY"]);
            for guest in shown {
                lines.add_row([
                    Cell::new(guest.guest.label()),
                    Cell::new(guest.keys),
                    guest.result(),
                    Cell::new(guest.why()),
                ]);
            }
            out.table(&lines)?;
        }
        let mut parts = vec![
            format!("written for {}", count(self.written, "guest")),
            format!("removed for {}", self.removed),
        ];
        if self.later > 0 {
            parts.push(format!("{} later", self.later));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        writeln!(out, "{}", parts.join(", "))
    }

    fn notes(&self) -> Vec<String> {
        let of_guest = |guest: &SyncedGuest| -> Vec<String> {
            let findings = guest.findings.iter();
            findings.map(|it| finding(&guest.guest, it)).collect()
        };
        self.guests.iter().flat_map(of_guest).collect()
    }
}

impl SyncedGuest {
    /// Nobody reads a table of a thousand guests to which nothing was done.
    fn is_shown(&self) -> bool {
        self.action != SyncAction::None
    }

    fn result(&self) -> Cell {
        let word = Cell::new(self.action.word());
        match self.action {
            SyncAction::Written | SyncAction::Removed => word.fg(GOOD),
            SyncAction::Later | SyncAction::Left => word.fg(NOTABLE),
            SyncAction::Failed => word.fg(BAD),
            SyncAction::None => word,
        }
    }

    fn why(&self) -> String {
        match (self.action, &self.error) {
            (_, Some(error)) => error.clone(),
            (SyncAction::Later, None) => "the guest is busy (a migration, a save)".to_owned(),
            (SyncAction::Left, None) => "nothing may be lost".to_owned(),
            _ => String::new(),
        }
    }
}

impl From<SyncError> for CommandError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Running => Self::failed(error).with_hint("retry"),
            SyncError::Host(error) => error.into(),
        }
    }
}
