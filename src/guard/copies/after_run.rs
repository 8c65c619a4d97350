//! After a run: saves a state that libvirt deletes, unless the guest's TPM is elsewhere.

use super::available::{encrypted_and_deleted, is_transient, libvirt_would_delete};
use super::opener::drop_surplus;
use super::{exclusive, managed_run};
use crate::clock::{Deadline, Timestamp};
use crate::config::KeptStates;
use crate::domain::{Domain, Emulator};
use crate::guard::context::Guard;
use crate::guard::operation::Ending;
use crate::guard::status::has_migrated_away;
use crate::host::path_error::PathError;
use crate::swtpm::{self, StateFile, StatePath};
use crate::tpm_copies::{CopyError, CopyStore, HardLinks, LiveState, RunRecord};
use crate::verdict::facts::{CopyReason, TransientState};

/// `release end`: the guest is gone, and libvirt may be about to delete its TPM's state. `has_run`: its
/// start was neither refused nor has it failed, as far as is known.
pub(in crate::guard) fn save_after_run(
    guard: &Guard,
    domain: &Domain,
    ending: Ending,
    has_run: bool,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(());
    };
    if libvirt_would_delete(guard, domain, vtpm) {
        return save_deleted(guard, domain, vtpm, ending, deadline);
    }
    // After a migration that failed libvirt deletes also a state that is to persist, which the guest goes on using
    // where it came from (`qemuMigrationDstFinish`: `VIR_DOMAIN_UNDEFINE_TPM`); from 11.3 on it spares one on
    // storage that it knows to be shared.
    let linked = if is_transient(guard, domain) && is_used_elsewhere(guard, domain, vtpm) {
        link_state(guard, domain, vtpm)
    } else {
        Ok(())
    };
    let saved = every_run_is_saved(guard, domain).and_then(|is_saved| {
        if is_saved {
            save_kept(guard, domain, vtpm, ending, has_run, deadline)
        } else {
            Ok(())
        }
    });
    linked.and(saved)
}

/// Whether `state.keep` has every run saved. Where that could not be read, a guest's copies say so: those that it
/// has would otherwise be outdated by this run, and no start would restore them.
fn every_run_is_saved(guard: &Guard, domain: &Domain) -> Result<bool, CopyError> {
    match guard.kept_states() {
        Some(kept) => Ok(kept == KeptStates::All),
        None => guard.copy_store(domain).has_copies(),
    }
}

/// `release end`, before anything is saved: whether the TPM of the run that is over is on this host, and nobody else
/// uses it.
pub(in crate::guard) fn has_its_tpm_here(guard: &Guard, domain: &Domain, ending: Ending) -> bool {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return false;
    };
    // Where that is unknown, nobody is told that it is here.
    let run = guard.copy_store(domain).known_run();
    run.is_some_and(|run| !run.migrated)
        && !matches!(ending, Ending::Migrated | Ending::Failed)
        && !is_used_elsewhere(guard, domain, vtpm)
}

/// Of a guest whose state libvirt keeps, as long as nobody undefines it.
fn save_kept(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    ending: Ending,
    has_run: bool,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let copy_store = guard.copy_store(domain);
    // A run of which nothing is known may have ended elsewhere, and this state be an old one.
    let has_moved = copy_store.known_run().is_none_or(|run| run.migrated);
    if has_moved || ending == Ending::Migrated {
        return mark_outdated(&copy_store);
    }
    // What another host goes on using is not the state of an ended run.
    if !has_run
        || ending == Ending::Failed
        || !may_be_managed(guard, domain, deadline)
        || is_used_elsewhere(guard, domain, vtpm)
    {
        return Ok(());
    }
    if save_state(guard, domain, vtpm, CopyReason::Release, deadline)? {
        copy_store.remove_run()?;
    }
    Ok(())
}

/// Saves the state, if it is encrypted. Returns whether it was.
fn save_state(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    reason: CopyReason,
    deadline: Deadline,
) -> Result<bool, CopyError> {
    let states = guard.config.libvirt.tpm_states();
    let original = LiveState::read(&states, domain.uuid, vtpm)?;
    let is_encrypted = |found: &LiveState| matches!(found.state(), StateFile::Encrypted(_));
    let Some(original) = original.filter(is_encrypted) else {
        return Ok(false);
    };
    let copy_store = guard.copy_store(domain);
    let _exclusive = exclusive(&copy_store, domain, deadline);
    let current = copy_store.save(&original, &domain.name, reason)?;
    drop_surplus(guard, domain, &copy_store, &current, deadline);
    Ok(true)
}

/// Notes that the copies, if there are any, are older than what the TPM is by now.
fn mark_outdated(copy_store: &CopyStore) -> Result<(), CopyError> {
    if !copy_store.has_copies()? {
        copy_store.remove_run()?;
        return copy_store.remove_if_empty();
    }
    copy_store.write_run(RunRecord {
        outdated: true,
        ..RunRecord::default()
    })
}

/// Of a transient guest, whose state libvirt is about to delete.
fn save_deleted(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    ending: Ending,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let copy_store = guard.copy_store(domain);
    let known = copy_store.known_run();
    let keep = |reason| save_state(guard, domain, vtpm, reason, deadline);
    let Some(run) = known else {
        // Saved whatever it is, for libvirt deletes it; and for an administrator to restore, not for a start.
        let kept = if is_used_elsewhere(guard, domain, vtpm) {
            link_state(guard, domain, vtpm)
        } else if ending == Ending::Migrated || !may_be_managed(guard, domain, deadline) {
            Ok(())
        } else {
            keep(CopyReason::Release).map(drop)
        };
        return mark_outdated(&copy_store).and(kept);
    };
    // Its TPM is elsewhere: a copy would restore an old state, or one that is not the guest's.
    if run.migrated {
        mark_outdated(&copy_store)?;
    }
    // What was refused because of its state, or what another host goes on using, must be there
    // afterwards, whatever the run was.
    let is_refused = run.starting && run.refused.is_some();
    if is_refused || is_used_elsewhere(guard, domain, vtpm) {
        return link_state(guard, domain, vtpm);
    }
    match ending {
        _ if run.migrated => Ok(()),
        // It has run, although `started` was missed.
        Ending::Ended if run.starting => keep(CopyReason::Release).map(drop),
        // The next start needs it, on this host or on another that shares it. Should it not be
        // back by then, the copy from before the start takes its place.
        _ if run.starting && run.had_state => link_state(guard, domain, vtpm),
        _ if run.starting => Ok(()),
        // It failed between `started` and its end.
        Ending::Failed => keep(CopyReason::Start).map(drop),
        Ending::Migrated => Ok(()),
        _ if !may_be_managed(guard, domain, deadline) => Ok(()),
        Ending::Ended | Ending::Unknown => {
            let kept = match guard.config.policy.transient_state {
                TransientState::Keep => keep(CopyReason::Release),
                // Older copies are neither of this run nor of a failed start.
                TransientState::Fresh => copy_store.set_aside(Timestamp::now()).map(|_| false),
            };
            copy_store.write_run(RunRecord {
                ended_normally: true,
                // If this run could not be saved, those before it are older.
                outdated: run.outdated && !matches!(kept, Ok(true)),
                ..RunRecord::default()
            })?;
            kept.map(drop)
        }
    }
}

/// `stopped end`: notes that the guest has migrated away, which an older libvirt no longer reports
/// at `release`.
pub(in crate::guard) fn note_migration(guard: &Guard, domain: &Domain) -> Result<(), CopyError> {
    let tells_the_fleet = guard.may_be_in_fleet() && domain.encrypted_vtpm().is_some();
    let saves = tells_the_fleet
        || encrypted_and_deleted(guard, domain).is_some()
        || guard.copy_store(domain).has_copies().unwrap_or_default();
    if !saves || !has_migrated_away(guard, domain) {
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

/// Returns whether another host uses the state. The guest's own swtpm may take a moment to end.
fn is_used_elsewhere(guard: &Guard, domain: &Domain, vtpm: &Emulator) -> bool {
    let states = guard.config.libvirt.tpm_states();
    swtpm::is_used_elsewhere(&StatePath::of(&states, domain.uuid, vtpm))
}

/// Whether the run was under the guard, or may have been: also if the store does not answer.
fn may_be_managed(guard: &Guard, domain: &Domain, deadline: Deadline) -> bool {
    let has_rows = || guard.with_store(deadline, |store| store.has_key_refs(domain.uuid));
    managed_run::is_marked(guard, domain) || !matches!(has_rows(), Ok(false))
}
