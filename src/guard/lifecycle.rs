//! What follows a verdict: the guest runs, or it is gone, or its TPM state is on its way.
//! None of this may refuse anything; what fails is told to the caller, who logs it.

use std::io;
use std::time::Duration;

use super::operation::Ending;
use super::status::{Progress, progress};
use super::{
    Guard, Operation, arriving, before_the_answer, begun, copies, failed, lease, plain_state,
};
use crate::clock::{Deadline, Timestamp};
use crate::config::Lifetime;
use crate::domain::{Domain, Emulator};
use crate::ids::SecretUuid;
use crate::libvirt::secret::SecretError;
use crate::store::{Access, Event, Store, StoreError};
use crate::swtpm::{StateFile, read_state, state_path};
use crate::tpm_copies::CopyError;
use crate::verdict::facts::{Arrival, SeenState};

/// How soon a start has failed, if it fails: what ends later has run. libvirt tells which of the
/// two it was since 10.5.
const FAILS_WITHIN: Duration = Duration::from_secs(60);

/// Why something that follows a verdict was not done.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
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
) -> Result<(), LifecycleError> {
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
fn started(guard: &Guard, domain: &Domain, deadline: Deadline) -> Result<(), LifecycleError> {
    let dropped = copies::drop_after_start(guard, domain, deadline);
    let Some((vtpm, secret)) = domain.encrypted_vtpm() else {
        forget_announcement(guard, domain, deadline)?;
        return Ok(dropped?);
    };
    let has_its_tpm = begun::has_started(guard, domain);
    let noted = with_store(guard, deadline, |store| {
        store.mark_started(domain.uuid, Timestamp::now())?;
        if has_its_tpm {
            note_state(guard, domain, vtpm, store)?;
        }
        store.has_key_refs(domain.uuid)
    });
    // The encrypted state has proven itself: a plain one that `encrypt` kept has done its work.
    let forgotten = plain_state::remove(&guard.state_dir, domain.uuid);
    let is_over = guard.config.secret_lifetime == Lifetime::Start;
    if may_be_managed(&noted) {
        leave_secret(guard, domain, secret, is_over, deadline)?;
    }
    noted?;
    forgotten?;
    Ok(dropped?)
}

/// `stopped end`: the guest is gone, or its start has failed.
fn stopped(guard: &Guard, domain: &Domain, deadline: Deadline) -> Result<(), LifecycleError> {
    let dropped = drop_first(guard, domain, deadline);
    let failed = failed::look(guard, domain, None);
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
) -> Result<(), LifecycleError> {
    let dropped = drop_first(guard, domain, deadline);
    let failed = failed::look(guard, domain, Some(ending));
    let kept = copies::keep_after_run(guard, domain, ending, deadline);
    let ended = ended(guard, domain, Some(ending), failed.as_ref(), deadline);
    if let (Err(error), Err(_)) = (&kept, &ended) {
        tracing::warn!(domain = domain.name, %error, "no copy of the TPM's state was kept");
    }
    ended?;
    dropped?;
    Ok(kept?)
}

/// The guest is gone, and its host secret goes first: what follows looks at its TPM's state, in
/// whose place swtpm's user may have put something that takes all the time that there is.
fn drop_first(guard: &Guard, domain: &Domain, deadline: Deadline) -> Result<(), LifecycleError> {
    let Some((_, secret)) = domain.encrypted_vtpm() else {
        return Ok(());
    };
    // The other half is for what follows.
    let half = deadline.at_most(deadline.remaining() / 2);
    let managed = with_store(guard, half, |store| store.has_key_refs(domain.uuid));
    if may_be_managed(&managed) {
        let is_over = guard.config.secret_lifetime != Lifetime::Keep;
        leave_secret(guard, domain, secret, is_over, half)?;
    }
    Ok(())
}

/// The guest is gone: so is a key that was made for nothing, and the secret with it. `ending` is
/// known at `release` alone; `failed` tells of a start that failed after it was allowed.
fn ended(
    guard: &Guard,
    domain: &Domain,
    ending: Option<Ending>,
    failed: Option<&Event>,
    deadline: Deadline,
) -> Result<(), LifecycleError> {
    let Some((vtpm, secret)) = domain.encrypted_vtpm() else {
        return Ok(forget_announcement(guard, domain, deadline)?);
    };
    let has_run = progress(guard, domain) == Some(Progress::Ran);
    let state = read_state(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let mut taken_back = false;
    let noted = with_store(guard, deadline, |store| {
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
        leave_secret(guard, domain, secret, true, deadline)?;
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
) -> Result<(), LifecycleError> {
    if domain.has_emulated_tpm()
        && let Some(announcement) = arriving::announcement(guard, domain, arrival)
    {
        with_store(guard, deadline, |store| {
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
        with_store(guard, deadline, |store| {
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

/// Does `work`, which says whether the domain has key references. Without a store it has none.
pub(super) fn with_store(
    guard: &Guard,
    deadline: Deadline,
    work: impl FnOnce(&mut Store) -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    match guard.open_store(Access::Write, deadline)? {
        Some(mut store) => work(&mut store),
        None => Ok(false),
    }
}

/// Whether libvirt may hold a secret of the guard's. A store that does not answer leaves it
/// open; dropping looks at the secret's usage name before it touches it.
fn may_be_managed(has_key_refs: &Result<bool, StoreError>) -> bool {
    !matches!(has_key_refs, Ok(false))
}

/// The use of the secret for this guest's start is over. Drops it, if `is_over` says that the
/// guard's lifetime for it is over too, and if no other guest is being started with it.
fn leave_secret(
    guard: &Guard,
    domain: &Domain,
    secret: SecretUuid,
    is_over: bool,
    deadline: Deadline,
) -> Result<(), SecretError> {
    let Some(secrets) = guard.secrets.as_ref().filter(|_| !guard.libvirt_starts) else {
        return Ok(());
    };
    let until = before_the_answer(deadline);
    let drop_it = |defined_for| {
        if is_over {
            secrets.drop_own(secret, defined_for, until).map(drop)
        } else {
            Ok(())
        }
    };
    match lease::leave(&guard.run_dir.leases(), secret, domain.uuid, until, drop_it) {
        Ok(dropped) => dropped.unwrap_or(Ok(())),
        Err(error) => {
            tracing::warn!(%secret, %error, "who is being started with the secret is not known");
            drop_it(domain.uuid)
        }
    }
}
