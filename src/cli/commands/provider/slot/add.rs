//! `provider slot add`: one more way to a provider's key.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::slots::{AddedSlot, SlotSpec, add};
use crate::messages::quoted;

pub(super) fn run(
    context: &Context,
    name: &str,
    slot: &SlotSpec,
    label: Option<&str>,
) -> Result<(), CommandError> {
    let added = add(&context.host, name, slot, label)?;
    context.output.print(&added)
}

impl Answer for AddedSlot {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(
            out,
            "the key {} of provider {} opens through {}, of kind {}: verified",
            self.slot.key_id.short(),
            quoted(&self.provider.name),
            quoted(&self.slot.name()),
            self.slot.kind
        )
    }
}
