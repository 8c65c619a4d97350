//! `provider list`: all providers.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, NOTABLE, cell_if, table};
use crate::clock::Timestamp;
use crate::manage::provider_list::{ListedProvider, list};
use crate::manage::slots::ListedSlot;

pub(super) fn run(context: &Context) -> Result<(), CommandError> {
    context.output.print(&list(&context.host)?)
}

impl Answer for Vec<ListedProvider> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no providers yet");
        }
        let heading = [
            "NAME", "UUID", "KEY", "VERSION", "DEFAULT", "SEAL", "SLOTS", "EXPORTED", "GUESTS",
        ];
        let mut rows = table(&heading);
        for it in self {
            rows.add_row([
                Cell::new(&it.provider.name),
                Cell::new(it.provider.uuid),
                Cell::new(it.key_id.short()),
                Cell::new(it.key_version),
                Cell::new(if it.is_default { "yes" } else { "-" }),
                cell_if(!it.seal.is_sealed(), BAD, it.seal),
                Cell::new(key_managers(it)),
                cell_if(it.exported_at.is_none(), NOTABLE, exported(it.exported_at)),
                Cell::new(it.guests),
            ]);
        }
        out.table(&rows)
    }
}

/// The slots of key managers.
fn key_managers(provider: &ListedProvider) -> String {
    let names: Vec<_> = provider.key_managers().map(ListedSlot::name).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(", ")
    }
}

pub(super) fn exported(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "never".to_owned(), |at| time(Some(at)))
}
