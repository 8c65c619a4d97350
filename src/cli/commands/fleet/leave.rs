//! `fleet leave`: this host leaves its fleet.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::fleet::{FleetCommandError, Left, leave};
use crate::messages::{Command, count, quoted};

pub(super) fn run(context: &Context, force: bool) -> Result<(), CommandError> {
    match leave(&context.host, force) {
        Err(error @ FleetCommandError::Shared(_)) => {
            Err(CommandError::failed(error).with_hint(format!(
                "retry once it answers; to leave all the same: {}",
                Command::FleetLeaveForced
            )))
        }
        answer => context.output.print(&answer?),
    }
}

impl Answer for Left {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let name = quoted(&self.name);
        writeln!(out, "{name} has left the fleet; the keys on this host stay")
    }

    fn notes(&self) -> Vec<String> {
        let lost = count(self.lost_facts, "change");
        match &self.trouble {
            Some(trouble) => vec![format!(
                "the fleet was not told, nor of {lost} of this host: {trouble}"
            )],
            None if self.lost_facts > 0 => {
                vec![format!("the fleet was not told of {lost} of this host")]
            }
            None => Vec::new(),
        }
    }
}
