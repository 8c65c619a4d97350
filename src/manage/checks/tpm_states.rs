//! TPM states that swtpm would refuse whatever the key: damaged, in use elsewhere, out of reach of
//! its user.

use std::collections::BTreeSet;

use super::{Finding, KeyFinding};
use crate::domain;
use crate::manage::host::{BrokenConfig, Host, default_deadline};
use crate::messages::refusal;

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let (Ok(guard), Ok(guests)) = (
        host.guard(BrokenConfig::UseDefaults),
        host.libvirt().guests(default_deadline()),
    ) else {
        return Vec::new();
    };
    // A directory that is closed is closed for all guests.
    let mut reported = BTreeSet::new();
    let stopped = guests.into_iter().filter(|guest| !guest.running);
    stopped
        .filter_map(|guest| {
            let domain = domain::read(guest.xml.as_bytes()).ok()?;
            let why = guard.unusable_state(&domain)?;
            let is_new = reported.insert(refusal(&guest.name, &why).message);
            let guest = guest.name;
            is_new.then(|| KeyFinding::TpmState { guest, why }.into())
        })
        .collect()
}
