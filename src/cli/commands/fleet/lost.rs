//! `fleet lost`: a host is off for good.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::fleet::{LostHost, lost};
use crate::messages::{count, quoted};

pub(super) fn run(context: &Context, host: &str) -> Result<(), CommandError> {
    context.output.print(&lost(&context.host, host)?)
}

impl Answer for LostHost {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let (name, guests) = (quoted(&self.name), count(self.guests.len(), "guest"));
        writeln!(out, "host {name} counts as off; {guests} ran there:")?;
        for guest in &self.guests {
            writeln!(out, "  {}", guest.label())?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        if self.told {
            return Vec::new();
        }
        vec!["the shared store does not answer: the other hosts hear it later".to_owned()]
    }
}
