//! What this host tells its fleet.

use crate::fleet::FleetError;
use crate::fleet::shared::SharedStore;
use crate::manage::host::default_deadline;
use crate::store::KnownFact;

/// Those of the facts that the shared store takes. One that is too long must not keep back the others for ever: another
/// tool may have written what it says.
pub(super) fn sendable(facts: Vec<KnownFact>) -> Vec<KnownFact> {
    let facts = facts.into_iter();
    let (sendable, too_long) = facts.partition::<Vec<_>, _>(|known| known.fact.is_sendable());
    for known in too_long {
        let (kind, bytes) = (known.fact.kind.as_str(), known.fact.body.len());
        tracing::warn!(kind, bytes, "too long for the shared store: not sent");
    }
    sendable
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
