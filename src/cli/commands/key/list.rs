//! `key list`: all key references.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::manage::keys::{KeyRow, list};

pub(super) fn run(context: &Context, guest: Option<&str>) -> Result<(), CommandError> {
    context.output.print(&list(&context.host, guest)?)
}

impl Answer for Vec<KeyRow> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no key references");
        }
        let heading = [
            "ID",
            "DOMAIN",
            "PROVIDER",
            "STATE",
            "KEY",
            "FIRST USED",
            "CREATED",
        ];
        let mut lines = table(&heading);
        for row in self {
            lines.add_row([
                row.id.to_string(),
                row.guest
                    .name
                    .clone()
                    .unwrap_or_else(|| row.guest.uuid.to_string()),
                row.provider_name.clone(),
                row.state.word().to_owned(),
                row.key_id.map_or("-".to_owned(), |id| id.short()),
                time(row.first_used_at),
                time(Some(row.created_at)),
            ]);
        }
        out.table(&lines)
    }
}
