//! `key renew`: a stopped guest's TPM gets a new key; the TPM itself stays the same.
//!
//! At any moment the state is opened by exactly one of two keys, and both are in the store and
//! in use until the state has been replaced: after a kill the next start finds out which.

use crate::verdict::facts::for_new_keys;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::guests::GuestRef;
use super::host::{BrokenConfig, Host, default_deadline};
use super::providers::ProviderRef;
use super::stopped_guest::{DefinedGuest, StoppedError};
use crate::clock::Timestamp;
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::keyring::unlock::{OpenedKey, Unlocker};
use crate::libvirt::files;
use crate::store::{Access, AddKey, Origin, OtherKeys, Store, StoreError};
use crate::swtpm::{OldState, RecryptError, TpmData};

/// What `key renew` did.
#[derive(Debug, Serialize)]
pub(crate) struct Renewed {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) provider: ProviderRef,
    /// The new key.
    pub(crate) key_ref: KeyRefId,
    /// The key that opened the state before.
    #[serde(skip)]
    pub(crate) replaced: KeyRefId,
    /// Every key that was retired for the new one.
    pub(crate) retired: Vec<KeyRefId>,
    /// What became of the state under the old key in a file that the new one is in, too.
    pub(crate) old_state: Option<OldState>,
    /// The old keys could not be retired: the next start does it.
    #[serde(skip)]
    pub(crate) not_retired: Option<StoreError>,
    /// The history does not have it.
    #[serde(skip)]
    pub(crate) not_recorded: Option<StoreError>,
}

/// Why a key was not renewed. Nothing has changed, except where a variant says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewError {
    /// The guest cannot be touched.
    #[error(transparent)]
    Stopped(StoppedError),
    /// Its vTPM is not encrypted.
    #[error("not encrypted")]
    NotEncrypted(GuestRef),
    /// libvirt has a persistent secret with its key in this directory: with that copy it would
    /// start with the daemon, and not open its TPM; and every other start would write the new key
    /// there.
    #[error("kept by libvirt")]
    KeptByLibvirt {
        guest: GuestRef,
        secret: SecretUuid,
        directory: PathBuf,
    },
    /// It has no TPM state.
    #[error("no TPM state")]
    NoState(GuestRef),
    /// No key that this host can open opens the state; why one could not be tried, if so.
    #[error("no key opens it")]
    NoKeyOpens(GuestRef, Option<String>),
    /// A start was judged in the meantime, and was given the old key.
    #[error("starting")]
    Starting(GuestRef),
    /// The new state was not installed, and its key, which opens nothing, could not be retired: it
    /// stays in the store until the next start retires it.
    #[error("{error}; {not_retired}")]
    KeyLeft {
        guest: GuestRef,
        error: io::Error,
        not_retired: StoreError,
    },
}

impl<E: Into<StoppedError>> From<E> for RenewError {
    fn from(error: E) -> Self {
        Self::Stopped(error.into())
    }
}

/// Gives the TPM of the guest that `text` names a new key.
pub(crate) fn renew(host: &Host, text: &str) -> Result<Renewed, RenewError> {
    let guard = host.guard(BrokenConfig::Fail)?;
    // Before it is seen to be stopped: any start that is judged from here on writes an event.
    let store = host.store(Access::Write)?;
    let before = match &store {
        Some(store) => store.last_event(None)?,
        None => 0,
    };
    let guest = host.stopped_guest(text)?;
    let Some(secret) = guest.vtpm.secret_uuid else {
        return Err(RenewError::NotEncrypted(guest.reference()));
    };
    let directory = guard.config.libvirt.secrets();
    if files::are_of_this_host(&guard.config.secret_uri) && files::is_on_disk(&directory, secret)? {
        return Err(RenewError::KeptByLibvirt {
            guest: guest.reference(),
            secret,
            directory,
        });
    }
    let Some(locked) = guest.lock_state(&guard)? else {
        return Err(RenewError::NoState(guest.reference()));
    };
    let mut store = store.ok_or(StoreError::Missing)?;
    store.set_deadline(default_deadline())?;
    let mut unlocker = Unlocker::new(&host.keyring());
    let found = store.references(guest.uuid(), Timestamp::now())?;
    let generation = unlocker.next_generation(&found, Some(&guest.domain), default_deadline());
    let keys = unlocker.open_rows(
        found.key_refs,
        &found.providers,
        guest.uuid(),
        default_deadline(),
    );
    let (old, data) = proven(&guest, keys, locked.blob())?
        .ok_or_else(|| RenewError::NoKeyOpens(guest.reference(), unlocker.why_not()))?;
    let provider = for_new_keys(&old.provider, &found.providers);

    let dek = Dek::generate()?;
    let key = unlocker.wrap(&dek, provider, guest.uuid(), generation, default_deadline())?;
    let staged = guest.stage(locked, &data, &dek)?;
    let now = Timestamp::now();
    let key_ref = store.add_key(&AddKey {
        domain: guest.uuid(),
        provider: provider.uuid,
        key: &key,
        secret_uuid: Some(secret),
        // The TPM is one that a guest has used.
        first_used_at: Some(now),
        others: OtherKeys::Keep,
        now,
    })?;
    if store.last_event(Some(guest.uuid()))? > before {
        drop(staged);
        store.retire(key_ref, now)?;
        return Err(RenewError::Starting(guest.reference()));
    }
    let old_state = match staged.install() {
        Ok(old_state) => old_state,
        // Whichever state a power cut leaves, one of the two keys opens it.
        Err(failed) if failed.may_be_installed => {
            return Err(StoppedError::of_install(guest.reference(), failed).into());
        }
        Err(failed) => return Err(retire_unused(&mut store, key_ref, &guest, failed.error)),
    };
    let (retired, not_retired) = match store.use_key(key_ref, now) {
        Ok(used) => (used.retired, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let message = format!(
        "its TPM state is encrypted with a new key of provider \"{}\" (key reference {key_ref})",
        provider.name
    );
    Ok(Renewed {
        guest: guest.reference(),
        provider: provider.into(),
        key_ref,
        replaced: old.key_ref.id,
        retired,
        old_state,
        not_retired,
        not_recorded: guest.record(&mut store, Origin::Renew, message).err(),
    })
}

/// The key that opens the state, and what is in it; `None` if none of these does.
fn proven(
    guest: &DefinedGuest,
    keys: Vec<OpenedKey>,
    blob: &[u8],
) -> Result<Option<(OpenedKey, TpmData)>, RenewError> {
    for key in keys {
        match TpmData::decrypt(blob, &key.dek) {
            Ok(data) => return Ok(Some((key, data))),
            Err(RecryptError::OtherKey) => {}
            Err(error) => return Err(StoppedError::Recrypt(guest.reference(), error).into()),
        }
    }
    Ok(None)
}

/// The new state was not installed: the new key opens nothing, and is retired.
fn retire_unused(
    store: &mut Store,
    key_ref: KeyRefId,
    guest: &DefinedGuest,
    error: io::Error,
) -> RenewError {
    let guest = guest.reference();
    match store.retire(key_ref, Timestamp::now()) {
        Ok(_) => StoppedError::Write(guest, error).into(),
        Err(not_retired) => RenewError::KeyLeft {
            guest,
            error,
            not_retired,
        },
    }
}
