//! The rows that hold a key: those whose key could be opened, and why the others could not.

use super::{Case, provider};
use crate::key::id::KeyId;
use crate::verdict::facts::{DekNumber, KeyRef, Proof, Trial};
use crate::verdict::refusal::Refusal;

/// A row whose wrapped DEK was opened with a provider key of this host.
pub(super) struct OpenedRow<'a> {
    pub(super) row: &'a KeyRef,
    pub(super) key_id: KeyId,
    pub(super) dek: DekNumber,
    pub(super) proof: Proof,
}

/// A row whose DEK could not be opened.
pub(super) struct UnopenedRow<'a> {
    pub(super) row: &'a KeyRef,
    /// The refusal that it stands for.
    pub(super) why: Refusal,
}

impl<'a> Case<'a> {
    /// The rows that hold a key, each with what trying it gave.
    pub(super) fn tried_rows(&self) -> (Vec<OpenedRow<'a>>, Vec<UnopenedRow<'a>>) {
        let mut opened = Vec::new();
        let mut unopened = Vec::new();
        for row in self.keyed_rows() {
            let why = match self.facts.trials.get(&row.id) {
                Some(&Trial::Opened { key_id, dek, proof }) => {
                    opened.push(OpenedRow {
                        row,
                        key_id,
                        dek,
                        proof,
                    });
                    continue;
                }
                Some(Trial::NotOpened(not_opened)) => {
                    provider::why_not_opened(row, not_opened, self.references)
                }
                None => Refusal::Internal {
                    reason: format!("key reference {} was not tried", row.id),
                },
            };
            unopened.push(UnopenedRow { row, why });
        }
        (opened, unopened)
    }
}
