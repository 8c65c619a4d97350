//! Does a nightly check run? The package leaves its timer to the administrator, and the removal of a
//! package disables it.

use std::path::Path;

use super::{Finding, HostFinding, providers, systemd};
use crate::host::process;
use crate::manage::host::{Host, default_deadline};

/// The timer of `vtpm-guard check --all`.
const TIMER: &str = "vtpm-guard-check.timer";

/// Without systemd there is no timer to ask for, and nothing is to be checked before there is a provider.
pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let is_missing = !providers(host).is_empty() && not_settled([TIMER]).is_some();
    let found = is_missing.then_some(HostFinding::NoNightlyCheck.into());
    found.into_iter().collect()
}

/// Whether the administrator has enabled this unit, or masked it because something else does its work.
/// `None` where systemctl does not say.
fn is_settled(systemctl: &Path, timer: &str) -> Option<bool> {
    // By its files: no manager has to answer.
    let arguments = ["--root=/", "is-enabled", timer];
    let output = process::run(systemctl, &arguments, b"", 4096, default_deadline()).ok()?;
    let state = String::from_utf8_lossy(&output.stdout);
    // systemd before 253 prints nothing for a unit that is not there, and fails.
    let state = state.trim();
    Some(state.starts_with("enabled") || state.starts_with("masked"))
}

/// Those of these units that the administrator has not settled; `None` if there are none. Nothing can be said
/// without systemd.
pub(super) fn not_settled(
    units: impl IntoIterator<Item = &'static str>,
) -> Option<Vec<&'static str>> {
    systemd::runs()
        .then(|| not_settled_by(Path::new("systemctl"), units))
        .flatten()
}

fn not_settled_by(
    systemctl: &Path,
    units: impl IntoIterator<Item = &'static str>,
) -> Option<Vec<&'static str>> {
    let is_missing = |unit: &&str| !is_settled(systemctl, unit).unwrap_or(true);
    let missing: Vec<_> = units.into_iter().filter(is_missing).collect();
    (!missing.is_empty()).then_some(missing)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::host::process::tests::write_program;

    #[test]
    fn a_timer_that_is_enabled_or_masked_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let systemctl = dir.path().join("systemctl");
        let script = "#!/bin/sh\n[ \"$2\" = is-enabled ] && echo \"$3\"\n";
        write_program(&systemctl, script);
        for (state, settled) in [
            ("enabled", true),
            ("enabled-runtime", true),
            ("masked", true),
            ("disabled", false),
            ("not-found", false),
            ("", false),
        ] {
            assert_eq!(is_settled(&systemctl, state), Some(settled), "{state}");
        }
        assert_eq!(is_settled(Path::new("/nowhere"), TIMER), None);
        let units = ["enabled", "disabled", "masked", "not-found"];
        let missing = not_settled_by(&systemctl, units);
        assert_eq!(missing.as_deref(), Some(&["disabled", "not-found"][..]));
        assert_eq!(not_settled_by(&systemctl, ["enabled"]), None);
        assert_eq!(not_settled_by(Path::new("/nowhere"), units), None);
    }
}
