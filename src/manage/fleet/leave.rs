//! `fleet leave`: this host goes on alone, with the keys that it has.

use serde::Serialize;

use super::connection::{FleetCommandError, connect, member, waiting};
use super::round::{Follower, round};
use super::tell;
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, HostClaim};
use crate::manage::host::{Host, default_deadline};
use crate::manage::sync::exclusive;
use crate::store::{Access, KnownFact};

/// What `fleet leave` did.
#[derive(Debug, Serialize)]
pub(crate) struct Left {
    pub(crate) name: String,
    /// Whether the fleet was told.
    pub(crate) told: bool,
    /// Why it was not, and what of this host it does not know.
    pub(crate) trouble: Option<String>,
    /// How many facts it was not told.
    pub(crate) lost_facts: usize,
}

/// Leaves the fleet, once it knows all that this host has to say; with `force` also if it cannot be told.
pub(crate) fn leave(host: &Host, force: bool) -> Result<Left, FleetCommandError> {
    // First: a host that is in no fleet waits for nobody.
    drop(member(host, Access::Read)?);
    let exchanged = round(host, &mut Follower::default(), true)
        .and_then(|done| done.ok_or(FleetCommandError::NoAddress));
    // Another exchange would say after this that the host is there, and bring back what is forgotten.
    let _exclusive = exclusive(host, None)?;
    let (mut store, member) = member(host, Access::Write)?;
    let mut left = Left {
        name: member.name.clone(),
        told: true,
        trouble: None,
        lost_facts: 0,
    };
    let tell = || -> Result<(), FleetCommandError> {
        exchanged?;
        let untold = host.store(Access::Read)?.map(|store| waiting(host, &store));
        let untold = untold.transpose()?.unwrap_or_default();
        if untold > 0 && !force {
            return Err(FleetCommandError::Untold(untold));
        }
        let now = Timestamp::now();
        let claim = Claim::Host(HostClaim::new(member.host, &member.name, now, true));
        let fact = KnownFact::said(claim, member.host, now);
        Ok(tell::push(&mut connect(&host.config()?)?, &[fact])?)
    };
    match tell() {
        Ok(()) => {}
        Err(error) if force => {
            left.told = false;
            left.trouble = Some(error.to_string());
        }
        Err(error) => return Err(error),
    }
    left.lost_facts = waiting(host, &store)?;
    store.set_deadline(default_deadline())?;
    store.leave_fleet()?;
    Ok(left)
}
