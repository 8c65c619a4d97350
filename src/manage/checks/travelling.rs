//! Keys that are to travel: are they in the guests' XML, and does something write them there?

use std::path::Path;

use super::nightly::is_settled;
use super::{Finding, HostFinding, KeyFinding};
use crate::host::dirs::{SYNC_UNITS, SYSTEMD_RUNS};
use crate::manage::guests::ListedGuest;
use crate::manage::host::Host;
use crate::manage::sync::not_travelling;

pub(super) fn examine(host: &Host, guests: &[ListedGuest]) -> Vec<Finding> {
    let Some(absent) = not_travelling(host, guests) else {
        return Vec::new();
    };
    let absent = (!absent.is_empty()).then(|| KeyFinding::NotTravelling(absent).into());
    let nobody = nobody_syncs().map(|units| HostFinding::SyncNotEnabled(units).into());
    absent.into_iter().chain(nobody).collect()
}

/// The units that the administrator has not enabled; nothing can be said without systemd.
fn nobody_syncs() -> Option<Vec<&'static str>> {
    if !Path::new(SYSTEMD_RUNS).exists() {
        return None;
    }
    let is_missing = |unit: &&str| !is_settled(Path::new("systemctl"), unit).unwrap_or(true);
    let missing: Vec<_> = SYNC_UNITS.into_iter().filter(is_missing).collect();
    (!missing.is_empty()).then_some(missing)
}
