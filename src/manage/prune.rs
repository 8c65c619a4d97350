//! `key prune`: removes the key references of guests that are gone for good, and the saved copies
//! of their TPM state, which are nothing without a key.
//!
//! The one command that may remove the last copy of a key without naming it. So it goes by four
//! facts together: libvirt does not know the guest, no TPM state of it is left in libvirt's
//! place, it has run on this host, and it has not changed for a while. And it copies the store
//! beside itself first.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::guests::GuestRef;
use super::host::{Host, HostError, default_deadline};
use super::json;
use super::unknown_guests::{self, LeftState, UnknownGuest};
use crate::clock::Timestamp;
use crate::guard::plain_state;
use crate::ids::{DomainUuid, KeyRefId};
use crate::messages;
use crate::store::{Access, Event, Origin, Prune, Store, StoreError};
use crate::tpm_copies::{self, CopyStore};

#[cfg(test)]
mod tests;

/// For how long a guest that has a key must not have changed.
const AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The same for a guest that never had one: most often an attempt of virt-install.
const AGE_WITHOUT_KEY: Duration = Duration::from_secs(24 * 60 * 60);

/// How many guests are removed in one transaction, during which a start waits.
const GUESTS_AT_ONCE: usize = 50;

/// Which guests are removed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rule {
    /// The age that was asked for.
    pub(crate) older_than: Option<Duration>,
    /// Also keys that were used, and never on this host.
    pub(crate) standby: bool,
}

/// What `key prune` did, or would do.
#[derive(Debug, Serialize)]
pub(crate) struct Pruned {
    pub(crate) removed: Counts,
    /// How many guests were kept.
    kept: usize,
    /// The copy of the store from before.
    #[serde(serialize_with = "json::optional_path")]
    pub(crate) backup: Option<PathBuf>,
    pub(crate) dry_run: bool,
    pub(crate) guests: Vec<PrunedGuest>,
}

/// How much was removed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) guests: usize,
    pub(crate) key_refs: usize,
    pub(crate) copies: usize,
}

/// A guest that libvirt does not know.
#[derive(Debug, Serialize)]
pub(crate) struct PrunedGuest {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) key_refs: Vec<KeyRefId>,
    pub(crate) copies: usize,
    pub(crate) last_change: Timestamp,
    #[serde(flatten)]
    pub(crate) decision: PruneDecision,
}

/// What is done with a guest that libvirt does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PruneDecision {
    Remove,
    /// TPM state of it is left here, or may be.
    HasState(LeftState),
    /// Its key was used, and not on this host.
    RunsElsewhere,
    /// It changed not so long ago.
    TooYoung,
}

/// Why not everything was removed that this rule allows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PruneError {
    /// Nothing was.
    #[error(transparent)]
    Host(HostError),
    /// It ended before all guests were removed.
    #[error("{}", .0.error)]
    Interrupted(Box<InterruptedPrune>),
}

/// It ended before all guests were removed. What was removed stays so.
#[derive(Debug)]
pub(crate) struct InterruptedPrune {
    /// The key references of so many guests were removed,
    pub(crate) done: usize,
    /// of so many.
    pub(crate) of: usize,
    /// The copy of the store from before.
    pub(crate) backup: PathBuf,
    /// Why it ended.
    pub(crate) error: HostError,
}

impl<E: Into<HostError>> From<E> for PruneError {
    fn from(error: E) -> Self {
        Self::Host(error.into())
    }
}

/// Removes what this rule allows.
pub(crate) fn prune(host: &Host, rule: Rule, dry_run: bool) -> Result<Pruned, PruneError> {
    let access = if dry_run { Access::Read } else { Access::Write };
    let now = Timestamp::now();
    let mut done = Pruned {
        removed: Counts::default(),
        kept: 0,
        backup: None,
        dry_run,
        guests: Vec::new(),
    };
    let Some(mut store) = host.store(access)? else {
        return Ok(done);
    };
    // Before libvirt is asked: a start from here on is a later event.
    let last_event = store.last_event(None)?;
    let unknown = unknown_guests::find(host, &mut store, &known(host)?)?;
    let decide = |guest| (decide(&guest, rule, now), guest);
    let decided: Vec<_> = unknown.into_iter().map(decide).collect();
    let removed = decided
        .iter()
        .filter(|(decision, _)| *decision == PruneDecision::Remove);
    let removed: Vec<_> = removed.map(|(_, guest)| guest).collect();
    if !dry_run && !removed.is_empty() {
        done.backup = Some(remove(host, &mut store, &removed, (now, last_event))?);
    }
    done.removed = Counts {
        guests: removed.len(),
        key_refs: removed.iter().map(|guest| guest.rows.len()).sum(),
        copies: removed.iter().map(|guest| guest.copies).sum(),
    };
    done.kept = decided.len() - removed.len();
    done.guests = decided.into_iter().map(PrunedGuest::from).collect();
    Ok(done)
}

/// The guests that libvirt knows.
fn known(host: &Host) -> Result<BTreeSet<DomainUuid>, HostError> {
    Ok(host.guests()?.iter().map(|guest| guest.uuid).collect())
}

/// Removes what is here of these guests, some at a time. Returns the copy of the store from before.
fn remove(
    host: &Host,
    store: &mut Store,
    removed: &[&UnknownGuest],
    (now, last_event): (Timestamp, i64),
) -> Result<PathBuf, PruneError> {
    let backup = store.backup_beside("pruned", now, default_deadline())?;
    let mut done = 0;
    for guests in removed.chunks(GUESTS_AT_ONCE) {
        let pruned = remove_some(host, store, guests, (now, last_event), &mut done);
        let Err(error) = pruned else {
            Store::let_others_in();
            continue;
        };
        if !may_have_removed(done, &error) {
            // So nobody needs the copy; the first error is the one to report.
            let _ = std::fs::remove_file(&backup);
            return Err(error.into());
        }
        return Err(PruneError::Interrupted(Box::new(InterruptedPrune {
            done,
            of: removed.len(),
            backup,
            error,
        })));
    }
    Ok(backup)
}

/// Removes what is here of these guests, and adds their number to `done` once their keys are gone.
fn remove_some(
    host: &Host,
    store: &mut Store,
    guests: &[&UnknownGuest],
    (now, last_event): (Timestamp, i64),
    done: &mut usize,
) -> Result<(), HostError> {
    // It takes a while to come here.
    let known = known(host)?;
    if guests.iter().any(|guest| known.contains(&guest.uuid)) {
        return Err(StoreError::Changed.into());
    }
    store.set_deadline(default_deadline())?;
    let events: Vec<_> = guests.iter().map(|guest| event(guest, now)).collect();
    let prunes = guests.iter().zip(&events).map(|(guest, event)| Prune {
        domain: guest.uuid,
        seen: &guest.rows,
        event,
    });
    store.prune(&prunes.collect::<Vec<_>>(), last_event)?;
    *done += guests.len();
    // Without their keys they are nothing; what a kill leaves here is found again.
    for guest in guests {
        remove_states(host, guest)?;
    }
    Ok(())
}

/// Whether something may be removed, after so many guests and this error: the copy of the store may have the last of it.
/// After an error of the disk, a crash may find a transaction done.
fn may_have_removed(done: usize, error: &HostError) -> bool {
    let changed_nothing = matches!(
        error,
        HostError::Store(StoreError::Locked | StoreError::Changed) | HostError::Libvirt(_)
    );
    done > 0 || !changed_nothing
}

fn remove_states(host: &Host, guest: &UnknownGuest) -> Result<(), HostError> {
    let state_dir = host.state_dir();
    // First: nobody would find it again without the others.
    tpm_copies::remove_damaged(state_dir, guest.uuid)?;
    CopyStore::of(state_dir, guest.uuid).remove()?;
    plain_state::remove(state_dir, guest.uuid)?;
    Ok(())
}

fn decide(guest: &UnknownGuest, rule: Rule, now: Timestamp) -> PruneDecision {
    let never_had_a_tpm = guest.has_no_key() && guest.copies == 0;
    let age = rule.older_than.unwrap_or(if never_had_a_tpm {
        AGE_WITHOUT_KEY
    } else {
        AGE
    });
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    match &guest.state {
        Some(left) => PruneDecision::HasState(left.clone()),
        None if guest.is_used() && !guest.was_here && !rule.standby => PruneDecision::RunsElsewhere,
        None if guest.last_change.0 > now.0.saturating_sub(age_ms) => PruneDecision::TooYoung,
        None => PruneDecision::Remove,
    }
}

fn event(guest: &UnknownGuest, now: Timestamp) -> Event {
    let message = format!(
        "libvirt no longer knows it and no TPM state of it is left: {} removed",
        messages::left_of_guest(guest.rows.len(), guest.copies)
    );
    let name = guest.name.clone().unwrap_or_default();
    Event::new(now, Origin::Prune, guest.uuid, name, message)
}

impl From<(PruneDecision, UnknownGuest)> for PrunedGuest {
    fn from((decision, guest): (PruneDecision, UnknownGuest)) -> Self {
        Self {
            key_refs: guest.rows.iter().map(|row| row.key_ref.id).collect(),
            guest: GuestRef::of_uuid(guest.uuid, guest.name),
            copies: guest.copies,
            last_change: guest.last_change,
            decision,
        }
    }
}

impl PruneDecision {
    /// As JSON has it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::HasState(_) | Self::RunsElsewhere | Self::TooYoung => "keep",
        }
    }
}
