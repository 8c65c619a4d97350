//! What `sync` did.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::ids::DomainUuid;
use crate::manage::guests::GuestRef;
use crate::manage::travelling::TravelFinding;

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

impl SyncAction {
    /// Whether a later run may do it.
    pub(super) fn is_to_be_retried(self) -> bool {
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
    pub(super) fn with(self, action: SyncAction) -> Self {
        Self { action, ..self }
    }

    pub(super) fn failed(self, why: &impl ToString) -> Self {
        Self {
            error: Some(why.to_string()),
            ..self.with(SyncAction::Failed)
        }
    }
}

impl Synced {
    /// Takes what a later round did.
    pub(super) fn replace(&mut self, round: Self) {
        let uuids = round.guests.iter().map(|guest| guest.guest.uuid);
        let newer: BTreeSet<DomainUuid> = uuids.collect();
        self.guests
            .retain(|known| !newer.contains(&known.guest.uuid));
        self.guests.extend(round.guests);
        self.guests
            .sort_by(|one, other| one.guest.name.cmp(&other.guest.name));
        self.metadata = round.metadata;
        self.count();
    }

    pub(super) fn count(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn round(guests: &[(DomainUuid, &str, SyncAction)]) -> Synced {
        let one = |(uuid, name, action): &(DomainUuid, &str, SyncAction)| SyncedGuest {
            guest: GuestRef::called(*uuid, name),
            action: *action,
            keys: 1,
            findings: Vec::new(),
            error: None,
        };
        Synced {
            metadata: "wrapped",
            guests: guests.iter().map(one).collect(),
            ..Synced::default()
        }
    }

    #[test]
    fn of_several_rounds_the_last_one_counts_for_each_guest() {
        let [one, two, three] = std::array::from_fn(|_| DomainUuid::random());
        let mut all = Synced::default();
        all.replace(round(&[
            (two, "vm2", SyncAction::Later),
            (three, "vm3", SyncAction::Failed),
        ]));
        assert_eq!((all.later, all.failed, all.written), (1, 1, 0));
        all.replace(round(&[
            (one, "vm1", SyncAction::Removed),
            (two, "vm2", SyncAction::Written),
        ]));
        let guests = all.guests.iter().map(|it| (it.guest.uuid, it.action));
        assert_eq!(
            guests.collect::<Vec<_>>(),
            [
                (one, SyncAction::Removed),
                (two, SyncAction::Written),
                (three, SyncAction::Failed),
            ]
        );
        assert_eq!((all.removed, all.written), (1, 1));
        assert_eq!((all.later, all.failed), (0, 1));
    }

    #[test]
    fn people_read_the_word_that_json_has() {
        for action in [
            SyncAction::Written,
            SyncAction::Removed,
            SyncAction::None,
            SyncAction::Later,
            SyncAction::Left,
            SyncAction::Failed,
        ] {
            assert_eq!(serde_json::json!(action), action.word());
        }
    }
}
