//! A fleet: has this host joined it, does it exchange facts, and what waits for the administrator?

use super::nightly::not_settled;
use super::{Finding, HostFinding, KeyFinding};
use crate::clock::Timestamp;
use crate::host::dirs::FLEET_UNIT;
use crate::manage::fleet::to_accept;
use crate::manage::host::Host;
use crate::store::{Access, Store};

/// How many intervals without an exchange are too many: a few may fail.
const INTERVALS: u32 = 10;

/// Below this nothing is long, whatever the interval, in milliseconds: a quarter of an hour.
const NOT_LONG: i64 = 15 * 60 * 1000;

/// Nobody is asked: `fleet status` does that.
pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let Ok(config) = host.config() else {
        return Vec::new();
    };
    if config.fleet.store.is_none() {
        return Vec::new();
    }
    // A store that cannot be read is reported as such.
    let Ok(store) = host.store(Access::Read) else {
        return Vec::new();
    };
    let member = store.as_ref().map(Store::membership).transpose();
    let (store, member) = match (store, member) {
        (Some(store), Ok(Some(Some(member)))) => (store, member),
        (_, Err(_)) => return Vec::new(),
        _ => return vec![HostFinding::NotInFleet.into()],
    };
    let mut found = Vec::new();
    let last = member.synced_at.unwrap_or(member.joined_at);
    let interval = i64::try_from(config.fleet.interval.as_millis()).unwrap_or(i64::MAX);
    let long = interval.saturating_mul(INTERVALS.into()).max(NOT_LONG);
    let is_off = not_settled([FLEET_UNIT]).is_some();
    if last.is_due(long, Timestamp::now()) {
        found.push(HostFinding::NoExchange { last, is_off }.into());
    } else if is_off {
        found.push(HostFinding::FleetNotEnabled.into());
    }
    let waiting = to_accept(&store.providers().unwrap_or_default());
    if !waiting.is_empty() {
        found.push(KeyFinding::NotAccepted(waiting).into());
    }
    found
}
