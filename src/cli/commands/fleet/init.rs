//! `fleet init`: the schema of the shared store.

use std::io;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::fleet::{Initialized, init, sql};
use crate::messages::Command;

pub(super) fn run(
    context: &Context,
    address: Option<&str>,
    only_sql: bool,
) -> Result<(), CommandError> {
    if only_sql {
        let sql = sql(&context.host, address)?;
        return context.output.print(&Sql { sql });
    }
    context.output.print(&init(&context.host, address)?)
}

/// The SQL that would be run.
#[derive(Serialize)]
struct Sql {
    sql: String,
}

impl Answer for Sql {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(out, "{}", self.sql.trim_end())
    }
}

impl Answer for Initialized {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let version = self.schema;
        match self.schema_before {
            0 => writeln!(out, "schema vtpm_guard: created, version {version}"),
            before if before == version => {
                writeln!(out, "schema vtpm_guard: version {version}; nothing changed")
            }
            before => writeln!(
                out,
                "schema vtpm_guard: updated from version {before} to {version}"
            ),
        }?;
        writeln!(out, "server: {}", self.server)
    }

    fn notes(&self) -> Vec<String> {
        vec![format!(
            "each host needs a role in vtpm_guard_host; the SQL for it: {}",
            Command::FleetInitSql
        )]
    }
}
