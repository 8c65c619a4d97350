//! `provider set-default`: makes a provider the default.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::provider_create::{DefaultProvider, set_default};
use crate::messages::quoted;

pub(super) fn run(context: &Context, name: &str) -> Result<(), CommandError> {
    context.output.print(&set_default(&context.host, name)?)
}

impl Answer for DefaultProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let name = quoted(&self.provider.name);
        if self.changed {
            writeln!(out, "provider {name} is now the default")
        } else {
            writeln!(
                out,
                "provider {name} is already the default; nothing changed"
            )
        }
    }
}
