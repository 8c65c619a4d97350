//! One run of `sync`: what it knows, and its steps.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Facts, SyncAction, SyncedGuest};
use crate::clock::{Deadline, Timestamp};
use crate::domain::TravellingKeys;
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::secret::SecretError;
use crate::libvirt::{Guest, Libvirt, Metadata, MetadataChange};
use crate::manage::host::{Host, HostError, default_deadline};
use crate::manage::travelling::{Change, TravelFinding};
use crate::store::{Access, WrittenKeys};

/// How long the change of one guest may take: libvirt waits for half a minute for a job of the guest.
const PER_GUEST: Duration = Duration::from_secs(3);

/// What the guests are synchronised with.
pub(super) struct Work<'a> {
    pub(super) host: &'a Host,
    pub(super) libvirt: Box<dyn Libvirt>,
    pub(super) facts: Facts,
    pub(super) unlocker: Unlocker,
    /// When it ends; `None`: when all is done.
    pub(super) until: Option<Deadline>,
    /// The keys that are there now, of what this host has written.
    pub(super) confirmed: WrittenKeys,
}

impl Work<'_> {
    /// The guests that have something to be written or removed, by name.
    pub(super) fn list(
        &self,
        only: Option<&BTreeSet<DomainUuid>>,
    ) -> Result<Vec<Guest>, HostError> {
        let mut guests = self.libvirt.guests(default_deadline())?;
        guests.retain(|guest| {
            only.is_none_or(|only| only.contains(&guest.uuid)) && self.facts.concern(guest)
        });
        guests.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(guests)
    }

    /// What is to be changed for this guest, and what can be said of it before.
    pub(super) fn examine(&mut self, guest: &Guest) -> Result<(SyncedGuest, Change), HostError> {
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
        let (known, writes) = (facts.known(guest.uuid), facts.writes(guest));
        let plan = known.plan(guest.uuid, &found, writes, |domain, key| {
            facts.hold(unlocker, domain, key)
        });
        done.keys = if writes { known.own.len() } else { 0 };
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
    pub(super) fn record_intent(&mut self, due: &[&Guest]) -> Result<(), HostError> {
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
    pub(super) fn change(&mut self, guest: &Guest) -> Result<SyncedGuest, HostError> {
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
            Ok(MetadataChange::Done(_)) => done.failed(&"libvirt has not kept what was written"),
            Ok(MetadataChange::Busy) => done.with(SyncAction::Later),
            Ok(MetadataChange::Gone) => done,
            Err(error) => done.failed(&error.sentence()),
        })
    }

    /// Records what is there now. Of a guest that libvirt does not know nothing is to be removed; but
    /// where keys are to travel it may be defined again, with what was written.
    pub(super) fn confirm(&mut self, listed: &[Guest], all: bool) -> Result<(), HostError> {
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
fn still_there(keys: &[WrappedDek], found: &Metadata) -> Vec<WrappedDek> {
    let elements = found.elements().flatten();
    let elements: Vec<_> = elements.filter_map(TravellingKeys::from_libvirt).collect();
    let has = |key: &&WrappedDek| {
        let mut present = elements.iter().flat_map(|element| &element.keys);
        present.any(|present| present.wrapped_dek == **key)
    };
    keys.iter().filter(has).cloned().collect()
}
