//! `key retire`: retires a key reference.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::ids::KeyRefId;
use crate::manage::key_refs::{Retired, retire};
use crate::messages::Command;

pub(super) fn run(context: &Context, id: KeyRefId) -> Result<(), CommandError> {
    context.output.print(&retire(&context.host, id)?)
}

impl Answer for Retired {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let id = self.id;
        if self.changed {
            writeln!(
                out,
                "key reference {id} is retired; its wrapped key is kept"
            )
        } else {
            writeln!(
                out,
                "key reference {id} is already retired; nothing changed"
            )
        }
    }

    fn notes(&self) -> Vec<String> {
        let note = format!(
            "{} has no key in use now; to use this one again: {}",
            self.guest.label(),
            Command::KeyUse(self.id.into())
        );
        self.was_last.then_some(note).into_iter().collect()
    }
}
