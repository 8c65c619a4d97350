//! The result of a guarded start, for messages, logs and JSON.

use super::facts::{Facts, KeyRef, KeySource, Proof, TpmState, Trial};
use super::repair::Repair;
use super::{ProvideSecret, Verdict};
use crate::domain::Domain;
use crate::ids::KeyRefId;
use crate::key::id::KeyId;

/// What came of one start.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The domain, where its XML could be read.
    pub domain: Option<Domain>,
    /// The TPM state that was found.
    pub state: TpmState,
    /// The verdict; after a failure to carry it out, the refusal that this became.
    pub verdict: Verdict,
    /// The key reference that the start goes by, or would go by if it were allowed.
    pub key: Option<KeyInUse>,
    /// What was done, or would be done, to libvirt's secret.
    pub secret: SecretAction,
    /// Whether nothing was carried out.
    pub dry_run: bool,
}

/// A guest's key reference, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInUse {
    /// The row.
    pub key_ref: KeyRefId,
    /// The provider that the row names.
    pub provider_name: String,
    /// The KEK that wraps the DEK; `None` for a placeholder, and where it cannot be read.
    pub key_id: Option<KeyId>,
    /// What the TPM state says of it.
    pub proof: Proof,
}

impl KeyInUse {
    /// The key reference that this verdict goes by: the one whose key it provides, else the
    /// first that has a key, else the first.
    #[must_use]
    pub fn of(verdict: &Verdict, facts: &Facts) -> Option<Self> {
        let rows = &facts.references.as_ref().ok()?.key_refs;
        let provided = match verdict.secret {
            Some(ProvideSecret {
                key: KeySource::Row(id),
                ..
            }) => rows.iter().find(|row| row.id == id),
            _ => None,
        };
        let keyed = || rows.iter().find(|row| row.wrapped_dek.is_some());
        let row = provided
            .or_else(|| learnt(verdict))
            .or_else(keyed)
            .or(rows.first())?;
        Some(Self {
            key_ref: row.id,
            provider_name: row.provider_name.clone(),
            key_id: row.key_id(),
            proof: match facts.trials.get(&row.id) {
                Some(Trial::Opened { proof, .. }) => *proof,
                _ => Proof::None,
            },
        })
    }
}

/// The key that this verdict takes from the domain XML.
fn learnt(verdict: &Verdict) -> Option<&KeyRef> {
    let mut repairs = verdict.repairs.iter();
    repairs.find_map(|repair| match repair {
        Repair::LearnKey { key } => Some(&**key),
        _ => None,
    })
}

/// What was done to libvirt's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretAction {
    /// Nothing.
    None,
    /// An existing secret got the value.
    Set,
    /// The secret was defined and got the value.
    Defined,
}

impl Outcome {
    /// Returns whether the start is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict.is_allowed()
    }
}
