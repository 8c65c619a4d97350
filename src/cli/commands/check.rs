//! `check`: would these guests start now? Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::CheckedDomains;
use crate::cli::commands::{metrics, nagios};
use crate::cli::context::Context;
use crate::cli::guest_file;
use crate::cli::ui::check_table::{self, Asked, Judged};
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::cli::{judge, shared_secrets};
use crate::clock::Timestamp;
use crate::manage::guests::ListedGuest;
use crate::manage::unknown_guests;

/// What `check` was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Check<'a> {
    pub(crate) which: &'a CheckedDomains,
    /// The file for Prometheus' textfile collector.
    pub(crate) metrics: Option<&'a Path>,
    /// The answer of a monitoring plugin.
    pub(crate) nagios: bool,
}

pub(crate) fn run(context: &Context, asked: Check<'_>) -> Result<ExitCode, CommandError> {
    match (answer(context, asked), asked.nagios) {
        (Err(error), true) => Ok(nagios::unknown(&context.output, &error)),
        (answer, _) => answer,
    }
}

fn answer(context: &Context, asked: Check<'_>) -> Result<ExitCode, CommandError> {
    let checked = look(context, asked.which);
    if let Some(file) = asked.metrics {
        let now = Timestamp::now();
        match &checked {
            Ok(checked) => metrics::write(file, &checked.judged, now)?,
            // The first error is the one to tell; but a file that cannot be written is one, too.
            Err(_) => {
                if let Err(error) = metrics::write_failure(file, now) {
                    context.output.note(&error.to_string());
                }
            }
        }
    }
    let Checked {
        asked: number,
        judged,
        notes,
    } = checked?;
    if asked.nagios {
        return nagios::print(&context.output, &judged);
    }
    check_table::print(&context.output, number, &judged)?;
    for note in notes {
        context.output.note(&note);
    }
    Ok(check_table::status(&judged, true))
}

/// What a check found.
struct Checked {
    asked: Asked,
    judged: Vec<Judged>,
    /// What concerns no guest alone.
    notes: Vec<String>,
}

fn look(context: &Context, which: &CheckedDomains) -> Result<Checked, CommandError> {
    let mut notes = Vec::new();
    let (asked, guests) = match &which.xml {
        Some(file) => (Asked::One, vec![guest_file::from_file(file)?]),
        None if which.all => {
            let listed = context.host.guests()?;
            let unknown = unknown_guests::count(&context.host, &listed);
            notes.extend(unknown.and_then(describe::unknown_guests));
            let guests = listed.into_iter().map(ListedGuest::from).collect();
            (Asked::Several, guests)
        }
        None => (
            if which.domains.len() == 1 {
                Asked::One
            } else {
                Asked::Several
            },
            context.host.named_guests(&which.domains)?,
        ),
    };
    let progress = Progress::new("checking", guests.len());
    let judged = judge::all(context, &guests, &progress)?;
    progress.done();
    // A store that cannot be read was told of with each guest.
    for shared in shared_secrets::find(context, &guests).unwrap_or_default() {
        notes.push(format!("{}; {}", shared.what(), shared.command()));
    }
    Ok(Checked {
        asked,
        judged,
        notes,
    })
}
