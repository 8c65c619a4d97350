//! After a run: saves a state that libvirt deletes, unless the guest's TPM is elsewhere.

use super::available::encrypted_and_deleted;
use super::opener::drop_surplus;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator};
use crate::guard::context::Guard;
use crate::guard::operation::Ending;
use crate::guard::status::has_migrated_away;
use crate::host::path_error::PathError;
use crate::swtpm::{StateFile, StatePath};
use crate::tpm_copies::{CopyError, HardLinks, LiveState, RunRecord};
use crate::verdict::facts::{CopyReason, TransientState};

/// `release end`: the guest is gone, and libvirt is about to delete its TPM's state.
pub(in crate::guard) fn save_after_run(
    guard: &Guard,
    domain: &Domain,
    ending: Ending,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let Some(vtpm) = encrypted_and_deleted(guard, domain) else {
        return Ok(());
    };
    let copy_store = guard.copy_store(domain);
    let run = copy_store.run().unwrap_or_default();
    let keep = |occasion| {
        let original = LiveState::read(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm)?;
        let is_encrypted = |found: &LiveState| matches!(found.state(), StateFile::Encrypted(_));
        if let Some(original) = original.filter(is_encrypted) {
            let current = copy_store.save(&original, &domain.name, occasion)?;
            drop_surplus(guard, domain, &copy_store, &current, deadline);
        }
        Ok(())
    };
    match ending {
        // Its TPM is elsewhere: a copy would restore an old state, or one that is not the guest's.
        _ if run.migrated => copy_store
            .remove_run()
            .and_then(|()| copy_store.remove_if_empty()),
        _ if run.starting && run.refused.is_some() => link_state(guard, domain, vtpm),
        // It has run, although `started` was missed.
        Ending::Ended if run.starting => keep(CopyReason::Release),
        // The copy from before the start is the state that the next start needs.
        _ if run.starting => Ok(()),
        // It failed between `started` and its end.
        Ending::Failed => keep(CopyReason::Start),
        Ending::Migrated => Ok(()),
        _ if !may_have_key_refs(guard, domain, deadline) => Ok(()),
        Ending::Ended | Ending::Unknown => {
            let kept = match guard.config.policy.transient_state {
                TransientState::Keep => keep(CopyReason::Release),
                // Older copies are neither of this run nor of a failed start.
                TransientState::Fresh => copy_store.set_aside(Timestamp::now()).map(|_| ()),
            };
            copy_store.write_run(RunRecord {
                ended_normally: true,
                ..RunRecord::default()
            })?;
            kept
        }
    }
}

/// `stopped end`: notes that the guest has migrated away, which an older libvirt no longer reports
/// at `release`.
pub(in crate::guard) fn note_migration(guard: &Guard, domain: &Domain) -> Result<(), CopyError> {
    if encrypted_and_deleted(guard, domain).is_none() || !has_migrated_away(guard, domain) {
        return Ok(());
    }
    note_tpm_elsewhere(guard, domain)
}

/// Notes that the state which libvirt will delete is not the guest's TPM: that is on another host,
/// or in a saved image.
pub(in crate::guard) fn note_tpm_elsewhere(
    guard: &Guard,
    domain: &Domain,
) -> Result<(), CopyError> {
    guard.copy_store(domain).write_run(RunRecord {
        migrated: true,
        ..RunRecord::default()
    })
}

/// Makes hard links to a state that libvirt is about to delete. `guard::restore_links` restores it
/// from them afterwards.
fn link_state(guard: &Guard, domain: &Domain, vtpm: &Emulator) -> Result<(), CopyError> {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let failed = |source| CopyError::State {
        path: place.path.clone(),
        source,
    };
    match HardLinks::of(&place).map_err(failed)? {
        Some(links) => Ok(links.make().map_err(PathError::at(&place.path))?),
        None => Ok(()),
    }
}

/// Returns `true` also if the store does not answer.
fn may_have_key_refs(guard: &Guard, domain: &Domain, deadline: Deadline) -> bool {
    let found = guard.with_store(deadline, |store| store.has_key_refs(domain.uuid));
    !matches!(found, Ok(false))
}
