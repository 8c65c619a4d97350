//! Saved copies of TPM state: can they be used, and does a guest still need them?

use super::{Finding, KeyFinding, last_name};
use crate::clock::Timestamp;
use crate::config::KeptStates;
use crate::ids::DomainUuid;
use crate::manage::host::Host;
use crate::tpm_copies::{self, CopyStore, SavedCopy};

/// How old a copy may be before it is reported, in milliseconds: 90 days.
const OLD_MS: i64 = 90 * 24 * 60 * 60 * 1000;

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let found: Vec<_> = match tpm_copies::domains(host.state_dir()) {
        Ok(guests) => guests
            .into_iter()
            .flat_map(|guest| of_guest(host, guest))
            .collect(),
        Err(error) => vec![KeyFinding::Copy(error)],
    };
    found.into_iter().map(Finding::from).collect()
}

fn of_guest(host: &Host, guest: DomainUuid) -> Vec<KeyFinding> {
    let (copies, damaged) = match CopyStore::of(host.state_dir(), guest).copies() {
        Ok(found) => found,
        Err(error) => return vec![KeyFinding::Copy(error)],
    };
    let damaged = damaged.into_iter().map(KeyFinding::Copy);
    damaged.chain(old(host, guest, &copies)).collect()
}

fn old(host: &Host, guest: DomainUuid, copies: &[SavedCopy]) -> Option<KeyFinding> {
    let saved_at = copies.iter().map(|copy| copy.manifest.kept_at()).max()?;
    // Of a guest that is only shut off for long, where every run is saved, it is what it should be.
    let keeps_all = host
        .config()
        .is_ok_and(|config| config.kept_states == KeptStates::All);
    if Timestamp::now().0.saturating_sub(saved_at.0) < OLD_MS || keeps_all {
        return None;
    }
    Some(KeyFinding::OldCopy {
        guest,
        name: last_name(host, guest),
        saved_at,
    })
}
