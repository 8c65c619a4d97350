//! After a command that changes keys: writes them for the guests that it changed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{SyncError, synchronise};
use crate::clock::{Deadline, Timestamp};
use crate::guard::sync_notes;
use crate::host::path_error::PathError;
use crate::ids::DomainUuid;
use crate::manage::host::{Host, HostError};
use crate::store::Access;

/// How long the command may take longer for it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Guests whose metadata does not have their keys yet; a note of each is left for `sync`.
#[derive(Debug)]
pub(crate) struct LeftForSync {
    pub(crate) guests: usize,
    /// Why, unless there was no time, or a job of the guest.
    pub(crate) why: Option<String>,
}

/// Synchronises the guests whose key references were changed at this time or later.
pub(crate) fn after_change(host: &Host, since: Timestamp) -> Option<LeftForSync> {
    after_change_until(host, since, Deadline::after(DEADLINE))
}

pub(crate) fn after_change_until(
    host: &Host,
    since: Timestamp,
    until: Deadline,
) -> Option<LeftForSync> {
    let changed = match changed(host, since) {
        Ok(changed) if changed.is_empty() => return None,
        Ok(changed) => changed,
        // The command has reported what is wrong with the store.
        Err(_) => return None,
    };
    let (left, mut why) = match synchronise(host, Some(&changed), Some(until), &|_, _| {}) {
        Ok(synced) => {
            let retried = synced.guests.iter();
            let retried = retried.filter(|guest| guest.action.is_to_be_retried());
            let why = synced.guests.iter().find_map(|guest| guest.error.clone());
            (retried.map(|guest| guest.guest.uuid).collect(), why)
        }
        Err(SyncError::Host(error)) => (changed, Some(error.to_string())),
        Err(error @ SyncError::Running) => (changed, Some(error.to_string())),
    };
    for guest in &left {
        if let Err(error) = leave(host, *guest) {
            why.get_or_insert(error.to_string());
        }
    }
    (!left.is_empty()).then_some(LeftForSync {
        guests: left.len(),
        why,
    })
}

fn leave(host: &Host, guest: DomainUuid) -> Result<(), HostError> {
    let run_dir = host.run_dir();
    let left = sync_notes::leave(&run_dir, guest);
    Ok(left.map_err(PathError::at(&run_dir.unsynced()))?)
}

/// The guests that were changed and whose keys travel, or did.
fn changed(host: &Host, since: Timestamp) -> Result<BTreeSet<DomainUuid>, HostError> {
    let wrapped = host.config()?.fleet.metadata.is_wrapped();
    let Some(store) = host.store(Access::Read)? else {
        return Ok(BTreeSet::new());
    };
    let written = store.written_keys()?;
    if !wrapped && written.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut changed = store.domains_changed_since(since)?;
    changed.retain(|guest| wrapped || written.contains_key(guest));
    Ok(changed)
}
