//! What came of a guarded start, ready to be told.

use super::facts::TpmState;
use super::{Decision, Verdict};
use crate::domain::Domain;

/// What came of one start.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The domain, where its XML could be read.
    pub domain: Option<Domain>,
    /// The TPM state that was found.
    pub state: TpmState,
    /// The verdict; after a failure to carry it out, the refusal that this became.
    pub verdict: Verdict,
    /// What was done, or would be done, to libvirt's secret.
    pub secret: SecretAction,
    /// Whether nothing was carried out.
    pub dry_run: bool,
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
    /// Whether the start goes on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict.decision, Decision::Allow(_))
    }
}
