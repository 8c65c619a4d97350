//! `fleet lost`: a host is down, whatever it has said last of its guests.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::fleet::claim::PlacementClaim;
use crate::manage::guests::GuestRef;
use crate::manage::host::{Host, HostError};
use crate::store::{Access, Merge};

/// The guests that do not run on a host any more.
#[derive(Debug, Serialize)]
pub(crate) struct LostHost {
    /// The host.
    pub(crate) host: String,
    /// Its guests, as it has said last.
    pub(crate) guests: Vec<GuestRef>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LostError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No host of this name has said anything of a guest that is known here.
    #[error("no such host")]
    NoSuchHost(String),
}

/// Records on this host that the host that `name` names (or its UUID) runs no guest. Its next word of a guest counts
/// again.
pub(crate) fn lost(host: &Host, name: &str) -> Result<LostHost, LostError> {
    let unknown = || LostError::NoSuchHost(name.to_owned());
    let store = host.store(Access::Write).map_err(HostError::from)?;
    let mut store = store.ok_or_else(unknown)?;
    let known = store.all_placements().map_err(HostError::from)?;
    let is_it = |claim: &PlacementClaim| claim.host_name == name || claim.host.to_string() == name;
    let claims = known
        .into_iter()
        .filter(|it| !it.is_own && is_it(&it.placement));
    let claims: Vec<_> = claims.map(|it| it.placement).collect();
    if claims.is_empty() {
        return Err(unknown());
    }
    let running = claims.into_iter().filter(|claim| claim.running);
    // Not now: what another host has saved since is no older for it.
    let stopped = running.map(|claim| PlacementClaim {
        running: false,
        at: claim.at.saturating_add(1),
        ..claim
    });
    let placements: Vec<_> = stopped.collect();
    let guests = placements.iter();
    let guests = guests.map(|claim| GuestRef::of_uuid(claim.domain, Some(claim.name.clone())));
    let guests = guests.collect();
    let merge = Merge {
        placements,
        ..Merge::default()
    };
    let merged = store.merge(&merge, Timestamp::now());
    merged.map_err(HostError::from)?;
    Ok(LostHost {
        host: name.to_owned(),
        guests,
    })
}
