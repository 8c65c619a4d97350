//! `sync`: writes the wrapped keys of guests into the metadata of their domain XML, with which they
//! travel, or removes what it wrote.
//!
//! It reads the store, closes it, and asks libvirt, which may be slow. Before the first change it
//! records which keys it is about to write, so that a kill at any moment leaves no key that it would
//! not know as its own; afterwards, what is there now. `travelling` decides what is written.

mod facts;
mod follow;

pub(crate) use self::facts::Facts;
pub(crate) use self::follow::{LeftForSync, after_change};

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use serde::Serialize;

use super::guests::GuestRef;
use super::host::{Host, HostError, default_deadline};
use super::travelling::{Change, TravelFinding};
use crate::clock::{Deadline, Timestamp};
use crate::guard::sync_notes;
use crate::host::lock::lock;
use crate::host::path_error::PathError;
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::secret::SecretError;
use crate::libvirt::{Guest, Libvirt, MetadataChange};
use crate::store::{Access, WrittenKeys};

/// How long the change of one guest may take: libvirt waits for half a minute for a job of the guest.
const PER_GUEST: Duration = Duration::from_secs(3);

/// How many guests may keep it waiting: each occupies a worker of libvirt's for half a minute.
const MAX_BUSY: usize = 5;

/// How often it looks whether notes were left in the meantime.
const ROUNDS: usize = 5;

/// What `sync` did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Synced {
    /// Whether keys are to be in metadata: `fleet.metadata`.
    pub(crate) metadata: &'static str,
    pub(crate) written: usize,
    pub(crate) removed: usize,
    /// How many a job of the guest keeps it from.
    pub(crate) later: usize,
    pub(crate) failed: usize,
    /// The guests whose keys travel, or did, by name.
    pub(crate) guests: Vec<SyncedGuest>,
}

/// A guest, and what was done with its metadata.
#[derive(Debug, Serialize)]
pub(crate) struct SyncedGuest {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) action: SyncAction,
    /// How many keys it is to have there.
    pub(crate) keys: usize,
    pub(crate) findings: Vec<TravelFinding>,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

/// What was done with a guest's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SyncAction {
    /// Its keys were written.
    Written,
    /// They were removed.
    Removed,
    /// Nothing was to be done.
    None,
    /// A job of the guest is in the way.
    Later,
    /// A finding prevents it.
    Left,
    /// libvirt refused, or has something else than was written.
    Failed,
}

/// Why nothing was synchronised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// Another one is at it.
    #[error("another run of sync has not ended")]
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
        let waits = |uuid: &DomainUuid| {
            let mut guests = round.guests.iter();
            guests.any(|it| it.guest.uuid == *uuid && it.action.is_to_be_retried())
        };
        let taken: Vec<_> = notes.iter().copied().filter(|uuid| !waits(uuid)).collect();
        all.replace(round);
        take(host, &taken)?;
        let new: BTreeSet<_> = self::notes(host)?.difference(&notes).copied().collect();
        if new.is_empty() {
            break;
        }
        only = Some(new);
    }
    Ok(all)
}

fn notes(host: &Host) -> Result<BTreeSet<DomainUuid>, HostError> {
    let run_dir = host.run_dir();
    let listed = sync_notes::list(&run_dir).map_err(PathError::at(&run_dir.unsynced()))?;
    Ok(listed.into_iter().collect())
}

fn take(host: &Host, guests: &[DomainUuid]) -> Result<(), HostError> {
    let run_dir = host.run_dir();
    let taken = sync_notes::take(&run_dir, guests);
    Ok(taken.map_err(PathError::at(&run_dir.unsynced()))?)
}

/// Synchronises these guests, or all; what is not done by `until` is left for later.
fn synchronise(
    host: &Host,
    only: Option<&BTreeSet<DomainUuid>>,
    until: Option<Deadline>,
    progress: &dyn Fn(usize, &str),
) -> Result<Synced, SyncError> {
    let wrapped = host.config()?.fleet_metadata.is_wrapped();
    let mut synced = Synced {
        metadata: if wrapped { "wrapped" } else { "off" },
        ..Synced::default()
    };
    if Facts::read(host, wrapped)?.concern_nobody() {
        return Ok(synced);
    }
    let _exclusive = exclusive(host, until)?;
    // Read once more: another one may have been at it.
    let mut work = Work {
        libvirt: host.libvirt(),
        facts: Facts::read(host, wrapped)?,
        unlocker: Unlocker::new(&host.keyring()),
        host,
        until,
        confirmed: WrittenKeys::new(),
    };
    let listed = work.list(only)?;
    let of = listed.len();
    let mut due = Vec::new();
    for guest in &listed {
        match work.examine(guest)? {
            (done, Change::None) => {
                progress(of, &guest.name);
                synced.guests.push(done);
            }
            (_, _) => due.push(guest),
        }
    }
    work.record_intent(&due)?;
    let mut busy = 0;
    for guest in due {
        progress(of, &guest.name);
        let done = if busy == MAX_BUSY || until.is_some_and(Deadline::has_passed) {
            work.examine(guest)?.0.with(SyncAction::Later)
        } else {
            work.change(guest)?
        };
        busy += usize::from(done.action == SyncAction::Later);
        synced.guests.push(done);
    }
    work.confirm(&listed, only.is_none())?;
    synced.count();
    Ok(synced)
}

/// Held while metadata is written.
fn exclusive(host: &Host, until: Option<Deadline>) -> Result<std::fs::File, SyncError> {
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

/// What the guests are synchronised with.
struct Work<'a> {
    host: &'a Host,
    libvirt: Box<dyn Libvirt>,
    facts: Facts,
    unlocker: Unlocker,
    /// When it ends; `None`: when all is done.
    until: Option<Deadline>,
    /// The keys that are there now, of what this host has written.
    confirmed: WrittenKeys,
}

impl Work<'_> {
    /// The guests that have something to be written or removed, by name.
    fn list(&self, only: Option<&BTreeSet<DomainUuid>>) -> Result<Vec<Guest>, HostError> {
        let mut guests = self.libvirt.guests(default_deadline())?;
        guests.retain(|guest| {
            only.is_none_or(|only| only.contains(&guest.uuid)) && self.facts.concern(guest)
        });
        guests.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(guests)
    }

    /// What is to be changed for this guest, and what can be said of it before.
    fn examine(&mut self, guest: &Guest) -> Result<(SyncedGuest, Change), HostError> {
        let mut done = SyncedGuest {
            guest: guest.into(),
            action: SyncAction::None,
            keys: 0,
            findings: Vec::new(),
            error: None,
        };
        let found = match self.libvirt.metadata(guest.uuid, default_deadline()) {
            Ok(Some(found)) => found,
            // It has been undefined meanwhile.
            Ok(None) => return Ok((done, Change::None)),
            Err(error @ SecretError::Refused(_)) => return Ok((done.failed(&error), Change::None)),
            Err(error) => return Err(error.into()),
        };
        let (facts, unlocker) = (&self.facts, &mut self.unlocker);
        let known = facts.known(guest.uuid);
        let plan = known.plan(guest.uuid, &found, facts.writes(guest), |domain, key| {
            facts.hold(unlocker, domain, key)
        });
        done.keys = if facts.writes(guest) {
            known.own.len()
        } else {
            0
        };
        if plan.findings.iter().any(TravelFinding::prevents) {
            done.action = SyncAction::Left;
        } else if plan.change == Change::None {
            self.confirmed
                .insert(guest.uuid, still_there(&known.written, &found));
        }
        done.findings = plan.findings;
        Ok((done, plan.change))
    }

    /// Records the keys that are about to be written.
    fn record_intent(&mut self, due: &[&Guest]) -> Result<(), HostError> {
        let mut keys = WrittenKeys::new();
        for guest in due.iter().filter(|guest| self.facts.writes(guest)) {
            let own = self.facts.known(guest.uuid).own.into_iter();
            keys.insert(guest.uuid, own.map(|own| own.key.wrapped_dek).collect());
        }
        if keys.is_empty() {
            return Ok(());
        }
        if let Some(mut store) = self.host.store(Access::Write)? {
            store.add_written_keys(&keys, Timestamp::now())?;
        }
        self.facts.add_written(keys);
        Ok(())
    }

    /// Changes the metadata of one guest, as it is at this moment.
    fn change(&mut self, guest: &Guest) -> Result<SyncedGuest, HostError> {
        let (done, change) = self.examine(guest)?;
        let (element, action) = match &change {
            Change::None => return Ok(done),
            Change::Set(keys) => (Some(keys.for_libvirt()), SyncAction::Written),
            Change::Remove => (None, SyncAction::Removed),
        };
        let until = self.until.unwrap_or_else(default_deadline);
        let deadline = until.at_most(PER_GUEST);
        let set = self
            .libvirt
            .set_metadata(guest.uuid, element.as_deref(), deadline);
        Ok(match set {
            Ok(MetadataChange::Done(found)) if change.is_done(&found) => {
                let written = self.facts.known(guest.uuid).written;
                self.confirmed
                    .insert(guest.uuid, still_there(&written, &found));
                // What stays there of others' keys is no removal.
                match (action, self.facts.writes(guest)) {
                    (SyncAction::Written, false) => done.with(SyncAction::Removed),
                    _ => done.with(action),
                }
            }
            Ok(MetadataChange::Done(_)) => done.failed("libvirt has not kept what was written"),
            Ok(MetadataChange::Busy) => done.with(SyncAction::Later),
            Ok(MetadataChange::Gone) => done,
            Err(error) => done.failed(error.sentence()),
        })
    }

    /// Records what is there now. Of a guest that libvirt does not know nothing is to be removed; but
    /// where keys are to travel it may be defined again, with what was written.
    fn confirm(&mut self, listed: &[Guest], all: bool) -> Result<(), HostError> {
        if all && !self.facts.wrapped {
            for uuid in self.facts.written_guests() {
                if listed.iter().all(|guest| guest.uuid != uuid) {
                    self.confirmed.insert(uuid, Vec::new());
                }
            }
        }
        let facts = &self.facts;
        self.confirmed
            .retain(|uuid, keys| facts.known(*uuid).written.len() != keys.len());
        if self.confirmed.is_empty() {
            return Ok(());
        }
        if let Some(mut store) = self.host.store(Access::Write)? {
            store.keep_written_keys(&self.confirmed)?;
        }
        Ok(())
    }
}

/// Those of these keys that a definition has.
fn still_there(keys: &[WrappedDek], found: &crate::libvirt::Metadata) -> Vec<WrappedDek> {
    let elements = found.elements().flatten();
    let elements: Vec<_> = elements
        .filter_map(crate::domain::TravellingKeys::from_libvirt)
        .collect();
    let has = |key: &&WrappedDek| {
        let mut present = elements.iter().flat_map(|element| &element.keys);
        present.any(|present| present.wrapped_dek == **key)
    };
    keys.iter().filter(has).cloned().collect()
}

impl SyncAction {
    /// Whether a later run may do it.
    fn is_to_be_retried(self) -> bool {
        matches!(self, Self::Later | Self::Failed)
    }

    /// As JSON has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Removed => "removed",
            Self::None => "none",
            Self::Later => "later",
            Self::Left => "left",
            Self::Failed => "failed",
        }
    }
}

impl SyncedGuest {
    fn with(self, action: SyncAction) -> Self {
        Self { action, ..self }
    }

    fn failed(self, why: impl ToString) -> Self {
        Self {
            error: Some(why.to_string()),
            ..self.with(SyncAction::Failed)
        }
    }
}

impl Synced {
    /// Takes what a later round did.
    fn replace(&mut self, round: Self) {
        let is_newer = |known: &SyncedGuest| {
            let mut guests = round.guests.iter();
            guests.any(|guest| guest.guest.uuid == known.guest.uuid)
        };
        self.guests.retain(|known| !is_newer(known));
        self.guests.extend(round.guests);
        self.guests
            .sort_by(|one, other| one.guest.name.cmp(&other.guest.name));
        self.metadata = round.metadata;
        self.count();
    }

    fn count(&mut self) {
        let count = |action| {
            let guests = self.guests.iter();
            guests.filter(|guest| guest.action == action).count()
        };
        self.written = count(SyncAction::Written);
        self.removed = count(SyncAction::Removed);
        self.later = count(SyncAction::Later);
        self.failed = count(SyncAction::Failed);
    }
}
