//! `check`: whether guests would start now. Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::CheckedDomains;
use crate::cli::commands::{metrics, nagios};
use crate::cli::context::Context;
use crate::cli::guest_file;
use crate::cli::ui::check_table::CheckedGuests;
use crate::cli::ui::describe::{self, Keep};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::clock::Timestamp;
use crate::manage::dry_start::{self, UnsealedKeks};
use crate::manage::figures::figures;
use crate::manage::guests::ListedGuest;
use crate::manage::persist_state::DeletedStates;
use crate::manage::shared_secrets;
use crate::manage::sync::not_travelling;
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
    let checked = check(context, asked.which);
    let (checked, absent) = match checked {
        Ok((checked, absent)) => (Ok(checked), absent),
        Err(error) => (Err(error), None),
    };
    if let Some(file) = asked.metrics {
        let now = Timestamp::now();
        let figures = figures(&context.host, now);
        match &checked {
            Ok(checked) => metrics::write(file, &checked.guests, absent, &figures, now)?,
            // The first error is the one to report; but a file that cannot be written is one too.
            Err(_) => {
                if let Err(error) = metrics::write_failure(file, &figures, now) {
                    context.output.note(&error.to_string());
                }
            }
        }
    }
    let checked = checked?;
    if asked.nagios {
        return nagios::print(&context.output, &checked.guests);
    }
    context.output.print(&checked)?;
    Ok(checked.status(true))
}

/// What was found, and of how many guests the keys are to travel and do not.
fn check(
    context: &Context,
    which: &CheckedDomains,
) -> Result<(CheckedGuests, Option<usize>), CommandError> {
    let host = &context.host;
    let mut notes = Vec::new();
    let guests = match &which.xml {
        Some(file) => vec![guest_file::from_file(file)?],
        None if which.all => {
            let listed = host.guests()?;
            notes.extend(unknown_guests::count(host, &listed).and_then(describe::unknown_guests));
            listed.into_iter().map(ListedGuest::from).collect()
        }
        None => host.named_guests(&which.domains)?,
    };
    let absent = not_travelling(host, &guests).map(|absent| absent.len());
    notes.extend(absent.and_then(describe::not_travelling));
    let keks = UnsealedKeks::default();
    let progress = Progress::new("checking", guests.len());
    let checked = dry_start::check(host, &guests, &keks, &|name| progress.at(name))?;
    progress.done();
    // A store that cannot be read was reported with each guest.
    let shared = shared_secrets::find(host, &guests, &keks).unwrap_or_default();
    notes.extend(shared.iter().map(|one| {
        let (what, fix) = describe::shared_secret(one);
        format!("{what}; {fix}")
    }));
    // The XML of a file need not be that of a guest.
    if which.xml.is_none() {
        let deleted = DeletedStates::find(host, &guests).unwrap_or_default();
        let deleted = describe::deleted_states(&deleted).into_iter();
        notes.extend(deleted.map(|Keep { what, fix }| format!("{what}; {fix}")));
    }
    let checked = CheckedGuests {
        one: which.xml.is_some() || which.domains.len() == 1,
        guests: checked,
        notes,
    };
    Ok((checked, absent))
}
