//! `history`: past decisions and changes, and the captured XML of refused starts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::guests::{GuestError, knows, refuse_ambiguous};
use super::host::{Host, HostError};
use super::json;
use crate::capture;
use crate::clock::{Deadline, Timestamp};
use crate::host::path_error::PathError;
use crate::ids::DomainUuid;
use crate::store::{Access, EventFilter, EventQuery, EventRow, Origin};
use crate::verdict::code::Code;

/// How long libvirt may take to report whose a name is, without which there is an answer too.
const DEADLINE_FOR_NAME: Duration = Duration::from_secs(3);

/// Which decisions are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    /// Those of this guest: name or UUID.
    pub(crate) guest: Option<&'a str>,
    /// Refusals with this code.
    pub(crate) code: Option<Code>,
    /// At or after this time.
    pub(crate) since: Option<Timestamp>,
    /// At or before this time.
    pub(crate) until: Option<Timestamp>,
}

/// Decisions, newest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Decisions {
    pub(crate) list: Vec<PastDecision>,
    /// What was asked for, if that was a name.
    #[serde(skip)]
    pub(crate) name: Option<String>,
    /// Whether all were asked for.
    #[serde(skip)]
    pub(crate) all: bool,
}

/// A decision, or a change that a command made.
#[derive(Debug, Serialize)]
pub(crate) struct PastDecision {
    id: i64,
    pub(crate) at: Timestamp,
    #[serde(rename = "domain")]
    pub(crate) guest: PastGuest,
    pub(crate) operation: String,
    decision: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) message: String,
    /// Other tools write events too, and may write anything here.
    pub(crate) repairs: Value,
}

/// A guest, as it was called then.
#[derive(Debug, Serialize)]
pub(crate) struct PastGuest {
    pub(crate) name: Option<String>,
    pub(crate) uuid: DomainUuid,
}

/// A captured XML.
#[derive(Debug, Serialize)]
pub(crate) struct NumberedCapture {
    /// Counted from the newest, which is 1.
    pub(crate) number: usize,
    pub(crate) at: Timestamp,
    pub(crate) code: &'static str,
    /// The guest's name, as far as it fits into a file name.
    #[serde(rename = "domain")]
    pub(crate) guest: String,
    #[serde(serialize_with = "json::path")]
    pub(crate) file: PathBuf,
}

/// Returns at most `limit` decisions.
pub(crate) fn history(
    host: &Host,
    asked: Asked<'_>,
    limit: usize,
) -> Result<Decisions, GuestError> {
    let store = host.store(Access::Read)?;
    if let (Some(store), Some(text)) = (&store, asked.guest) {
        refuse_ambiguous(store, text)?;
    }
    let uuid = asked.guest.and_then(|text| DomainUuid::parse(text).ok());
    // A UUID of which nothing is known may be the name of a guest.
    let uuid = uuid.filter(|uuid| store.as_ref().is_none_or(|store| knows(store, *uuid)));
    let name = asked.guest.filter(|_| uuid.is_none());
    let query = EventQuery {
        whose: match (uuid, name) {
            (Some(uuid), _) => EventFilter::Domain(uuid),
            (None, Some(name)) => EventFilter::Guest(name, named_now(host, name)),
            (None, None) => EventFilter::All,
        },
        code: asked.code,
        since: asked.since,
        until: asked.until,
    };
    let events = match store {
        Some(store) => store.history(query, limit)?,
        None => Vec::new(),
    };
    Ok(Decisions {
        list: events.into_iter().map(PastDecision::from).collect(),
        name: name.map(str::to_owned),
        all: query == EventFilter::All.into(),
    })
}

/// The UUID of the guest that libvirt knows by this name: it may have had another one at its last
/// start.
fn named_now(host: &Host, name: &str) -> Option<DomainUuid> {
    let deadline = Deadline::after(DEADLINE_FOR_NAME);
    let guests = host.libvirt().guests_called(name, deadline).ok()?;
    let named = guests.into_iter().find(|guest| guest.name == name);
    named.map(|guest| guest.uuid)
}

impl Decisions {
    /// The other names of the guests that were asked for by name.
    pub(crate) fn other_names(&self) -> BTreeSet<&str> {
        let names = self.list.iter().filter_map(|one| one.guest.name.as_deref());
        names
            .filter(|other| self.name.as_deref().is_some_and(|name| name != *other))
            .collect()
    }

    /// How many guests had the name.
    pub(crate) fn guests(&self) -> usize {
        let uuids = self.list.iter().map(|one| one.guest.uuid);
        uuids.collect::<BTreeSet<_>>().len()
    }
}

impl From<EventRow> for PastDecision {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            guest: PastGuest {
                name: Some(row.domain_name).filter(|name| !name.is_empty()),
                uuid: row.domain_uuid,
            },
            operation: row.operation,
            decision: if row.allowed { "allow" } else { "deny" },
            code: row.code.map(Code::as_str),
            message: row.message,
            repairs: serde_json::from_str(&row.repairs_json).unwrap_or_default(),
        }
    }
}

impl PastDecision {
    /// Whether it is a start that was allowed, and then failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.operation == Origin::Stopped.as_str()
    }

    /// The kinds of its repairs.
    pub(crate) fn repair_kinds(&self) -> Vec<&str> {
        let repairs = self.repairs.as_array().into_iter().flatten();
        repairs
            .filter_map(|repair| repair["kind"].as_str())
            .collect()
    }
}

/// Returns the captured XML of the last refused starts, newest first.
pub(crate) fn captures(host: &Host) -> Result<Vec<NumberedCapture>, HostError> {
    let directory = host.state_dir().captures();
    let captures = capture::list(host.state_dir()).map_err(PathError::at(&directory))?;
    let numbered = (1..).zip(captures.into_iter().rev());
    let describe = |(number, capture): (usize, capture::Capture)| NumberedCapture {
        number,
        at: capture.at,
        code: capture.code.as_str(),
        guest: capture.guest,
        file: capture.path,
    };
    Ok(numbered.map(describe).collect())
}
