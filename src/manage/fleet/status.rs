//! `fleet status`: the shared store, this host's part, and the other hosts as they last said.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::connection::{FleetCommandError, connect, member, waiting};
use super::exchange::is_of_the_future;
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, ReportClaim};
use crate::fleet::{Client, Fact, Kind, Search};
use crate::ids::HostUuid;
use crate::manage::host::{Host, default_deadline};
use crate::store::{Access, Store, StoreError};

/// What `fleet status` found.
#[derive(Debug, Serialize)]
pub(crate) struct FleetStatus {
    pub(crate) host: HostUuid,
    pub(crate) name: String,
    /// What the server says of itself; `None` if it does not answer.
    pub(crate) server: Option<String>,
    /// As whom it knows this host.
    pub(crate) role: Option<String>,
    /// Why it does not answer.
    pub(crate) trouble: Option<String>,
    /// When facts were last exchanged.
    pub(crate) synced_at: Option<Timestamp>,
    /// When everything was last compared.
    pub(crate) compared_at: Option<Timestamp>,
    /// How many changes of this host the fleet does not know yet.
    pub(crate) outbox: usize,
    /// How far the clock of the shared store is ahead of this host's, in milliseconds.
    pub(crate) clock_ahead_ms: Option<i64>,
    /// The hosts, by name.
    pub(crate) hosts: Vec<FleetHost>,
}

/// A host, as it last said.
#[derive(Debug, Serialize)]
pub(crate) struct FleetHost {
    pub(crate) host: HostUuid,
    pub(crate) name: String,
    /// When it last said how it is.
    pub(crate) reported_at: Option<Timestamp>,
    pub(crate) version: Option<String>,
    /// How many guests with an encrypted vTPM it defines.
    pub(crate) guests: Option<usize>,
    /// How many of them would not start.
    pub(crate) refused: Option<usize>,
    /// The provider keys that open there.
    pub(crate) keks: Vec<String>,
}

/// Looks at the fleet.
pub(crate) fn status(host: &Host) -> Result<FleetStatus, FleetCommandError> {
    let (store, member) = member(host, Access::Read)?;
    let mut status = FleetStatus {
        host: member.host,
        name: member.name.clone(),
        server: None,
        role: None,
        trouble: None,
        synced_at: member.synced_at,
        compared_at: member.compared_at,
        outbox: waiting(host, &store)?,
        clock_ahead_ms: None,
        hosts: Vec::new(),
    };
    let known = hosts(&store)?;
    drop(store);
    let (reports, trouble) = match reports(host, &known, &mut status) {
        Ok(reports) => (reports, None),
        Err(error) => (BTreeMap::new(), Some(error.to_string())),
    };
    status.trouble = trouble;
    status.hosts = known
        .into_iter()
        .map(|(host, name)| {
            let said = reports.get(&host).and_then(|said| said.first());
            FleetHost {
                host,
                name,
                reported_at: said.map(|said| Timestamp(said.at)),
                version: said.map(|said| said.version.clone()),
                guests: said.and_then(|said| said.guests),
                // Without its guests it has checked none.
                refused: said.and_then(|said| said.guests.map(|_| said.refused.len())),
                keks: said
                    .map(|said| said.proofs.keys().cloned().collect())
                    .unwrap_or_default(),
            }
        })
        .collect();
    status.hosts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(status)
}

fn reports(
    host: &Host,
    known: &Hosts,
    status: &mut FleetStatus,
) -> Result<Reports, FleetCommandError> {
    let mut client = connect(&host.config()?)?;
    let found = client.status(default_deadline())?;
    status.server = Some(found.server);
    status.role = Some(found.role);
    status.clock_ahead_ms = Some(found.now.0.saturating_sub(Timestamp::now().0));
    newest_reports(&mut client, known)
}

/// What was said last of each host, the newest first: by itself, and perhaps by others in its name.
pub(super) type Reports = BTreeMap<HostUuid, Vec<ReportClaim>>;

/// The hosts that have joined and not left, and their names.
pub(super) type Hosts = BTreeMap<HostUuid, String>;

/// What was said last of each host. Where not all of it fits into one answer, which then lacks the hosts that reported
/// longest ago, each of those is asked for by itself.
pub(super) fn newest_reports(
    client: &mut Client,
    known: &Hosts,
) -> Result<Reports, FleetCommandError> {
    let mut reports = Reports::new();
    let now = Timestamp::now();
    let note = |reports: &mut Reports, facts: Vec<Fact>| {
        for fact in facts {
            match Claim::read(&fact) {
                Ok(Claim::Report(said)) if !is_of_the_future(said.at, now) => {
                    reports.entry(said.host).or_default().push(said);
                }
                _ => {}
            }
        }
    };
    let answer = client.newest(Kind::Report, default_deadline())?;
    note(&mut reports, answer.facts);
    if answer.more {
        for host in known.keys() {
            if reports.contains_key(host) {
                continue;
            }
            let last = Search {
                kinds: vec![Kind::Report],
                domain: None,
                host: Some(*host),
                since: None,
                until: None,
                limit: 1,
            };
            note(
                &mut reports,
                client.search(&last, default_deadline())?.facts,
            );
        }
    }
    for said in reports.values_mut() {
        said.sort_by_key(|report| Reverse(report.at));
    }
    Ok(reports)
}

/// The hosts of the fleet.
pub(super) fn hosts(store: &Store) -> Result<Hosts, StoreError> {
    let mut newest = BTreeMap::new();
    for fact in store.facts_of_kind(&[Kind::Host])? {
        if let Ok(Claim::Host(said)) = Claim::read(&fact) {
            let entry = newest.entry(said.host).or_insert_with(|| said.clone());
            if said.at >= entry.at {
                *entry = said;
            }
        }
    }
    let present = newest.into_values().filter(|said| !said.left);
    Ok(present.map(|said| (said.host, said.name)).collect())
}

/// The one of these hosts that a text names: by its UUID, or by a name that no other one has. A UUID comes first: whoever
/// names a host chooses no other one for it.
pub(super) fn find_host(known: &Hosts, text: &str) -> Result<HostUuid, FleetCommandError> {
    let by_uuid = HostUuid::parse(text).ok();
    if let Some(uuid) = by_uuid.filter(|uuid| known.contains_key(uuid)) {
        return Ok(uuid);
    }
    let mut called = known.iter().filter(|(_, name)| *name == text);
    match (called.next(), called.next()) {
        (Some((uuid, _)), None) => Ok(*uuid),
        (None, _) => Err(FleetCommandError::NoHost(text.to_owned())),
        (Some(_), Some(_)) => Err(FleetCommandError::AmbiguousHost(text.to_owned())),
    }
}
