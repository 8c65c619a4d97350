//! Whether the provider keys of this host open, and soon enough for a start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Finding, KeyFinding, providers};
use crate::clock::Deadline;
use crate::keyring::KeyringError;
use crate::keyring::unlock::{Unlocker, UnsealedKeks};
use crate::manage::host::Host;
use crate::verdict::facts::Provider;

/// How long a key is measured at least: one that needs longer than a start may take is as slow as
/// one that never opens.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens each provider key once, into `keks`.
pub(super) fn examine(host: &Host, keks: &UnsealedKeks) -> Vec<Finding> {
    let allowed = host.config().unwrap_or_default().hook_deadline;
    let mut unlocker = Unlocker::sharing(host.keyring(), keks.clone());
    let open = |provider: Provider| {
        let started = Instant::now();
        let deadline = Deadline::after(PATIENCE.max(allowed));
        let opened = unlocker.kek(provider.key_id, deadline);
        finding(provider, opened.err(), started.elapsed(), allowed)
    };
    let found = providers(host).into_iter().filter_map(open);
    found.map(Finding::from).collect()
}

fn finding(
    provider: Provider,
    error: Option<Arc<KeyringError>>,
    took: Duration,
    allowed: Duration,
) -> Option<KeyFinding> {
    match error.as_deref() {
        None if took < allowed => None,
        None | Some(KeyringError::TimedOut) => Some(KeyFinding::SlowToOpen {
            provider,
            opened: error.is_none(),
            took,
            allowed,
        }),
        Some(_) => error.map(|error| KeyFinding::Sealed(provider, error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::manage::tests::fixture::a_provider;

    #[test]
    fn a_key_that_needs_longer_than_a_start_may_take_is_slow_and_not_lost() {
        let provider = a_provider();
        let found = |error: Option<KeyringError>, took| {
            let took = Duration::from_secs(took);
            let error = error.map(Arc::new);
            finding(provider.clone(), error, took, Duration::from_secs(10))
        };
        assert!(found(None, 9).is_none());
        for (error, took) in [(None, 10), (Some(KeyringError::TimedOut), 30)] {
            let was_opened = error.is_none();
            let slow = found(error, took);
            let says =
                matches!(slow, Some(KeyFinding::SlowToOpen { opened, .. }) if opened == was_opened);
            assert!(says, "{slow:?}");
        }
        let missing = found(Some(KeyringError::Missing(provider.key_id)), 0);
        assert!(
            matches!(missing, Some(KeyFinding::Sealed(..))),
            "{missing:?}"
        );
    }
}
