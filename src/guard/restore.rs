//! Carries out a verdict's repair that restores a TPM state from a saved copy.

use super::context::Guard;
use super::gather::Gathered;
use crate::clock::Timestamp;
use crate::domain::{Domain, Emulator, Vtpm};
use crate::swtpm::StatePath;
use crate::tpm_copies::{CopyError, RunRecord, SavedCopy, restore_copy, set_aside};
use crate::verdict::Verdict;
use crate::verdict::facts::{Damage, TpmState};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;

/// Carries out a `restore-tpm-state` repair. If that fails, the start is refused: libvirt would
/// create a new TPM.
pub(super) fn restore_state(guard: &Guard, gathered: &Gathered, verdict: &mut Verdict) {
    let is_restore = |repair: &Repair| matches!(repair, Repair::RestoreTpmState { .. });
    if !verdict.repairs().iter().any(is_restore) {
        return;
    }
    let (Ok(domain), Some(copy)) = (&gathered.facts.domain, &gathered.copy) else {
        return;
    };
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return;
    };
    let states = guard.config.libvirt.tpm_states();
    let start = (states.as_path(), domain.uuid, vtpm);
    if let Err(refusal) = set_damaged_aside(guard, &gathered.facts.state, domain, (vtpm, copy))
        .and_then(|()| {
            restore_copy(copy, Some(start)).map_err(|error| Refusal::TpmStateNotRestored {
                reason: error.to_string(),
            })
        })
    {
        verdict.refuse(refusal);
        return;
    }
    // So that `started` drops this copy even if no key proves that it is the guest's.
    let copy_store = guard.copy_store(domain);
    let state = Some(copy.manifest.sha256().to_owned());
    let noted = copy_store.run().and_then(|run| {
        copy_store.write_run(RunRecord {
            state,
            had_state: true,
            ..run
        })
    });
    if let Err(error) = noted {
        tracing::warn!(domain = domain.name, %error, "could not record which copy was restored");
    }
}

/// Sets aside a damaged state. A copy never replaces any other state.
fn set_damaged_aside(
    guard: &Guard,
    state: &TpmState,
    domain: &Domain,
    (vtpm, copy): (&Emulator, &SavedCopy),
) -> Result<(), Refusal> {
    let TpmState::Damaged(damage) = state else {
        return Ok(());
    };
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let now = Timestamp::now();
    match set_aside(&guard.state_dir, domain.uuid, &place, &copy.manifest, now) {
        Ok(aside) => {
            tracing::warn!(domain = domain.name, path = %aside.display(), "a damaged TPM state was set aside");
            Ok(())
        }
        Err(error) => Err(Refusal::TpmStateDamaged {
            damage: instead_of_a_copy(damage, &error),
            is_named_by_xml: vtpm.source.is_some(),
        }),
    }
}

/// What is wrong with a damaged state, and why no saved copy takes its place.
pub(super) fn instead_of_a_copy(damage: &Damage, why: &CopyError) -> Damage {
    Damage {
        how: format!("{}; a saved copy cannot take its place: {why}", damage.how),
        link: damage.link.clone(),
    }
}
