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
use crate::manage::guests::GuestRef;
use crate::manage::host::{DEFAULT_DEADLINE, Host, HostError, default_deadline};
use crate::manage::travelling::{Change, KnownKeys, TravelFinding};
use crate::store::{Access, WrittenKeys};

/// How long the change of one guest may take: libvirt waits for half a minute for a job of the guest.
const PER_GUEST: Duration = Duration::from_secs(3);

/// A guest whose metadata may have to be changed: what its definition, as it was listed, says.
pub(super) struct Listed {
    pub(super) guest: Guest,
    /// Its keys here.
    pub(super) known: KnownKeys,
    /// Whether they are to be in its metadata.
    pub(super) writes: bool,
}

impl Listed {
    /// What is said of it before libvirt was asked about it.
    fn unasked(&self) -> SyncedGuest {
        SyncedGuest {
            guest: (&self.guest).into(),
            action: SyncAction::None,
            keys: 0,
            findings: Vec::new(),
            error: None,
        }
    }

    /// What is said of it where there was no time to ask.
    pub(super) fn later(&self) -> SyncedGuest {
        self.unasked().with(SyncAction::Later)
    }
}

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
    /// Whether the time for it is over.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(Deadline::has_passed)
    }

    /// Those of these guests that have something to be written or removed, by name.
    pub(super) fn list(
        &self,
        guests: Vec<Guest>,
        only: Option<&BTreeSet<DomainUuid>>,
    ) -> Vec<Listed> {
        let is_meant = |guest: &Guest| only.is_none_or(|only| only.contains(&guest.uuid));
        let list = |guest: Guest| {
            let known = self.facts.known(guest.uuid);
            let writes = self.facts.writes(&guest, &known);
            let is_due = writes || !known.written.is_empty();
            is_due.then_some(Listed {
                guest,
                known,
                writes,
            })
        };
        let guests = guests.into_iter();
        let mut listed: Vec<_> = guests.filter(is_meant).filter_map(list).collect();
        listed.sort_by(|one, other| one.guest.name.cmp(&other.guest.name));
        listed
    }

    /// What is to be changed for this guest, and what can be said of it before.
    pub(super) fn examine(&mut self, listed: &Listed) -> Result<(SyncedGuest, Change), HostError> {
        let Listed {
            guest,
            known,
            writes,
        } = listed;
        let mut done = listed.unasked();
        let found = match self.libvirt.metadata(guest.uuid, for_question(self.until)) {
            Ok(Some(found)) => found,
            // It has been undefined meanwhile.
            Ok(None) => return Ok((done, Change::None)),
            Err(error @ SecretError::Refused(_)) => return Ok((done.failed(&error), Change::None)),
            // It did not answer in the time that was left, which is no reason to give up what was found before.
            Err(error) if self.is_over() => {
                done.error = Some(error.to_string());
                return Ok((done.with(SyncAction::Later), Change::None));
            }
            Err(error) => return Err(error.into()),
        };
        let (facts, unlocker) = (&self.facts, &mut self.unlocker);
        let plan = known.plan(guest.uuid, &found, *writes, |domain, key| {
            facts.hold(unlocker, domain, key)
        });
        done.keys = if *writes { known.own.len() } else { 0 };
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
    pub(super) fn record_intent<'l>(
        &mut self,
        due: impl Iterator<Item = &'l mut Listed>,
    ) -> Result<(), HostError> {
        let mut keys = WrittenKeys::new();
        for Listed { guest, known, .. } in due.filter(|listed| listed.writes) {
            keys.insert(guest.uuid, known.note_own_as_written());
        }
        if keys.is_empty() {
            return Ok(());
        }
        if let Some(mut store) = self.host.store(Access::Write)? {
            store.add_written_keys(&keys, Timestamp::now())?;
        }
        Ok(())
    }

    /// Changes the metadata of one guest, as it is at this moment.
    pub(super) fn change(&mut self, listed: &Listed) -> Result<SyncedGuest, HostError> {
        let (guest, known) = (&listed.guest, &listed.known);
        let (done, change) = self.examine(listed)?;
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
                self.confirmed
                    .insert(guest.uuid, still_there(&known.written, &found));
                // What stays there of others' keys is no removal.
                match (action, listed.writes) {
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

    /// The guests that have something to be removed, and that libvirt does not know: they have moved,
    /// or are transient and do not run. What was written for them stays noted, for they may come back.
    pub(super) fn not_here(&self, listed: &[Listed]) -> Result<Vec<SyncedGuest>, HostError> {
        let listed: BTreeSet<_> = listed.iter().map(|it| it.guest.uuid).collect();
        let absent: BTreeSet<_> = self.facts.written_guests().collect();
        let absent = &absent - &listed;
        let store = self.host.store(Access::Read)?;
        let name = |uuid| store.as_ref().map(|store| store.last_name(uuid));
        let not_here = |uuid| {
            Ok(SyncedGuest {
                guest: GuestRef::of_uuid(uuid, name(uuid).transpose()?.flatten()),
                action: SyncAction::Left,
                keys: 0,
                findings: vec![TravelFinding::NotHere],
                error: None,
            })
        };
        absent.into_iter().map(not_here).collect()
    }

    /// Records what is there now.
    pub(super) fn confirm(&mut self) -> Result<(), HostError> {
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

/// The deadline of a question to libvirt.
pub(super) fn for_question(until: Option<Deadline>) -> Deadline {
    until.map_or_else(default_deadline, |until| until.at_most(DEFAULT_DEADLINE))
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
