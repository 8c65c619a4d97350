//! `fleet join`: this host tells the fleet what it has, and learns what concerns it.

use std::path::Path;

use serde::Serialize;

use super::connection::{FleetCommandError, connect, member};
use super::round::{FleetRound, Follower, round};
use super::status::hosts;
use crate::clock::Timestamp;
use crate::host::text;
use crate::ids::HostUuid;
use crate::manage::host::{Host, default_deadline};
use crate::manage::name;
use crate::manage::providers::{ProviderRef, ProvidersLock};
use crate::store::Access;
use crate::verdict::facts::Provider;

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
    /// Other hosts that are called the same: this one before it was installed again, perhaps.
    pub(crate) namesakes: Vec<HostUuid>,
    /// Announced keys that open here, and wrap nothing new yet: their providers' names.
    pub(crate) to_accept: Vec<ProviderRef>,
}

/// Joins the fleet of the configuration, under this name or that of the machine. Joining again is harmless.
pub(crate) fn join(host: &Host, name: Option<&str>) -> Result<Joined, FleetCommandError> {
    let config = host.config()?;
    let name = name.map_or_else(host_name, str::to_owned);
    // Other hosts show the name, and administrators type it.
    if let Some(why) = name::problem(&name) {
        return Err(FleetCommandError::BadName(name, why));
    }
    // Before anything is changed here: whether it is a shared store, and lets this host in.
    let server = connect(&config)?.status(default_deadline())?.server;
    let store = host.store(Access::Create)?;
    let mut store = store.ok_or(FleetCommandError::NoMember)?;
    // In a fleet a key is rotated otherwise than alone.
    let providers = ProvidersLock::acquire(host)?;
    store.set_deadline(default_deadline())?;
    let uuid = store.join_fleet(&name, Timestamp::now())?;
    drop((store, providers));
    let round = round(host, &mut Follower::default(), false)?;
    let (store, _) = member(host, Access::Read)?;
    let namesakes = hosts(&store)?.into_iter();
    let namesakes = namesakes.filter(|(other, called)| *other != uuid && *called == name);
    let namesakes = namesakes.map(|(other, _)| other).collect();
    Ok(Joined {
        namesakes,
        host: uuid,
        name,
        server,
        round: round.unwrap_or_default(),
        key_refs: store.all_key_refs(None, false)?.len(),
        to_accept: to_accept(&store.providers()?),
    })
}

/// Of these providers those that were announced and open here, and wrap nothing new yet.
pub(crate) fn to_accept(providers: &[Provider]) -> Vec<ProviderRef> {
    let is_here = |name: &str| providers.iter().any(|it| it.name == name);
    let waits = |it: &&Provider| it.announced_as().is_some_and(|name| !is_here(name));
    let waiting = providers.iter().filter(waits);
    waiting.map(ProviderRef::from).collect()
}

/// The machine's name.
fn host_name() -> String {
    let name = text::read(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost" } else { name }.to_owned()
}
