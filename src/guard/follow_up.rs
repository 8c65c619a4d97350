//! What follows a verdict: the guest runs, or it is gone, or its TPM state is on its way.
//! None of this may refuse anything; what fails is told to the caller, who logs it.

use std::io;
use std::time::Duration;

use super::context::Guard;
use super::operation::{Ending, Operation};
use super::status::{Progress, progress};
use super::{arrival as arrivals, copies, failed_start, plain_state, secret_release, start_note};
use crate::clock::{Deadline, Timestamp};
use crate::config::Lifetime;
use crate::domain::{Domain, Emulator};
use crate::libvirt::secret::SecretError;
use crate::store::{Event, Store, StoreError};
use crate::swtpm::{StateFile, read_state, state_path};
use crate::tpm_copies::CopyError;
use crate::verdict::facts::{Arrival, SeenState};

/// How soon a start has failed, if it fails: what ends later has run. libvirt tells which of the
/// two it was since 10.5.
const FAILS_WITHIN: Duration = Duration::from_secs(60);

/// Why something that follows a verdict was not done.
#[derive(Debug, thiserror::Error)]
pub enum FollowUpError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// libvirt.
    #[error("the host secret was not dropped: {0}")]
    Secret(#[from] SecretError),
    /// The plain TPM state that `encrypt` kept.
    #[error("the plain TPM state that was kept is still there: {0}")]
    PlainState(#[from] io::Error),
    /// The copies of TPM state.
    #[error("the copy of the TPM's state: {0}")]
    Copy(#[from] CopyError),
}

/// Does what follows a verdict at this operation; at `prepare`, which makes verdicts, nothing.
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

/// `started begin`: the key has been used; host secret and kept copy have done their work.
fn started(guard: &Guard, domain: &Domain, deadline: Deadline) -> Result<(), FollowUpError> {
    let dropped = copies::drop_after_start(guard, domain, deadline);
    let Some((vtpm, secret)) = domain.encrypted_vtpm() else {
        forget_announcement(guard, domain, deadline)?;
        return Ok(dropped?);
    };
    let has_its_tpm = start_note::remove_at_start(guard, domain);
    let noted = guard.with_store(deadline, |store| {
        store.mark_started(domain.uuid, Timestamp::now())?;
        if has_its_tpm {
            note_state(guard, domain, vtpm, store)?;
        }
        store.has_key_refs(domain.uuid)
    });
    // The encrypted state has proven itself: a plain one that `encrypt` kept has done its work.
    let forgotten = plain_state::remove(&guard.state_dir, domain.uuid);
    let is_over = guard.config.secret_lifetime == Lifetime::Start;
    if secret_release::may_be_managed(&noted) {
        secret_release::release(guard, domain, secret, is_over, deadline)?;
    }
    noted?;
    forgotten?;
    Ok(dropped?)
}

/// `stopped end`: the guest is gone, or its start has failed.
fn stopped(guard: &Guard, domain: &Domain, deadline: Deadline) -> Result<(), FollowUpError> {
    let dropped = secret_release::drop_first(guard, domain, deadline);
    let failed = failed_start::take(guard, domain, None);
    let noted = copies::note_migration(guard, domain);
    ended(guard, domain, None, failed.as_ref(), deadline)?;
    dropped?;
    Ok(noted?)
}

/// `release end`: likewise, and it is the last moment at which a transient guest has its state.
fn released(
    guard: &Guard,
    domain: &Domain,
    ending: Ending,
    deadline: Deadline,
) -> Result<(), FollowUpError> {
    let dropped = secret_release::drop_first(guard, domain, deadline);
    let failed = failed_start::take(guard, domain, Some(ending));
    let kept = copies::save_after_run(guard, domain, ending, deadline);
    let ended = ended(guard, domain, Some(ending), failed.as_ref(), deadline);
    if let (Err(error), Err(_)) = (&kept, &ended) {
        tracing::warn!(domain = domain.name, %error, "no copy of the TPM's state was kept");
    }
    ended?;
    dropped?;
    Ok(kept?)
}

/// The guest is gone: so is a key that was made for nothing, and the secret with it. `ending` is
/// known at `release` alone; `failed` tells of a start that failed after it was allowed.
fn ended(
    guard: &Guard,
    domain: &Domain,
    ending: Option<Ending>,
    failed: Option<&Event>,
    deadline: Deadline,
) -> Result<(), FollowUpError> {
    let Some((vtpm, secret)) = domain.encrypted_vtpm() else {
        return Ok(forget_announcement(guard, domain, deadline)?);
    };
    let has_run = progress(guard, domain) == Some(Progress::Ran);
    let state = read_state(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let mut taken_back = false;
    let noted = guard.with_store(deadline, |store| {
        store.clear_announcement(domain.uuid)?;
        if let Some(event) = failed {
            store.record_event(event)?;
        }
        if has_run {
            note_state(guard, domain, vtpm, store)?;
        }
        let now = Timestamp::now();
        match ending {
            // It has run, though `started` may not have been able to note it.
            Some(Ending::Ended) => store.mark_started(domain.uuid, now)?,
            // Should that state be out of sight when a later start fails, its key stays.
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
    // A key that nobody has any more is not one to start the guest with; under any other lifetime
    // its secret has gone already.
    if taken_back && guard.config.secret_lifetime == Lifetime::Keep {
        secret_release::release(guard, domain, secret, true, deadline)?;
    }
    noted?;
    Ok(())
}

/// `migrate begin`, `restore begin`: TPM state will arrive with the stream.
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

/// What was announced for this guest was for a start that is over.
fn forget_announcement(
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

/// Notes that the guest has run with the TPM state that is in its place, so that it is missed if
/// it goes. That of a transient guest goes with each run.
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
