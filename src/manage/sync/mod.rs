//! `sync`: writes the wrapped keys of guests into the metadata of their domain XML, with which they
//! travel, or removes what it wrote.
//!
//! It reads the store, closes it, and asks libvirt, which may be slow. Before the first change it
//! records which keys it is about to write, so that a kill at any moment leaves no key that it would
//! not know as its own; afterwards, what is there now. `travelling` decides what is written.

mod absent;
mod facts;
mod follow;
mod result;
mod work;

pub(crate) use self::absent::{has_key, not_travelling, uuids};
pub(crate) use self::facts::Facts;
#[cfg(test)]
pub(crate) use self::follow::after_change_until;
pub(crate) use self::follow::{LeftForSync, after_change};
pub(crate) use self::result::{SyncAction, Synced, SyncedGuest};

use std::collections::BTreeSet;
use std::io::ErrorKind;

use self::work::Work;
use super::host::{Host, HostError, default_deadline};
use super::travelling::Change;
use crate::clock::Deadline;
use crate::guard::sync_notes::{self, Notes};
use crate::host::lock::lock;
use crate::host::path_error::PathError;
use crate::ids::DomainUuid;
use crate::keyring::unlock::Unlocker;
use crate::store::WrittenKeys;

/// How many guests may keep it waiting: each occupies a worker of libvirt's for half a minute.
const MAX_BUSY: usize = 5;

/// How often it looks whether notes were left in the meantime.
const ROUNDS: usize = 5;

/// Why nothing was synchronised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// Another one is at it, or what does not go with one.
    #[error("another run of sync, or a command that does not run beside one, has not ended")]
    Running,
    /// The host.
    #[error(transparent)]
    Host(HostError),
}

impl<E: Into<HostError>> From<E> for SyncError {
    fn from(error: E) -> Self {
        Self::Host(error.into())
    }
}

/// Synchronises all guests. `progress` is called with their number and the name of each.
pub(crate) fn sync(host: &Host, progress: &dyn Fn(usize, &str)) -> Result<Synced, SyncError> {
    let mut all = Synced::default();
    let mut only: Option<BTreeSet<DomainUuid>> = None;
    for _ in 0..ROUNDS {
        let notes = notes(host)?;
        let round = synchronise(host, only.as_ref(), None, progress)?;
        let mut taken = notes.clone();
        for waiting in round
            .guests
            .iter()
            .filter(|it| it.action.is_to_be_retried())
        {
            taken.remove(&waiting.guest.uuid);
        }
        all.replace(round);
        take(host, &taken)?;
        let now = self::notes(host)?;
        let is_new = |(uuid, note): &(&DomainUuid, &u64)| notes.get(uuid) != Some(note);
        let new: BTreeSet<_> = now.iter().filter(is_new).map(|(uuid, _)| *uuid).collect();
        if new.is_empty() {
            break;
        }
        only = Some(new);
    }
    Ok(all)
}

fn notes(host: &Host) -> Result<Notes, HostError> {
    let run_dir = host.run_dir();
    let listed = sync_notes::list(&run_dir);
    Ok(listed.map_err(PathError::at(&run_dir.unsynced()))?)
}

fn take(host: &Host, notes: &Notes) -> Result<(), HostError> {
    let run_dir = host.run_dir();
    let taken = sync_notes::take(&run_dir, notes);
    Ok(taken.map_err(PathError::at(&run_dir.unsynced()))?)
}

/// Synchronises these guests, or all; what is not done by `until` is left for later.
fn synchronise(
    host: &Host,
    only: Option<&BTreeSet<DomainUuid>>,
    until: Option<Deadline>,
    progress: &dyn Fn(usize, &str),
) -> Result<Synced, SyncError> {
    let wrapped = host.config()?.fleet.metadata.is_wrapped();
    let mut synced = Synced {
        metadata: if wrapped { "wrapped" } else { "off" },
        ..Synced::default()
    };
    if Facts::read(host, wrapped)?.concern_nobody() {
        return Ok(synced);
    }
    let libvirt = host.libvirt();
    // Of thousands of guests this takes libvirt many seconds, which no exchange need wait for.
    let guests = libvirt.guests(work::for_question(until))?;
    let _exclusive = exclusive(host, until)?;
    // Read once more: another one may have been at it.
    let mut work = Work {
        libvirt,
        facts: Facts::read(host, wrapped)?,
        unlocker: Unlocker::new(&host.keyring()),
        host,
        until,
        confirmed: WrittenKeys::new(),
    };
    let listed = work.list(guests, only);
    if only.is_none() && !wrapped {
        synced.guests = work.not_here(&listed)?;
    }
    let of = listed.len();
    let mut due = Vec::new();
    for listed in listed {
        // Past it libvirt is not asked any more, neither here nor below.
        if work.is_over() {
            synced.guests.push(listed.later());
            continue;
        }
        match work.examine(&listed)? {
            (done, Change::None) => {
                progress(of, &listed.guest.name);
                synced.guests.push(done);
            }
            (found, _) => due.push((listed, found)),
        }
    }
    work.record_intent(due.iter_mut().map(|(listed, _)| listed))?;
    let mut busy = 0;
    for (listed, found) in due {
        progress(of, &listed.guest.name);
        let done = if busy >= MAX_BUSY || work.is_over() {
            found.with(SyncAction::Later)
        } else {
            work.change(&listed)?
        };
        busy += usize::from(done.action == SyncAction::Later);
        synced.guests.push(done);
    }
    work.confirm()?;
    synced.count();
    Ok(synced)
}

/// Held while metadata is written, facts are exchanged, or something changes by which an exchange goes that has begun.
pub(crate) fn exclusive(host: &Host, until: Option<Deadline>) -> Result<std::fs::File, SyncError> {
    let run_dir = host.run_dir();
    let path = run_dir.unsynced();
    let at = || PathError::at(&path);
    let dir = sync_notes::directory(&run_dir).map_err(at())?;
    let deadline = until.unwrap_or_else(default_deadline);
    match lock(&dir, deadline) {
        Ok(()) => Ok(dir),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(SyncError::Running),
        Err(error) => Err(at()(error).into()),
    }
}
