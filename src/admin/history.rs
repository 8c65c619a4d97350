//! `history`: the decisions of the past, newest first.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::cli::Decisions;
use super::context::Context;
use super::error::AdminError;
use super::output;
use super::table::{BAD, Cell, GOOD, table};
use super::{domains, explain, moment};
use crate::ids::DomainUuid;
use crate::store::{Access, EventFilter, EventQuery, EventRow};
use crate::verdict::code::Code;

pub(super) fn run(context: &Context, which: &Decisions) -> Result<ExitCode, AdminError> {
    let query = query(which)?;
    let events = match context.store(Access::Read)? {
        Some(store) => {
            if let Some(text) = &which.domain {
                domains::refuse_two(&store, text)?;
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
            let (decision, colour) = match event.event.code {
                None => ("allow", GOOD),
                Some(code) => (code.as_str(), BAD),
            };
            rows.add_row([
                Cell::new(output::time(Some(event.event.at))),
                Cell::new(&event.event.domain_name),
                Cell::new(&event.event.operation),
                Cell::new(decision).fg(colour),
                Cell::new(repair_kinds(event).join(" ")),
                Cell::new(&event.event.message),
            ]);
        }
        out.table(&rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn query(which: &Decisions) -> Result<EventQuery<'_>, AdminError> {
    let domain = which.domain.as_deref();
    let whose = match domain.map(|text| (text, DomainUuid::parse(text))) {
        None => EventFilter::All,
        Some((_, Ok(uuid))) => EventFilter::Domain(uuid),
        Some((name, Err(_))) => EventFilter::Name(name),
    };
    let moment = |text: &Option<String>| text.as_deref().map(moment::parse).transpose();
    Ok(EventQuery {
        whose,
        code: which.code.as_deref().map(explain::parse).transpose()?,
        since: moment(&which.since)?,
        until: moment(&which.until)?,
    })
}

fn document(row: &EventRow) -> Value {
    let event = &row.event;
    json!({
        "id": row.id,
        "at": event.at.0,
        "domain": { "name": event.domain_name, "uuid": event.domain_uuid.to_string() },
        "operation": event.operation,
        "decision": if event.allowed { "allow" } else { "deny" },
        "code": event.code.map(Code::as_str),
        "message": event.message,
        "repairs": repairs(row),
    })
}

/// The repairs of an event; other tools write events too, and may write anything there.
fn repairs(row: &EventRow) -> Value {
    serde_json::from_str(&row.event.repairs_json).unwrap_or(Value::Null)
}

fn repair_kinds(row: &EventRow) -> Vec<String> {
    let repairs = repairs(row);
    let kinds = repairs.as_array().into_iter().flatten();
    kinds
        .filter_map(|repair| repair["kind"].as_str().map(str::to_owned))
        .collect()
}
