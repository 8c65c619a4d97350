//! Figures of this host for `check --metrics`, besides those of its guests: its fleet, and its slots. All of them stand
//! in the store; nobody is asked.

use std::collections::BTreeMap;

use super::fleet::waiting;
use super::host::Host;
use super::slots;
use crate::clock::Timestamp;
use crate::store::{Access, Slot, Store, StoreError};

/// The figures; none of what this host does not have, or where the store cannot be read, which is reported as such.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Of the fleet, if this host is in one.
    pub(crate) fleet: Option<FleetFigures>,
    /// Of the slots of key managers, by kind.
    pub(crate) slots: BTreeMap<String, SlotFigures>,
}

/// How this host keeps up with its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FleetFigures {
    /// How long ago facts were exchanged, or, if never, this host joined, in milliseconds.
    pub(crate) lag_ms: i64,
    /// How many changes of this host the fleet does not know.
    pub(crate) outbox: usize,
}

/// The slots of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotFigures {
    /// Whether each of them has opened lately.
    pub(crate) is_ok: bool,
    /// When each of them has opened since; `None` if one has never opened on this host.
    pub(crate) verified_at: Option<Timestamp>,
}

/// How long after it has opened last a slot counts as one that opens, in milliseconds: twice as long as it takes `open`
/// to try it again.
const OPENS_FOR: i64 = 2 * slots::TRIED_EVERY;

/// Reads them.
pub(crate) fn figures(host: &Host, now: Timestamp) -> Figures {
    let store = host.store(Access::Read).ok().flatten();
    store
        .and_then(|store| read(host, &store, now).ok())
        .unwrap_or_default()
}

fn read(host: &Host, store: &Store, now: Timestamp) -> Result<Figures, StoreError> {
    let mut figures = Figures::default();
    if let Some(member) = store.membership()? {
        let last = member.synced_at.unwrap_or(member.joined_at);
        figures.fleet = Some(FleetFigures {
            // Where the clock was set back, by how much: the fleet goes by times.
            lag_ms: now.0.saturating_sub(last.0).saturating_abs(),
            outbox: waiting(host, store)?,
        });
    }
    for Slot {
        kind, verified_at, ..
    } in store.slots()?
    {
        let is_ok = verified_at.is_some_and(|at| !at.is_due(OPENS_FOR, now));
        let of_slot = SlotFigures { is_ok, verified_at };
        let of_kind = figures.slots.entry(kind).or_insert(of_slot);
        of_kind.is_ok &= is_ok;
        // `None` is less than any time.
        of_kind.verified_at = of_kind.verified_at.min(verified_at);
    }
    Ok(figures)
}
