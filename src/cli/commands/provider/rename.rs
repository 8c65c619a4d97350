//! `provider rename`: gives a provider another name.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::provider_rename::{RenamedProvider, rename};
use crate::messages::quoted;

pub(super) fn run(context: &Context, name: &str, new_name: &str) -> Result<(), CommandError> {
    context
        .output
        .print(&rename(&context.host, name, new_name)?)
}

impl Answer for RenamedProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let name = quoted(&self.provider.name);
        if self.changed {
            let old = quoted(&self.old_name);
            writeln!(out, "provider {old} is now called {name}")
        } else {
            writeln!(
                out,
                "provider {name} already has that name; nothing changed"
            )
        }
    }

    fn notes(&self) -> Vec<String> {
        let auto_bind = self
            .was_auto_bind
            .then(|| describe::auto_binds_to(&self.old_name));
        auto_bind.into_iter().collect()
    }
}
