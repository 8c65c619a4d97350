//! `history --captures`: the domain XML of the last refused starts, numbered for `replay`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::capture::{self, Capture};
use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::table;

pub(crate) fn run(context: &Context) -> Result<ExitCode, CommandError> {
    let captures = newest_first(context)?;
    let numbered = || (1..).zip(&captures);
    let documents: Value = numbered()
        .map(|(number, capture): (usize, _)| {
            json!({
                "number": number,
                "at": capture.at.0,
                "code": capture.code.as_str(),
                "domain": capture.guest,
                "file": capture.path,
            })
        })
        .collect();
    context.output.answer(&documents, |out| {
        if captures.is_empty() {
            return writeln!(out, "no captured XML");
        }
        let mut rows = table(&["NUMBER", "WHEN", "DOMAIN", "CODE", "FILE"]);
        for (number, capture) in numbered() {
            rows.add_row([
                number.to_string(),
                answer::time(Some(capture.at)),
                capture.guest.clone(),
                capture.code.as_str().to_owned(),
                capture.path.display().to_string(),
            ]);
        }
        out.table(&rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The file of the capture of this number.
pub(crate) fn file(context: &Context, number: usize) -> Result<PathBuf, CommandError> {
    let captures = newest_first(context)?;
    let found = number.checked_sub(1).and_then(|index| captures.get(index));
    found.map(|capture| capture.path.clone()).ok_or_else(|| {
        CommandError::usage(format!("there is no capture {number}"))
            .with_hint("see which there are: vtpm-guard history --captures")
    })
}

fn newest_first(context: &Context) -> Result<Vec<Capture>, CommandError> {
    let mut captures = capture::list(context.host.state_dir())
        .map_err(|error| unreadable(&context.host.state_dir().captures(), &error))?;
    captures.reverse();
    Ok(captures)
}

fn unreadable(directory: &Path, error: &std::io::Error) -> CommandError {
    CommandError::failed(format!("{}: {error}", directory.display())).with_hint("run it as root")
}
