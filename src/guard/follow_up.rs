//! What follows a verdict: the guest runs, or is gone, or its TPM state will arrive. Nothing here
//! can refuse a start; errors are returned to the caller, who logs them.

use std::time::Duration;

use super::context::Guard;
use super::operation::{Ending, Operation};
use super::status::{Progress, progress};
use super::{
    arrival as arrivals, copies, failed_start, fleet, plain_state, restore_links, secret_release,
    start_note, sync_notes,
};
use crate::clock::{Deadline, Timestamp};
use crate::config::Lifetime;
use crate::domain::{Domain, Emulator};
use crate::host::path_error::PathError;
use crate::libvirt::secret::SecretError;
use crate::store::{Event, Store, StoreError};
use crate::swtpm::{StateFile, read_state, state_path};
use crate::tpm_copies::CopyError;
use crate::verdict::facts::{Arrival, SeenState};

/// A start that ends within this time counts as failed; a guest that stops later has run. Since
/// 10.5 libvirt reports which of the two it was.
const FAILS_WITHIN: Duration = Duration::from_secs(60);

/// Why something that follows a verdict failed.
#[derive(Debug, thiserror::Error)]
pub enum FollowUpError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// libvirt.
    #[error("the host secret was not dropped: {0}")]
    Secret(#[from] SecretError),
    /// The plain TPM state that `encrypt` kept.
    #[error("the plain TPM state could not be removed: {0}")]
    PlainState(#[from] PathError),
    /// The copies of TPM state.
    #[error("the copy of the TPM's state: {0}")]
    Copy(#[from] CopyError),
}

/// Does what follows a verdict at this operation. At `prepare`, which makes verdicts, nothing.
pub fn follow_up(
    guard: &Guard,
    operation: Operation,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), FollowUpError> {
    match operation {
        Operation::Prepare => Ok(()),
        Operation::Started => started(guard, domain, deadline),
        Operation::Ended => stopped(guard, domain, deadline),
        Operation::Released(ending) => released(guard, domain, ending, deadline),
        Operation::MigrateIn => announced(guard, domain, Arrival::Migration, deadline),
        Operation::Restore => announced(guard, domain, Arrival::Restore, deadline),
    }
}

/// `started begin`: the key has been used; host secret and saved copy are no longer needed.
fn started(guard: &Guard, domain: &Domain, deadline: Deadline) -> Result<(), FollowUpError> {
    let dropped = copies::drop_after_start(guard, domain, deadline);
    let Some((vtpm, secret)) = domain.encrypted_vtpm() else {
        clear_announcement(guard, domain, deadline)?;
        return Ok(dropped?);
    };
    restore_links::after_start(guard, domain.uuid, vtpm, Timestamp::now());
    let may_have_provided = start_note::may_have_provided(guard, domain);
    let has_its_tpm = start_note::remove_at_start(guard, domain);
    let noted = guard.with_store(deadline, |store| {
        store.mark_started(domain.uuid, Timestamp::now())?;
        if has_its_tpm {
            note_state(guard, domain, vtpm, store)?;
        }
        sync_notes::leave_if_due(guard, domain, store)?;
        fleet::notes::note_start(guard, domain, store)?;
        store.has_key_refs(domain.uuid)
    });
    // The encrypted state works: a plain one that `encrypt` saved is no longer needed.
    let forgotten = plain_state::remove(&guard.state_dir, domain.uuid);
    let is_over = guard.config.secret_lifetime == Lifetime::Start && may_have_provided;
    let is_managed = secret_release::may_be_managed(&noted);
    copies::managed_run::mark(guard, domain, is_managed);
    if is_managed {
        secret_release::release(guard, domain, secret, is_over, deadline)?;
    }
    noted?;
    forgotten?;
    Ok(dropped?)
}

/// `stopped end`: the guest has stopped, or its start has failed.
fn stopped(guard: &Guard, domain: &Domain, deadline: Deadline) -> Result<(), FollowUpError> {
    let dropped = secret_release::drop_first(guard, domain, deadline);
    let failed = failed_start::take(guard, domain, None);
    let noted = copies::note_migration(guard, domain);
    ended(guard, domain, None, failed.as_ref(), deadline)?;
    dropped?;
    Ok(noted?)
}

/// `release end`: the same, and the last moment at which a transient guest has its state.
fn released(
    guard: &Guard,
    domain: &Domain,
    ending: Ending,
    deadline: Deadline,
) -> Result<(), FollowUpError> {
    let dropped = secret_release::drop_first(guard, domain, deadline);
    let refused = start_note::is_of_refused_start(guard, domain);
    let failed = failed_start::take(guard, domain, Some(ending));
    let has_run = !refused && failed.is_none();
    let stopped = copies::has_its_tpm_here(guard, domain, ending);
    let kept = copies::save_after_run(guard, domain, ending, has_run, deadline);
    copies::managed_run::unmark(guard, domain);
    let ended = ended(guard, domain, Some(ending), failed.as_ref(), deadline);
    let noted = if has_run {
        note_end(guard, domain, stopped, deadline)
    } else {
        Ok(())
    };
    if let (Err(error), Err(_)) = (&kept, &ended) {
        tracing::warn!(domain = domain.name, %error, "the TPM state was not saved");
    }
    ended?;
    noted?;
    dropped?;
    Ok(kept?)
}

/// Notes for the fleet that the guest's run is over.
fn note_end(
    guard: &Guard,
    domain: &Domain,
    stopped: bool,
    deadline: Deadline,
) -> Result<(), FollowUpError> {
    if domain.encrypted_vtpm().is_none() || !guard.may_be_in_fleet() {
        return Ok(());
    }
    guard.with_store(deadline, |store| {
        fleet::notes::note_end(guard, domain, stopped, store)?;
        Ok(true)
    })?;
    Ok(())
}

/// The guest has stopped: retires a key that was never used, and drops the secret with it.
/// `ending` is known only at `release`; `failed` is the event of a start that failed after it was
/// allowed.
fn ended(
    guard: &Guard,
    domain: &Domain,
    ending: Option<Ending>,
    failed: Option<&Event>,
    deadline: Deadline,
) -> Result<(), FollowUpError> {
    let Some((vtpm, secret)) = domain.encrypted_vtpm() else {
        return Ok(clear_announcement(guard, domain, deadline)?);
    };
    let has_run = progress(guard, domain) == Some(Progress::Ran);
    let state = read_state(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let mut taken_back = false;
    let noted = guard.with_store(deadline, |store| {
        store.clear_announcement(domain.uuid)?;
        if let Some(event) = failed {
            store.record_start(event)?;
        }
        if has_run {
            note_state(guard, domain, vtpm, store)?;
        }
        let now = Timestamp::now();
        match ending {
            // It has run, even if `started` could not record it.
            Some(Ending::Ended) => store.mark_started(domain.uuid, now)?,
            // If that state is not visible when a later start fails, its key must stay.
            _ if !matches!(state, StateFile::Absent) => store.clear_fresh_key(domain.uuid)?,
            Some(Ending::Failed) => {
                taken_back = store.retire_fresh_key(domain.uuid, None, now)?.is_some();
            }
            Some(Ending::Unknown) => {
                let within = Some(FAILS_WITHIN);
                taken_back = store.retire_fresh_key(domain.uuid, within, now)?.is_some();
            }
            Some(Ending::Migrated) | None => {}
        }
        store.has_key_refs(domain.uuid)
    });
    // The guest must not start with a key that is retired; under any other lifetime the secret is
    // dropped already.
    if taken_back && guard.config.secret_lifetime == Lifetime::Keep {
        secret_release::release(guard, domain, secret, true, deadline)?;
    }
    noted?;
    Ok(())
}

/// `migrate begin`, `restore begin`: the TPM state will arrive with the stream.
fn announced(
    guard: &Guard,
    domain: &Domain,
    arrival: Arrival,
    deadline: Deadline,
) -> Result<(), FollowUpError> {
    if domain.has_emulated_tpm()
        && let Some(announcement) = arrivals::announcement(guard, domain, arrival)
    {
        guard.with_store(deadline, |store| {
            store.announce(domain.uuid, &announcement)?;
            Ok(true)
        })?;
    }
    Ok(())
}

/// Clears an announcement of a start that is over.
fn clear_announcement(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), StoreError> {
    if domain.has_emulated_tpm() {
        guard.with_store(deadline, |store| {
            store.clear_announcement(domain.uuid)?;
            Ok(true)
        })?;
    }
    Ok(())
}

/// Records that the guest has run with this TPM state, so that its loss is noticed. The state of a
/// transient guest goes with each run and is not recorded.
fn note_state(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    store: &mut Store,
) -> Result<(), StoreError> {
    if copies::libvirt_would_delete(guard, domain, vtpm) {
        return Ok(());
    }
    match read_state(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm) {
        StateFile::Encrypted(_) => store.note_seen_state(
            domain.uuid,
            &SeenState {
                domain_name: domain.name.clone(),
                secret_uuid: vtpm.secret_uuid,
                path: state_path(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm),
                at: Timestamp::now(),
            },
        ),
        _ => Ok(()),
    }
}
