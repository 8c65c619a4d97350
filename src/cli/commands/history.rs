//! `history`: the decisions of the past, newest first.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::args::Decisions;
use crate::cli::commands::explain;
use crate::cli::context::Context;
use crate::cli::ui::answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::cli::ui::time;
use crate::clock::Deadline;
use crate::ids::DomainUuid;
use crate::manage::guests::refuse_ambiguous;
use crate::messages::label;
use crate::store::{Access, EventFilter, EventQuery, EventRow};
use crate::verdict::code::Code;

/// How long libvirt may take to say whose a name is, without which history answers, too.
const PATIENCE_FOR_NAME: Duration = Duration::from_secs(3);

pub(crate) fn run(context: &Context, which: &Decisions) -> Result<ExitCode, CommandError> {
    let query = query(which, known_uuid(context, which))?;
    let events = match context.host.store(Access::Read)? {
        Some(store) => {
            if let Some(text) = &which.domain {
                refuse_ambiguous(&store, text)?;
            }
            store.history(query, which.limit)?
        }
        None => Vec::new(),
    };
    let documents: Value = events.iter().map(document).collect();
    context.output.answer(&documents, |out| {
        if events.is_empty() {
            let asked_for_all = query == EventFilter::All.into();
            let such = if asked_for_all {
                "decisions yet"
            } else {
                "such decisions"
            };
            return writeln!(out, "no {such}");
        }
        let mut rows = table(&[
            "WHEN",
            "DOMAIN",
            "OPERATION",
            "DECISION",
            "REPAIRS",
            "MESSAGE",
        ]);
        for event in &events {
            let (decision, colour) = match event.code {
                None => ("allow", GOOD),
                Some(code) => (code.as_str(), BAD),
            };
            rows.add_row([
                Cell::new(answer::time(Some(event.at))),
                Cell::new(&event.domain_name),
                Cell::new(&event.operation),
                Cell::new(decision).fg(colour),
                Cell::new(repair_kinds(event).join(" ")),
                Cell::new(&event.message),
            ]);
        }
        out.table(&rows)
    })?;
    if let EventFilter::Guest(name, _) = query.whose {
        for note in other_names(name, &events) {
            context.output.note(&note);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The UUID of the guest that libvirt knows by the name that was given: it may have had another
/// one at its last start.
fn known_uuid(context: &Context, which: &Decisions) -> Option<DomainUuid> {
    let name = which.domain.as_deref()?;
    if DomainUuid::parse(name).is_ok() {
        return None;
    }
    let guests = context
        .host
        .libvirt()
        .guests_called(name, Deadline::after(PATIENCE_FOR_NAME));
    let named = guests.ok()?.into_iter().find(|guest| guest.name == name);
    named.map(|guest| guest.uuid)
}

/// What an administrator who asked for a name may not know of it.
fn other_names(name: &str, events: &[EventRow]) -> Vec<String> {
    let mut notes = Vec::new();
    let names: BTreeSet<_> = events
        .iter()
        .map(|row| &row.domain_name)
        .filter(|other| *other != name && !other.is_empty())
        .map(|other| label(other))
        .collect();
    if !names.is_empty() {
        let names: Vec<_> = names.into_iter().collect();
        notes.push(format!(
            "its former names are listed, too: {}",
            names.join(", ")
        ));
    }
    let uuids: BTreeSet<_> = events.iter().map(|row| row.domain_uuid).collect();
    if uuids.len() > 1 {
        notes.push(format!(
            "{} guests had the name {}; to see one of them: vtpm-guard history UUID (--json \
             shows the UUIDs)",
            uuids.len(),
            label(name)
        ));
    }
    notes
}

fn query(which: &Decisions, known: Option<DomainUuid>) -> Result<EventQuery<'_>, CommandError> {
    let domain = which.domain.as_deref();
    let whose = match domain.map(|text| (text, DomainUuid::parse(text))) {
        None => EventFilter::All,
        Some((_, Ok(uuid))) => EventFilter::Domain(uuid),
        Some((name, Err(_))) => EventFilter::Guest(name, known),
    };
    let moment = |text: &Option<String>| text.as_deref().map(time::parse).transpose();
    Ok(EventQuery {
        whose,
        code: which.code.as_deref().map(explain::parse).transpose()?,
        since: moment(&which.since)?,
        until: moment(&which.until)?,
    })
}

fn document(event: &EventRow) -> Value {
    json!({
        "id": event.id,
        "at": event.at.0,
        "domain": { "name": event.domain_name, "uuid": event.domain_uuid.to_string() },
        "operation": event.operation,
        "decision": if event.allowed { "allow" } else { "deny" },
        "code": event.code.map(Code::as_str),
        "message": event.message,
        "repairs": repairs(event),
    })
}

/// The repairs of an event; other tools write events too, and may write anything there.
fn repairs(row: &EventRow) -> Value {
    serde_json::from_str(&row.repairs_json).unwrap_or(Value::Null)
}

fn repair_kinds(row: &EventRow) -> Vec<String> {
    let repairs = repairs(row);
    let kinds = repairs.as_array().into_iter().flatten();
    kinds
        .filter_map(|repair| repair["kind"].as_str().map(str::to_owned))
        .collect()
}
