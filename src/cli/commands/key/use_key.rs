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
            self.key_ref,
            self.guest.label()
        )?;
        if self.key_ref != self.id {
            writeln!(
                out,
                "it holds the key of key reference {}, as generation {}: hosts that have another key \
                 of the guest use this one",
                self.id, self.generation
            )?;
        }
        if self.may_be_passed_over {
            writeln!(
                out,
                "its provider key does not open on this host, so it stays generation {}: a host that \
                 has a newer key of the guest uses that one when the guest arrives",
                self.generation
            )?;
        }
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
