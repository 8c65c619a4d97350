//! Would every guest start? What `check --all` reports at length.

use std::collections::BTreeMap;

use super::{Finding, KeyFinding};
use crate::manage::dry_start::{self, UnsealedKeks};
use crate::manage::guests::ListedGuest;
use crate::manage::host::Host;
use crate::verdict::Decision;
use crate::verdict::code::Code;
use crate::verdict::refusal::Refusal;

/// One finding for each code: a provider or directory that is gone may stop every guest. That libvirt's
/// secret driver does not answer stops them, too, and is a finding of its own.
pub(super) fn examine(host: &Host, guests: &[ListedGuest], keks: &UnsealedKeks) -> Vec<Finding> {
    // A store that cannot be read is reported by the examination of the store.
    let checked = dry_start::check(host, guests, keks, &|_| ()).unwrap_or_default();
    let mut by_code = BTreeMap::<Code, (Refusal, Vec<_>)>::new();
    for guest in checked {
        let Decision::Deny(why) = guest.outcome.verdict.decision() else {
            continue;
        };
        if is_reported_of_the_host(why) {
            continue;
        }
        let why = why.clone();
        let of_code = by_code.entry(why.code());
        of_code.or_insert((why, Vec::new())).1.push(guest);
    }
    let found = by_code.into_values();
    found
        .map(|(why, guests)| KeyFinding::WouldNotStart { guests, why }.into())
        .collect()
}

/// Whether this is one finding of the host, whatever guests it stops. A libvirt that answers while its files cannot be
/// read is none.
fn is_reported_of_the_host(why: &Refusal) -> bool {
    why.code() == Code::LibvirtUnreachable && !matches!(why, Refusal::DefinitionsUnread { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_libvirt_is_reported_once_and_unread_definitions_with_their_guests() {
        let reason = String::new;
        let silent = Refusal::LibvirtUnreachable { reason: reason() };
        assert!(is_reported_of_the_host(&silent));
        // The hint of that refusal names `doctor`.
        let unread = Refusal::DefinitionsUnread { reason: reason() };
        assert!(!is_reported_of_the_host(&unread));
    }
}
