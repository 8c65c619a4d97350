//! The keys of the domain XML among the facts of a start.

use std::collections::BTreeMap;

use super::gather::Gathered;
use super::keys::Keys;
use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, KeyRefId};
use crate::swtpm::StateFile;
use crate::verdict::facts::{Facts, KeyRef, References, Travelling, Trial};

/// Tries the guest's rows on this state, and if it proves none of them the keys of its XML. Returns
/// what that gave, and whether the state proves one that the guest has not retired.
pub(super) fn try_against(
    keys: &mut Keys,
    references: &References,
    travelling: &Travelling,
    (domain, state, deadline): (DomainUuid, &StateFile, Deadline),
) -> (BTreeMap<KeyRefId, Trial>, bool) {
    let mut try_rows =
        |rows: &[KeyRef]| keys.try_rows(rows, &references.providers, domain, state, deadline);
    let mut trials = try_rows(&references.key_refs);
    if trials.values().any(Trial::is_proven) || travelling.keys.is_empty() {
        let is_proven = trials.values().any(Trial::is_proven);
        return (trials, is_proven);
    }
    let in_xml = try_rows(&travelling.keys);
    let retired = try_rows(&references.retired);
    let is_proven = travelling.keys.iter().any(|key| match in_xml.get(&key.id) {
        Some(trial @ Trial::Opened { dek, .. }) => {
            trial.is_proven() && !references.has_retired(key, *dek, &retired)
        }
        _ => false,
    });
    trials.extend(in_xml);
    (trials, is_proven)
}

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
