//! The provider keys that several starts need, opened before the first of them is judged.

use std::collections::BTreeSet;
use std::time::Duration;

use super::context::Guard;
use super::gather::keks_for_a_new_key;
use crate::clock::{Deadline, Timestamp};
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::store::{Access, Store};
use crate::verdict::facts::{KeyRef, References};

/// How long a locked store is waited for. Without it no key is opened first.
const FOR_THE_STORE: Duration = Duration::from_secs(5);

impl Guard {
    /// Opens the KEKs that the starts of these guests need, each at most once and with its share of
    /// the time: a TPM may need seconds for each. Whether one opens is then known to every start that
    /// this guard judges, which neither waits for it again nor is given the time of another.
    pub fn open_keks_first(&self, guests: &[DomainUuid], deadline: Deadline) {
        let soon = deadline.at_most(FOR_THE_STORE);
        let Ok(Some(store)) = self.open_store(Access::Read, soon) else {
            return;
        };
        let key_ids = self.keks_of(&store, guests);
        let mut unlocker = self.unlocker();
        for (key_id, left) in key_ids.iter().zip((1..=key_ids.len()).rev()) {
            let share = deadline.remaining() / u32::try_from(left).unwrap_or(u32::MAX);
            // The guests that need it report that it does not open.
            let _ = unlocker.kek(*key_id, deadline.at_most(share));
        }
    }

    fn keks_of(&self, store: &Store, guests: &[DomainUuid]) -> BTreeSet<KeyId> {
        let now = Timestamp::now();
        let references = guests
            .iter()
            .filter_map(|guest| store.references(*guest, now).ok());
        references.flat_map(|found| self.keks_in(&found)).collect()
    }

    /// The KEKs that wrapped a guest's keys, or that will wrap its first one.
    fn keks_in(&self, references: &References) -> Vec<KeyId> {
        let References {
            key_refs,
            providers,
            ..
        } = references;
        let wrapped = key_refs.iter().filter_map(KeyRef::key_id);
        let mut keks: Vec<_> = wrapped
            .filter(|key_id| providers.iter().any(|it| it.key_id == *key_id))
            .collect();
        if keks.is_empty() {
            let auto_bind = self.config.policy.auto_bind.as_deref();
            keks = keks_for_a_new_key(key_refs, providers, auto_bind);
        }
        keks
    }
}
