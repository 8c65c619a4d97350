//! `repair`: the repairs that a start would make, without starting the guest.

use super::dry_start::CheckedGuest;
use super::guests::ListedGuest;
use super::host::{BrokenConfig, Host, HostError, default_deadline};
use crate::guard::{Mode, prepare};
use crate::store::Origin;

/// Repairs these guests' key references and TPM states, one guest after the other, each whole or
/// not at all; with `dry_run` it only returns what it would do. `progress` is called with the name
/// of each. It fails only before the first one.
pub(crate) fn repair(
    host: &Host,
    guests: Vec<ListedGuest>,
    dry_run: bool,
    progress: &dyn Fn(&str),
) -> Result<Vec<CheckedGuest>, HostError> {
    let guard = host.guard(BrokenConfig::Fail)?;
    let mode = if dry_run {
        Mode::DryRun
    } else {
        Mode::RepairOnly
    };
    let repair = |guest: ListedGuest| {
        let ListedGuest {
            name,
            source,
            domain,
        } = guest;
        progress(&name);
        let outcome = prepare(&guard, &domain, Origin::Repair, mode, default_deadline());
        CheckedGuest {
            name,
            source,
            outcome,
        }
    };
    Ok(guests.into_iter().map(repair).collect())
}
