//! What this host tells its fleet.

use crate::fleet::FleetError;
use crate::fleet::shared::SharedStore;
use crate::manage::host::default_deadline;
use crate::store::KnownFact;

/// Those of the facts that the shared store takes. One that is too long must not keep back the others for ever: another
/// tool may have written what it says.
pub(super) fn sendable(mut facts: Vec<KnownFact>) -> Vec<KnownFact> {
    facts.retain(|known| {
        let fact = &known.fact;
        if !fact.is_sendable() {
            let (kind, bytes) = (fact.kind.as_str(), fact.body.len());
            tracing::warn!(kind, bytes, "too long for the shared store: not sent");
        }
        fact.is_sendable()
    });
    facts
}

/// Pushes facts, however many documents that takes.
pub(super) fn push(shared: &mut dyn SharedStore, facts: &[KnownFact]) -> Result<(), FleetError> {
    let facts: Vec<_> = facts.iter().map(|known| known.fact.clone()).collect();
    let mut left = &facts[..];
    while !left.is_empty() {
        let pushed = shared.push(left, &[], default_deadline())?;
        // One that alone is too long can never be sent, and must not keep back all others.
        left = &left[pushed.facts.max(1)..];
    }
    Ok(())
}
