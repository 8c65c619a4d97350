//! `status --fleet`, `check --fleet`, `history --fleet`: what all hosts have told the shared store.

use std::io;
use std::process::ExitCode;

use crate::cli::args::Decisions;
use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::cli::ui::time as times;
use crate::manage::fleet::{FleetGuests, FleetHistory, fleet_guests, fleet_history};
use crate::messages::quoted;

pub(crate) fn status(context: &Context) -> Result<(), CommandError> {
    context.output.print(&fleet_guests(&context.host)?)
}

/// Exits with 1 if a guest would not start on a host that defines it.
pub(crate) fn check(context: &Context) -> Result<ExitCode, CommandError> {
    let mut refused = fleet_guests(&context.host)?;
    refused.guests.retain(|guest| guest.code.is_some());
    context.output.print(&Refused(&refused))?;
    let refused = !refused.guests.is_empty();
    Ok(ExitCode::from(u8::from(refused)))
}

pub(crate) fn history(context: &Context, which: &Decisions) -> Result<(), CommandError> {
    let at = |text: &Option<String>| text.as_deref().map(times::parse).transpose();
    let guest = which.domain.as_deref().map(|text| context.host.guest(text));
    let guest = guest.transpose()?;
    let limit = u32::try_from(which.limit).unwrap_or(u32::MAX);
    let events = fleet_history(
        &context.host,
        guest.map(|guest| guest.uuid),
        at(&which.since)?,
        at(&which.until)?,
        limit,
    )?;
    context.output.print(&events)
}

/// Guests that would not start.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct Refused<'a>(&'a FleetGuests);

impl Answer for Refused<'_> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.0.guests.is_empty() {
            return writeln!(out, "no host reports a guest that would not start");
        }
        self.0.print(out)
    }

    fn notes(&self) -> Vec<String> {
        self.0.notes()
    }
}

impl Answer for FleetGuests {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.guests.is_empty() {
            return writeln!(
                out,
                "no host reports a guest that runs, or that would not start"
            );
        }
        let mut rows = table(&["HOST", "DOMAIN", "RUNS", "SINCE", "CODE", "MESSAGE"]);
        for guest in &self.guests {
            rows.add_row([
                Cell::new(&guest.host),
                Cell::new(&guest.name),
                match guest.running {
                    Some(true) => Cell::new("yes").fg(GOOD),
                    Some(false) => Cell::new("no"),
                    None => Cell::new("-"),
                },
                Cell::new(time(guest.since)),
                Cell::new(guest.code.as_deref().unwrap_or_default()).fg(BAD),
                Cell::new(guest.message.as_deref().unwrap_or_default()),
            ]);
        }
        out.table(&rows)
    }

    fn notes(&self) -> Vec<String> {
        let note = |host: &String| {
            let host = quoted(host);
            format!(
                "it is unknown which guests of {host} would start: its libvirt did not answer at its last report"
            )
        };
        self.unchecked.iter().map(note).collect()
    }
}

impl Answer for FleetHistory {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.events.is_empty() {
            return writeln!(out, "no such decisions");
        }
        let mut rows = table(&["WHEN", "HOST", "DOMAIN", "OPERATION", "DECISION", "MESSAGE"]);
        for event in &self.events {
            rows.add_row([
                Cell::new(time(Some(event.at))),
                Cell::new(&event.host),
                Cell::new(event.guest.label()),
                Cell::new(&event.operation),
                match &event.code {
                    None if event.is_allowed() => Cell::new("allow").fg(GOOD),
                    None => Cell::new("deny").fg(BAD),
                    Some(code) => Cell::new(code).fg(BAD),
                },
                Cell::new(&event.message),
            ]);
        }
        out.table(&rows)
    }

    fn notes(&self) -> Vec<String> {
        let note = "older decisions are not listed: they did not fit into the shared store's answer; \
                    ask for fewer with --since and --until";
        let notes = self.is_cut.then(|| note.to_owned());
        notes.into_iter().collect()
    }
}
