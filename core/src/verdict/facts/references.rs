//! What the store says of one guest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::key_ref::KeyRef;
use super::provider::Provider;
use super::trial::{DekNumber, Trial};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::wrap::Generation;

/// The rows that concern one domain, as one read of the store gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// The domain's key references that are not retired, by id.
    pub key_refs: Vec<KeyRef>,
    /// The domain's retired key references that hold a key, by id.
    pub retired: Vec<KeyRef>,
    /// All providers, by name.
    pub providers: Vec<Provider>,
    /// What a `migrate begin` or `restore begin` announced, not too long ago.
    pub announced: Option<Announcement>,
    /// Whether TPM state is on its way: the store says that it was announced; for a start,
    /// [`super::Facts::arrival`] says whether this start is the one that it was announced for.
    pub state_arrives: bool,
    /// Whether the domain's last allowed start went by a key that its client brought.
    pub clients_key: bool,
    /// What was seen of the guest's TPM when it last ran here, whether or not it has a key.
    pub seen_state: Option<SeenState>,
}

impl References {
    /// The highest generation of the keys that the guest has had here; `None` if it has had none.
    #[must_use]
    pub fn newest_generation(&self) -> Option<Generation> {
        let rows = self.key_refs.iter().chain(&self.retired);
        let keyed = rows.filter(|row| row.wrapped_dek.is_some());
        keyed.map(KeyRef::generation).max()
    }

    /// The newest of the keys that the guest has used and that are retired, where none in use takes
    /// their place: there was a TPM, and its key is no longer used.
    #[must_use]
    pub fn used_and_retired(&self) -> Option<&KeyRef> {
        if self.key_refs.iter().any(|row| row.wrapped_dek.is_some()) {
            return None;
        }
        let retired = self.retired.iter();
        let used = retired.filter(|row| row.first_used_at.is_some());
        used.max_by_key(|row| (row.generation(), row.id))
    }

    /// Whether the guest has retired this key of its XML, whose DEK has this number; `retired` is what
    /// trying its retired rows gave. One that was chosen again has a higher generation than the row
    /// that was retired before.
    #[must_use]
    pub fn has_retired(
        &self,
        key: &KeyRef,
        dek: DekNumber,
        retired: &BTreeMap<KeyRefId, Trial>,
    ) -> bool {
        let holds_it = |row: &KeyRef| retired.get(&row.id).and_then(Trial::dek) == Some(dek);
        let is_it = |row: &KeyRef| holds_it(row) && row.generation() >= key.generation();
        self.retired.iter().any(is_it)
    }

    /// The row in use that holds this very wrapped key.
    #[must_use]
    pub fn row_with(&self, key: &KeyRef) -> Option<&KeyRef> {
        let mut rows = self.key_refs.iter();
        rows.find(|row| row.wrapped_dek == key.wrapped_dek)
    }

    /// Whether a verdict on these rows is one on the others, too. Whether an announcement is
    /// for this start is not decided by the store.
    #[must_use]
    pub fn decides_as(&self, other: &Self) -> bool {
        let decisive = |it: &Self| it.used_and_retired().map(|row| row.id);
        (&self.key_refs, &self.providers, &self.announced)
            == (&other.key_refs, &other.providers, &other.announced)
            && decisive(self) == decisive(other)
    }
}

/// That TPM state will arrive, for one attempt of one daemon to start a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The guest's name in the domain XML: a saved image may give another guest's UUID.
    pub domain_name: String,
    /// How it will arrive.
    pub arrival: Arrival,
    /// The attempt: the daemon and its thread, empty where they could not be found.
    pub attempt: String,
    /// When it was announced.
    pub at: Timestamp,
}

/// How a TPM state gets to its place after `prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// With a guest that migrates to this host.
    Migration,
    /// With a saved guest that is restored, from a file or from its managed save.
    Restore,
    /// With a snapshot of the running guest that is reverted to.
    Snapshot,
}

impl Arrival {
    /// Its name, as JSON spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Migration => "migration",
            Self::Restore => "restore",
            Self::Snapshot => "snapshot",
        }
    }
}

/// A TPM state that a guest ran with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenState {
    /// The guest's name at that time.
    pub domain_name: String,
    /// The secret that its XML named.
    pub secret_uuid: Option<SecretUuid>,
    /// Where its file was.
    pub path: PathBuf,
    /// When it was first seen there.
    pub at: Timestamp,
}

/// Why the store gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAccessError {
    /// Locked past the deadline, not readable, not root's.
    Unavailable(String),
    /// SQLite calls it damaged.
    Corrupt(String),
    /// Its schema is newer than this program.
    TooNew {
        /// The schema version found.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
}

#[cfg(test)]
mod tests;
