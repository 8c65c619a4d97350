//! Guests and history of all hosts, as these have told the shared store. Nobody has signed that: it is for people.

use std::collections::BTreeMap;

use serde::Serialize;

use super::connection::{FleetCommandError, connect, member};
use super::status::{hosts, newest_reports};
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, EventClaim};
use crate::fleet::{Kind, Search};
use crate::ids::DomainUuid;
use crate::manage::guests::GuestRef;
use crate::manage::host::{Host, default_deadline};
use crate::store::Access;

/// A guest of a host that would not start there, or that runs there.
#[derive(Debug, Serialize)]
pub(crate) struct FleetGuest {
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) uuid: DomainUuid,
    /// Whether it runs there; `None` where it has said nothing.
    pub(crate) running: Option<bool>,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
    /// The code of the refusal that its start would meet there.
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
}

/// A row of a host's history.
#[derive(Debug, Serialize)]
pub(crate) struct FleetEvent {
    pub(crate) host: String,
    pub(crate) at: Timestamp,
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) operation: String,
    /// As in the history of this host: `allow` or `deny`.
    decision: &'static str,
    pub(crate) code: Option<String>,
    pub(crate) message: String,
}

/// The newest events of all hosts.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct FleetHistory {
    pub(crate) events: Vec<FleetEvent>,
    /// Whether older ones that were asked for did not fit into the shared store's answer.
    #[serde(skip)]
    pub(crate) is_cut: bool,
}

impl FleetEvent {
    pub(crate) fn is_allowed(&self) -> bool {
        self.decision == ALLOW
    }
}

const ALLOW: &str = "allow";

/// Guests of all hosts.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct FleetGuests {
    pub(crate) guests: Vec<FleetGuest>,
    /// Hosts whose libvirt did not answer at their last report: it is unknown which of their guests would start.
    #[serde(skip)]
    pub(crate) unchecked: Vec<String>,
}

/// The guests of all hosts that would not start, and those that run, by name.
pub(crate) fn fleet_guests(host: &Host) -> Result<FleetGuests, FleetCommandError> {
    let mut client = connect(&host.config()?)?;
    let (mut guests, mut unchecked) = (Vec::new(), Vec::new());
    let (store, _) = member(host, Access::Read)?;
    let present = hosts(&store)?;
    let reports = newest_reports(&mut client, &present)?.into_values();
    for said in reports.filter_map(|said| said.into_iter().next()) {
        if !present.contains_key(&said.host) {
            continue;
        }
        if said.guests.is_none() {
            unchecked.push(said.name.clone());
        }
        guests.extend(said.refused.into_iter().map(|guest| FleetGuest {
            host: said.name.clone(),
            name: guest.name,
            uuid: guest.domain,
            running: None,
            since: Some(Timestamp(said.at)),
            code: Some(guest.code),
            message: Some(guest.message),
        }));
    }
    let refused: BTreeMap<(DomainUuid, String), usize> = guests
        .iter()
        .enumerate()
        .map(|(at, guest): (_, &FleetGuest)| ((guest.uuid, guest.host.clone()), at))
        .collect();
    for row in store.all_placements()? {
        let said = row.placement;
        if let Some(at) = refused.get(&(said.domain, said.host_name.clone())) {
            guests[*at].running = Some(said.running);
        } else if said.running {
            guests.push(FleetGuest {
                host: said.host_name,
                name: said.name,
                uuid: said.domain,
                running: Some(true),
                since: Some(Timestamp(said.at)),
                code: None,
                message: None,
            });
        }
    }
    guests.sort_by(|one, other| (&one.name, &one.host).cmp(&(&other.name, &other.host)));
    unchecked.sort();
    Ok(FleetGuests { guests, unchecked })
}

/// The newest events of all hosts, newest first.
pub(crate) fn fleet_history(
    host: &Host,
    domain: Option<DomainUuid>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: u32,
) -> Result<FleetHistory, FleetCommandError> {
    let mut client = connect(&host.config()?)?;
    let search = Search {
        kinds: vec![Kind::Event],
        domain,
        host: None,
        since,
        until,
        // A start is up to three facts, of which the last one counts.
        limit: limit.saturating_mul(3),
    };
    let mut events: Vec<FleetEvent> = Vec::new();
    let mut known: BTreeMap<_, usize> = BTreeMap::new();
    let found = client.search(&search, default_deadline())?;
    for fact in found.facts {
        let Ok(Claim::Event(said)) = Claim::read(&fact) else {
            continue;
        };
        // A store that was restored from a backup uses numbers again.
        let row = (said.host, said.seq, said.at, said.domain);
        let new = event(said);
        let at = *known.entry(row).or_insert(events.len());
        match events.get_mut(at) {
            // A refusal is what a start that was allowed at first has become.
            Some(known) if known.is_allowed() && !new.is_allowed() => *known = new,
            Some(_) => {}
            None => events.push(new),
        }
    }
    // The shared store has ended it, and not the limit.
    let is_cut = found.more && events.len() < limit as usize;
    events.truncate(limit as usize);
    Ok(FleetHistory { events, is_cut })
}

fn event(said: EventClaim) -> FleetEvent {
    FleetEvent {
        host: said.host_name,
        at: Timestamp(said.at),
        guest: GuestRef::of_uuid(said.domain, Some(said.name)),
        operation: said.operation,
        decision: if said.allowed { ALLOW } else { "deny" },
        code: said.code,
        message: said.message,
    }
}
