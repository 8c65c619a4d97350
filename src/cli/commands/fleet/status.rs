//! `fleet status`: the shared store, and the hosts as they last reported.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::manage::fleet::{FleetHost, FleetStatus, status};
use crate::messages::quoted;

pub(super) fn run(context: &Context) -> Result<ExitCode, CommandError> {
    let found = status(&context.host)?;
    let is_silent = found.server.is_none();
    context.output.print(&found)?;
    Ok(ExitCode::from(if is_silent { 4 } else { 0 }))
}

impl Answer for FleetStatus {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(out, "this host:     {} ({})", quoted(&self.name), self.host)?;
        out.part(format_args!("shared store:  "))?;
        if let (Some(server), Some(role)) = (&self.server, &self.role) {
            writeln!(out, "{server}, as {role}")?;
        } else {
            out.painted(BAD, "does not answer")?;
            writeln!(out, ": {}", self.trouble.as_deref().unwrap_or_default())?;
        }
        writeln!(out, "last exchange: {}", time(self.synced_at))?;
        writeln!(out, "last compared: {}", time(self.compared_at))?;
        writeln!(out, "not told yet:  {}", self.outbox)?;
        if self.hosts.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut rows = table(&["HOST", "REPORTED", "VERSION", "GUESTS", "REFUSED", "KEYS"]);
        for host in &self.hosts {
            rows.add_row(row(host));
        }
        out.table(&rows)
    }

    fn notes(&self) -> Vec<String> {
        let ahead = self.clock_ahead_ms.unwrap_or_default();
        if ahead.abs() < 5_000 {
            return Vec::new();
        }
        let seconds = ahead.abs() / 1000;
        let way = if ahead > 0 { "behind" } else { "ahead of" };
        vec![format!(
            "this host's clock is {seconds} s {way} that of the shared store: which host had a guest last is told by clocks"
        )]
    }
}

fn row(host: &FleetHost) -> [Cell; 6] {
    let number = |count: Option<usize>| count.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let keks: Vec<_> = host
        .keks
        .iter()
        .map(|id| id.get(..8).unwrap_or(id))
        .collect();
    [
        Cell::new(&host.name),
        Cell::new(time(host.reported_at)),
        Cell::new(host.version.as_deref().unwrap_or("-")),
        Cell::new(number(host.guests)),
        match host.refused {
            Some(0) => Cell::new(0).fg(GOOD),
            Some(refused) => Cell::new(refused).fg(BAD),
            None => Cell::new("-"),
        },
        Cell::new(keks.join(" ")),
    ]
}
