//! `key use`: makes a key reference the one key of its guest.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::ids::KeyRefId;
use crate::manage::key_refs::{Used, use_key};
use crate::messages::count;

pub(super) fn run(context: &Context, id: KeyRefId) -> Result<(), CommandError> {
    context.output.print(&use_key(&context.host, id)?)
}

impl Answer for Used {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let unchanged = if self.changed {
            ""
        } else {
            "; nothing changed"
        };
        writeln!(
            out,
            "key reference {} is the key of {}{unchanged}",
            self.id,
            self.guest.label()
        )?;
        match self.retired.len() {
            0 => Ok(()),
            others => writeln!(
                out,
                "{} retired for it",
                count(others, "other key reference")
            ),
        }
    }
}
