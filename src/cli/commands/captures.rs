//! `history --captures`: the domain XML of the last refused starts, numbered for `replay`.

use std::io;
use std::path::PathBuf;

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::manage::history::{NumberedCapture, captures};
use crate::messages::Command;

pub(crate) fn run(context: &Context) -> Result<(), CommandError> {
    context.output.print(&captures(&context.host)?)
}

impl Answer for Vec<NumberedCapture> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.is_empty() {
            return writeln!(out, "no captured XML");
        }
        let mut rows = table(&["NUMBER", "WHEN", "DOMAIN", "CODE", "FILE"]);
        for capture in self {
            rows.add_row([
                capture.number.to_string(),
                time(Some(capture.at)),
                capture.guest.clone(),
                capture.code.to_owned(),
                capture.file.display().to_string(),
            ]);
        }
        out.table(&rows)
    }
}

/// The file of the capture with this number.
pub(crate) fn file(context: &Context, number: usize) -> Result<PathBuf, CommandError> {
    let mut captures = captures(&context.host)?.into_iter();
    let found = captures.find(|capture| capture.number == number);
    found.map(|capture| capture.file).ok_or_else(|| {
        CommandError::usage(format!("capture {number} not found"))
            .with_hint(format!("list them: {}", Command::HistoryCaptures))
    })
}
