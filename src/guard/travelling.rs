//! The keys of the domain XML among the facts of a start.

use super::gather::Gathered;
use crate::clock::{Deadline, Timestamp};
use crate::ids::DomainUuid;
use crate::verdict::facts::{Facts, KeyRef, References, Travelling, Trial};

impl Gathered {
    /// Takes the keys of the XML, none of which is tried yet.
    pub(super) fn read_travelling(&mut self) {
        if let Facts {
            domain: Ok(domain),
            references: Ok(references),
            travelling,
            ..
        } = &mut self.facts
        {
            *travelling = Travelling::of(domain, references, Timestamp::now());
        }
    }

    /// Whether the domain XML has a key that no row holds, as it is wrapped there.
    pub(super) fn brings_another_key(&self) -> bool {
        let Ok(references) = &self.facts.references else {
            return false;
        };
        let mut keys = self.facts.travelling.keys.iter();
        keys.any(|key| references.row_with(key).is_none())
    }

    /// Tries the keys in the domain XML that no row holds. While state is on its way, one that is
    /// older than a row which opens is not worth a KEK.
    pub(super) fn try_travelling(&mut self, domain: DomainUuid, deadline: Deadline) {
        let Self {
            facts, keys, state, ..
        } = self;
        let Ok(references) = &facts.references else {
            return;
        };
        let References {
            providers,
            key_refs,
            state_arrives,
            ..
        } = references;
        let opened = key_refs.iter().filter(|row| {
            let trial = facts.trials.get(&row.id);
            trial.and_then(Trial::dek).is_some()
        });
        let newest = opened.map(KeyRef::generation).max();
        let is_due = |key: &&KeyRef| {
            let is_older = *state_arrives && Some(key.generation()) < newest;
            references.row_with(key).is_none() && !is_older
        };
        let travelling = facts.travelling.keys.iter().filter(is_due).cloned();
        let travelling: Vec<_> = travelling.collect();
        let trials = keys.try_rows(&travelling, providers, domain, state, deadline);
        facts.trials.extend(trials);
    }
}
