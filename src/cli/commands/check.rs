//! `check`: whether guests would start now. Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::CheckedDomains;
use crate::cli::commands::{metrics, nagios};
use crate::cli::context::Context;
use crate::cli::guest_file;
use crate::cli::ui::check_table::CheckedGuests;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::clock::Timestamp;
use crate::ids::SecretUuid;
use crate::manage::dry_start;
use crate::manage::guests::ListedGuest;
use crate::manage::shared_secrets::{self, SharedSecret};
use crate::manage::unknown_guests;
use crate::messages::{Arg, Command, label};

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
            notes.extend(unknown_guests::count(host, &listed).and_then(unknown));
            listed.into_iter().map(ListedGuest::from).collect()
        }
        None => host.named_guests(&which.domains)?,
    };
    let progress = Progress::new("checking", guests.len());
    let checked = dry_start::check(host, &guests, &|name| progress.at(name))?;
    progress.done();
    // A store that cannot be read was reported with each guest.
    let shared = shared_secrets::find(host, &guests).unwrap_or_default();
    notes.extend(shared.iter().map(|one| {
        let (what, fix) = shared_secret(one);
        format!("{what}; {fix}")
    }));
    Ok(CheckedGuests {
        one: which.xml.is_some() || which.domains.len() == 1,
        guests: checked,
        notes,
    })
}

/// What to say of guests that libvirt does not know and that have keys.
pub(crate) fn unknown(guests: usize) -> Option<String> {
    let subject = match guests {
        0 => return None,
        1 => "1 guest unknown to libvirt still has keys".to_owned(),
        _ => format!("{guests} guests unknown to libvirt still have keys"),
    };
    // One that runs elsewhere, or will, needs its key here when it comes back.
    Some(format!(
        "{subject}; if none of them runs on another host: {}",
        Command::KeyPruneDryRun
    ))
}

/// What is wrong with a shared secret, and how to fix it.
pub(crate) fn shared_secret(shared: &SharedSecret) -> (String, String) {
    let names: Vec<_> = shared.guests.iter().map(|one| label(&one.name)).collect();
    let last = shared.guests.last().map_or(Arg::DOMAIN, Arg::guest);
    (
        format!(
            "{} name the libvirt secret {} and have different keys",
            names.join(", "),
            shared.secret
        ),
        format!(
            "give each of them a secret UUID of its own: {}, <encryption secret='{}'/>",
            Command::VirshEdit(last),
            SecretUuid::random()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::unknown;

    #[test]
    fn unknown_guests_are_counted_in_words() {
        assert_eq!(unknown(0), None);
        let says = |guests: usize, words: &str| {
            unknown(guests).is_some_and(|text| text.starts_with(words))
        };
        assert!(says(1, "1 guest unknown to libvirt still has keys; "));
        assert!(says(3, "3 guests unknown to libvirt still have keys; "));
    }
}
