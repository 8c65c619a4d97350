//! `check`: whether guests would start now. Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::CheckedDomains;
use crate::cli::commands::{metrics, nagios};
use crate::cli::context::Context;
use crate::cli::guest_file;
use crate::cli::ui::check_table::CheckedGuests;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::clock::Timestamp;
use crate::manage::dry_start::{self, UnsealedKeks};
use crate::manage::guests::ListedGuest;
use crate::manage::shared_secrets;
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
    if let Some(file) = asked.metrics {
        let now = Timestamp::now();
        match &checked {
            Ok(checked) => metrics::write(file, &checked.guests, now)?,
            // The first error is the one to report; but a file that cannot be written is one too.
            Err(_) => {
                if let Err(error) = metrics::write_failure(file, now) {
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

fn check(context: &Context, which: &CheckedDomains) -> Result<CheckedGuests, CommandError> {
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
    Ok(CheckedGuests {
        one: which.xml.is_some() || which.domains.len() == 1,
        guests: checked,
        notes,
    })
}
