//! Keys that are to travel: are they in the guests' XML, and does something write them there?

use super::nightly::not_settled;
use super::{Finding, HostFinding, KeyFinding};
use crate::host::dirs::SYNC_UNITS;
use crate::manage::guests::ListedGuest;
use crate::manage::host::Host;
use crate::manage::sync::not_travelling;

pub(super) fn examine(host: &Host, guests: &[ListedGuest]) -> Vec<Finding> {
    let Some(absent) = not_travelling(host, guests) else {
        return Vec::new();
    };
    let absent = (!absent.is_empty()).then(|| KeyFinding::NotTravelling(absent).into());
    let nobody = not_settled(SYNC_UNITS).map(|units| HostFinding::SyncNotEnabled(units).into());
    absent.into_iter().chain(nobody).collect()
}
