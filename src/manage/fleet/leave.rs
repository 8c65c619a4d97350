//! `fleet leave`: this host goes on alone, with the keys that it has.

use serde::Serialize;

use super::connection::{FleetCommandError, connect};
use super::round::{Follower, round};
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, HostClaim};
use crate::fleet::shared::SharedStore;
use crate::manage::host::{Host, default_deadline};
use crate::store::Access;

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
    let store = host.store(Access::Write)?;
    let mut store = store.ok_or(FleetCommandError::NoMember)?;
    let member = store.membership()?.ok_or(FleetCommandError::NoMember)?;
    let mut left = Left {
        name: member.name.clone(),
        told: true,
        trouble: None,
        lost_facts: 0,
    };
    let now = Timestamp::now();
    let claim = Claim::Host(HostClaim {
        host: member.host,
        name: member.name,
        at: now.0,
        left: true,
    });
    let tell = || -> Result<(), FleetCommandError> {
        round(host, &mut Follower::default(), true)?;
        let mut client = connect(host, &host.config()?)?;
        let fact = claim.write(member.host, now);
        SharedStore::push(&mut client, &[fact], &[], default_deadline())?;
        Ok(())
    };
    match tell() {
        Ok(()) => {}
        Err(error) if force => {
            left.told = false;
            left.trouble = Some(error.to_string());
            left.lost_facts = store.outbox_len()?;
        }
        Err(error) => return Err(error),
    }
    store.set_deadline(default_deadline())?;
    store.leave_fleet()?;
    Ok(left)
}
