//! Before a start and at a refusal: saves a state that libvirt may delete.

use super::available::{encrypted_and_deleted, libvirt_would_delete};
use super::exclusive;
use super::opener::drop_surplus;
use crate::clock::Deadline;
use crate::domain::{Domain, Vtpm};
use crate::guard::context::Guard;
use crate::guard::restore_links;
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyError, LiveState, RunRecord};
use crate::verdict::code::Code;
use crate::verdict::facts::{CopyReason, Permission};

/// Saves a copy of the TPM state, in case the start fails and libvirt deletes it. For a persistent
/// guest only the existence of its definition is checked.
pub(in crate::guard) fn save_before_start(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return Ok(());
    };
    if !libvirt_would_delete(guard, domain, vtpm) {
        return Ok(());
    }
    restore_links::before_start(guard, domain.uuid, vtpm, deadline);
    let original = LiveState::read(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    if vtpm.secret_uuid.is_none() && !may_be_refused(guard, &original) {
        return Ok(());
    }
    let copy_store = guard.copy_store(domain);
    // The process that restores the state of the start before may be at its copies.
    let _exclusive = exclusive(&copy_store, domain, deadline);
    let is_absent = matches!(original, Ok(None));
    let kept = original.and_then(|original| {
        let keep = |original| copy_store.save(&original, &domain.name, CopyReason::Start);
        original.map(keep).transpose()
    });
    let before = copy_store.run_before()?;
    copy_store.write_run(RunRecord {
        starting: true,
        started_at: Some(guard.start_time.get().0),
        state: kept.as_ref().ok().cloned().flatten(),
        had_state: !is_absent,
        ended_normally: is_absent && before.ended_normally,
        outdated: before.outdated || before.migrated,
        migrated: false,
        refused: None,
    })?;
    if let Some(current) = kept? {
        drop_surplus(guard, domain, &copy_store, &current, deadline);
    }
    Ok(())
}

/// Notes that a start was refused because of its TPM state, which libvirt will delete although it
/// is still needed.
pub(in crate::guard) fn note_refusal(
    guard: &Guard,
    domain: &Domain,
    code: Code,
) -> Result<(), CopyError> {
    if encrypted_and_deleted(guard, domain).is_none() {
        return Ok(());
    }
    let copy_store = guard.copy_store(domain);
    copy_store.write_run(RunRecord {
        starting: true,
        refused: Some(code.as_str().to_owned()),
        ..copy_store.run_before()?
    })
}

/// Returns whether the start of a guest whose vTPM is not encrypted may be refused.
fn may_be_refused(guard: &Guard, original: &Result<Option<LiveState>, CopyError>) -> bool {
    let is_encrypted = |found: &LiveState| matches!(found.state(), StateFile::Encrypted(_));
    let found = original.as_ref().ok().and_then(Option::as_ref);
    guard.config.policy.unencrypted == Permission::Deny || found.is_some_and(is_encrypted)
}
