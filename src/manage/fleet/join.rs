//! `fleet join`: this host tells the fleet what it has, and learns what concerns it.

use std::fs;

use serde::Serialize;

use super::announced::announced_as;
use super::connection::{FleetCommandError, connect};
use super::round::{FleetRound, Follower, round};
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, HostClaim};
use crate::fleet::shared::SharedStore;
use crate::ids::HostUuid;
use crate::manage::host::{Host, default_deadline};
use crate::store::Access;

/// What `fleet join` did.
#[derive(Debug, Serialize)]
pub(crate) struct Joined {
    pub(crate) host: HostUuid,
    pub(crate) name: String,
    /// What the server says of itself.
    pub(crate) server: String,
    #[serde(flatten)]
    pub(crate) round: FleetRound,
    /// How many key references this host has now.
    pub(crate) key_refs: usize,
    /// Announced keys that open here, and wrap nothing new yet: their providers' names.
    pub(crate) to_accept: Vec<String>,
}

/// Joins the fleet of the configuration, under this name or that of the machine. Joining again is harmless.
pub(crate) fn join(host: &Host, name: Option<&str>) -> Result<Joined, FleetCommandError> {
    let config = host.config()?;
    let mut client = connect(host, &config)?;
    // Before anything is changed here: whether it is a shared store, and lets this host in.
    let server = client.status(default_deadline())?.server;
    let name = name.map_or_else(host_name, str::to_owned);
    let now = Timestamp::now();
    let store = host.store(Access::Create)?;
    let mut store = store.ok_or(FleetCommandError::NoMember)?;
    let uuid = store.join_fleet(&name, now)?;
    let claim = Claim::Host(HostClaim {
        host: uuid,
        name: name.clone(),
        at: now.0,
        left: false,
    });
    SharedStore::push(
        &mut client,
        &[claim.write(uuid, now)],
        &[],
        default_deadline(),
    )?;
    drop((client, store));
    let round = round(host, &mut Follower::default(), false)?;
    let store = host
        .store(Access::Read)?
        .ok_or(FleetCommandError::NoMember)?;
    let providers = store.providers()?;
    let mut to_accept: Vec<_> = providers.iter().filter_map(announced_as).collect();
    to_accept.retain(|name| providers.iter().all(|other| other.name != *name));
    to_accept.dedup();
    Ok(Joined {
        host: uuid,
        name,
        server,
        round: round.unwrap_or_default(),
        key_refs: store.all_key_refs(None, false)?.len(),
        to_accept: to_accept.into_iter().map(str::to_owned).collect(),
    })
}

/// The machine's name.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost" } else { name }.to_owned()
}
