//! Two hosts that hold one provider key, and the store between them.

use super::super::Exchanged;
use super::host::Host;
use super::shared::Memory;
use crate::clock::Timestamp;

/// Provider keys.
pub(super) const A: [u8; 32] = [1; 32];
pub(super) const B: [u8; 32] = [2; 32];

pub(super) const NOW: Timestamp = Timestamp(1_800_000_000_000);

pub(super) fn pair() -> (Host, Host, Memory) {
    let host = |name| Host::new(name, &[("nkp-a", A)]);
    (host("one"), host("two"), Memory::default())
}

pub(super) fn sync(host: &mut Host, shared: &mut Memory) -> Exchanged {
    host.sync(shared, false, NOW).unwrap()
}

/// An exchange of one, and then of the other.
pub(super) fn sync_both(one: &mut Host, other: &mut Host, shared: &mut Memory) {
    sync(one, shared);
    sync(other, shared);
}
