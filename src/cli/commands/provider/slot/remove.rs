//! `provider slot remove`: one way less to a provider's key.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::slots::{RemovedSlot, remove};
use crate::messages::quoted;

pub(super) fn run(context: &Context, name: &str, slot: &str) -> Result<(), CommandError> {
    context.output.print(&remove(&context.host, name, slot)?)
}

impl Answer for RemovedSlot {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(
            out,
            "{} no longer opens the key {} of provider {}",
            quoted(&self.slot.name()),
            self.slot.key_id.short(),
            quoted(&self.provider.name)
        )
    }
}
