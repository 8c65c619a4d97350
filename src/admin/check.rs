//! `check`: would these guests start now? Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use super::cli::CheckedDomains;
use super::context::Context;
use super::error::AdminError;
use super::forgotten;
use super::guests::{self, NamedGuest};
use super::outcomes::{self, Asked};
use super::progress::Progress;
use super::{judge, metrics};
use crate::clock::Timestamp;

pub(super) fn run(
    context: &Context,
    which: &CheckedDomains,
    metrics: Option<&Path>,
) -> Result<ExitCode, AdminError> {
    let mut forgotten = None;
    let (asked, guests) = match &which.xml {
        Some(file) => (Asked::One, vec![guests::from_file(file)?]),
        None if which.all => {
            let listed = guests::list()?;
            forgotten = forgotten::among(context, &listed);
            let guests = listed.into_iter().map(NamedGuest::from).collect();
            (Asked::Several, guests)
        }
        None => (
            if which.domains.len() == 1 {
                Asked::One
            } else {
                Asked::Several
            },
            guests::named(context, &which.domains)?,
        ),
    };
    let progress = Progress::new("checking", guests.len());
    let judged = judge::all(context, &guests, &progress)?;
    progress.done();
    if let Some(file) = metrics {
        metrics::write(file, &judged, Timestamp::now())?;
    }
    outcomes::print(&context.output, asked, &judged)?;
    if let Some(words) = forgotten.and_then(forgotten::in_words) {
        context.output.note(&words);
    }
    Ok(outcomes::status(&judged, true))
}
