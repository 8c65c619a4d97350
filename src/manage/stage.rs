//! `stage`: before libvirtd starts, the keys of the guests that will start with it.

use std::io;
use std::time::Duration;

use super::dry_start::{CheckedGuest, would_not_start};
use super::guests::Source;
use super::host::{BrokenConfig, Host, HostError};
use crate::clock::Deadline;
use crate::domain::{Domain, UnreadableDomain, Vtpm};
use crate::guard::{Mode, prepare};
use crate::libvirt::Daemons;
use crate::staging::{Definition, DefinitionFiles, Staging, StagingError};
use crate::store::Origin;
use crate::verdict::Verdict;
use crate::verdict::facts::TpmState;
use crate::verdict::outcome::{Outcome, SecretAction};
use crate::verdict::refusal::Refusal;

/// How long the daemon's start may be held up. systemd gives a service 90 seconds until it is ready
/// (`DefaultTimeoutStartSec`), would end this program with it after them, and libvirtd needs some
/// for itself.
const FOR_ALL: Duration = Duration::from_secs(75);

/// The part of it in which the provider keys open: a slow TPM needs many seconds for each.
const FOR_PROVIDER_KEYS: Duration = Duration::from_secs(60);

/// How long one guest may hold up the others, by a locked store above all.
const FOR_ONE_GUEST: Duration = Duration::from_secs(5);

/// Why no keys were staged. None is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// The directory for them.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// libvirt's definitions of its guests.
    #[error("cannot read libvirt's definitions: {0}")]
    Definitions(io::Error),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Stages the key of each guest that will start with the daemon. One whose start would be refused
/// is left out: that is no reason to keep the daemon down, and all the others. What an earlier
/// call left is removed first, so that a kill at any moment leaves nothing that the next does not
/// replace.
pub(crate) fn stage(host: &Host) -> Result<Vec<CheckedGuest>, StageError> {
    // systemd counts from here on.
    stage_until(host, Deadline::after(FOR_ALL))
}

/// Past the deadline no guest is judged any more that may have an emulated TPM: the daemon is to come up, and those that are
/// left are not given a key for a start with it.
pub(crate) fn stage_until(
    host: &Host,
    deadline: Deadline,
) -> Result<Vec<CheckedGuest>, StageError> {
    let directory = host.staging_dir();
    directory.clear()?;
    // virtsecretd takes keys while virtqemud starts its guests.
    if host.daemons() == Daemons::Modular {
        return Ok(Vec::new());
    }
    let starting = DefinitionFiles::from(&host.libvirt_dirs()).starting();
    let starting = starting.map_err(StageError::Definitions)?;
    if !starting.is_empty() {
        directory.check()?;
    }
    let mut guard = host.guard(BrokenConfig::UseDefaults)?;
    guard.secrets = Some(Box::new(Staging(directory)));
    let encrypted: Vec<_> = starting
        .iter()
        .filter_map(|guest| guest.domain.as_ref().ok())
        .filter(|domain| domain.encrypted_vtpm().is_some())
        .map(|domain| domain.uuid)
        .collect();
    guard.open_keks_first(&encrypted, deadline.at_most(FOR_PROVIDER_KEYS));
    let checked = |name, outcome| CheckedGuest {
        name,
        source: Source::Definition,
        outcome,
    };
    let stage = |Definition { name, domain }| {
        if deadline.has_passed() && may_have_emulated_tpm(&domain) {
            return checked(name, not_judged(domain));
        }
        let for_one = deadline.at_most(FOR_ONE_GUEST);
        let mut outcome = prepare(&guard, &domain, Origin::Stage, Mode::CarryOut, for_one);
        if let Err(unreadable) = &domain {
            would_not_start(&mut outcome, unreadable);
        }
        checked(name, outcome)
    };
    Ok(starting.into_iter().map(stage).collect())
}

/// The guard refuses no other guest, and lets it start without reading anything.
fn may_have_emulated_tpm(domain: &Result<Domain, UnreadableDomain>) -> bool {
    domain.as_ref().map_or(true, |domain| {
        matches!(domain.vtpm, Some(Vtpm::Emulator(_)))
    })
}

fn not_judged(domain: Result<Domain, UnreadableDomain>) -> Outcome {
    Outcome {
        domain: domain.ok(),
        state: TpmState::Unreadable("there was no time to read it".to_owned()),
        verdict: Verdict::deny(Refusal::StagingTimePassed),
        key: None,
        secret: SecretAction::None,
        dry_run: false,
    }
}
