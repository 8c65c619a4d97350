//! `fleet lost`: a host is down.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::fleet::{LostHost, lost};
use crate::messages::{count, quoted};

/// Exits with 4 if the other hosts do not know of it.
pub(super) fn run(context: &Context, host: &str) -> Result<ExitCode, CommandError> {
    let lost = lost(&context.host, host)?;
    context.output.print(&lost)?;
    Ok(ExitCode::from(if lost.told { 0 } else { 4 }))
}

impl Answer for LostHost {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let host = quoted(&self.name);
        if self.guests.is_empty() {
            return writeln!(out, "host {host} runs no guest, as far as this host knows");
        }
        let guests = count(self.guests.len(), "guest");
        writeln!(out, "{guests} of host {host} may start here:")?;
        self.guests
            .iter()
            .try_for_each(|guest| writeln!(out, "  {}", guest.label()))
    }

    fn notes(&self) -> Vec<String> {
        let untold =
            |why: &String| format!("the other hosts were not told: {why}; run it again later");
        self.trouble.iter().map(untold).collect()
    }
}
