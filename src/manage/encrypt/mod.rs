//! `encrypt`: a stopped guest's plain TPM state becomes an encrypted one, and its XML says so.
//!
//! In this order, so that a kill after any step leaves a guest that starts as before, or is
//! refused with the hint to run `encrypt` again, which resumes:
//!
//! | done | state | XML | a start |
//! | --- | --- | --- | --- |
//! | the key is made and in the store | plain | plain | as before; the key is unused |
//! | the plain state is saved beside the store, the new one is staged | plain | plain | as before |
//! | libvirt has the new XML | plain | encrypted | VG503, `encrypt` |
//! | the new state is installed | encrypted | encrypted | with the key |
//!
//! The state is held under swtpm's lock all the while: nothing can start in between.

mod error;
mod key;

use std::path::PathBuf;

use serde::Serialize;

pub(crate) use self::error::EncryptError;
use self::key::{Choice, Key, opened};
use super::choose_key::choose;
use super::guests::GuestRef;
use super::host::{BrokenConfig, Host, HostError, default_deadline};
use super::persist_state::Survival;
use super::providers::ProviderRef;
use super::stopped_guest::{DefinedGuest, StoppedError};
use crate::clock::Timestamp;
use crate::guard::plain_state;
use crate::ids::{KeyRefId, SecretUuid};
use crate::keyring::unlock::Unlocker;
use crate::libvirt::secret::SecretError;
use crate::store::{Origin, Store, StoreError};
use crate::swtpm::{LockedState, OldState, TpmData};
use crate::verdict::facts::Provider;

/// What `encrypt` did.
#[derive(Debug, Serialize)]
pub(crate) struct EncryptResult {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) provider: ProviderRef,
    /// The key that opens the state.
    pub(crate) key_ref: KeyRefId,
    /// The secret that the XML names.
    pub(crate) secret_uuid: SecretUuid,
    pub(crate) action: EncryptAction,
    #[serde(flatten)]
    pub(crate) survival: Survival,
    /// What became of the plain state in a file that the encrypted one is in, too.
    pub(crate) old_state: Option<OldState>,
    /// Where the plain state is kept until the guest has started with the encrypted one.
    #[serde(skip)]
    pub(crate) plain_state: Option<PathBuf>,
    /// The history does not have it.
    #[serde(skip)]
    pub(crate) not_recorded: Option<StoreError>,
}

/// The same in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EncryptAction {
    /// The state was encrypted.
    Encrypted,
    /// The state was encrypted already; now the XML says so too.
    Completed,
    /// Nothing was left to do.
    None,
}

/// Encrypts the TPM of the guest that `text` names, with a key of the provider that was named.
pub(crate) fn encrypt(
    host: &Host,
    text: &str,
    provider: Option<&str>,
) -> Result<EncryptResult, EncryptError> {
    let guard = host.guard(BrokenConfig::Fail)?;
    let (mut store, choice) = Choice::of(host, provider)?;
    let guest = host.stopped_guest(text)?;
    let Some(locked) = guest.lock_state(&guard)? else {
        return Err(EncryptError::NoState {
            guest: guest.reference(),
            is_encrypted: guest.vtpm.secret_uuid.is_some(),
        });
    };
    let data = TpmData::from_plain(locked.blob())
        .map_err(|error| StoppedError::Recrypt(guest.reference(), error.into()))?;
    store.set_deadline(default_deadline())?;
    let mut job = Job {
        host,
        store,
        guest: &guest,
    };
    match data {
        Some(data) => job.encrypt(locked, &data, choice),
        None => job.complete(&locked),
    }
}

/// One guest's encryption.
struct Job<'a> {
    host: &'a Host,
    store: Store,
    guest: &'a DefinedGuest,
}

/// A state that was encrypted.
struct Encrypted {
    /// The row of its key.
    key_ref: KeyRefId,
    /// Where the plain state was saved.
    plain_state: PathBuf,
    /// What became of it in its place.
    old_state: Option<OldState>,
}

/// Where it failed.
enum Failure {
    /// Before libvirt had the new XML: everything can be as it was.
    Before(EncryptError),
    /// After that, or it is not known.
    After(StoppedError),
}

impl<E: Into<StoppedError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::After(error.into())
    }
}

impl Job<'_> {
    /// The state is plain.
    fn encrypt(
        &mut self,
        locked: LockedState,
        data: &TpmData,
        choice: Choice,
    ) -> Result<EncryptResult, EncryptError> {
        let secret = self.guest.vtpm.secret_uuid;
        let key = Key::find_or_make(self.host, &mut self.store, self.guest, choice, secret)?;
        let Encrypted {
            key_ref,
            plain_state,
            old_state,
        } = match self.carry_out(locked, data, &key) {
            Ok(done) => done,
            Err(Failure::After(cause)) => return Err(self.unfinished(cause)),
            Err(Failure::Before(error)) => return Err(self.undo(&key, error)),
        };
        let message = format!(
            "its TPM state is encrypted with a key of provider \"{}\" (key reference {key_ref})",
            key.provider.name
        );
        Ok(EncryptResult {
            plain_state: Some(plain_state),
            old_state,
            not_recorded: self.record(message),
            ..self.result(EncryptAction::Encrypted, key_ref, &key.provider, key.secret)
        })
    }

    /// All that follows the key.
    fn carry_out(
        &mut self,
        locked: LockedState,
        data: &TpmData,
        key: &Key,
    ) -> Result<Encrypted, Failure> {
        let (guest, state_dir) = (self.guest, self.host.state_dir());
        let saved = plain_state::save(state_dir, guest.uuid(), &locked)
            .map_err(|error| Failure::Before(EncryptError::NotSaved(error)))?;
        let staged = guest
            .stage(locked, data, &key.dek)
            .map_err(|error| Failure::Before(error.into()))?;
        if guest.vtpm.secret_uuid.is_none() {
            self.redefine(key.secret)?;
        }
        // Before the state: the key of a state that is there must never count as unused.
        let mut unlocker = Unlocker::new(&self.host.keyring());
        let chosen = choose(&mut self.store, &mut unlocker, Some(&guest.domain), key.id)?;
        self.store.mark_started(guest.uuid(), Timestamp::now())?;
        let old_state = staged
            .install()
            .map_err(|failed| StoppedError::of_install(guest.reference(), failed))?;
        Ok(Encrypted {
            key_ref: chosen.used.key_ref,
            plain_state: saved,
            old_state,
        })
    }

    /// The state is encrypted: the XML was put back, or there is nothing to do.
    fn complete(&mut self, locked: &LockedState) -> Result<EncryptResult, EncryptError> {
        let guest = self.guest;
        let seen = self.store.references(guest.uuid(), Timestamp::now())?;
        let mut unlocker = Unlocker::new(&self.host.keyring());
        let key = opened(&mut unlocker, &seen, guest.uuid())
            .into_iter()
            .find(|key| TpmData::decrypt(locked.blob(), &key.dek).is_ok())
            .ok_or_else(|| EncryptError::NoKeyOpens(guest.reference(), unlocker.why_not()))?;
        let id = key.key_ref.id;
        let old_state = locked.erase_remains();
        if let Some(secret) = guest.vtpm.secret_uuid {
            // This was all that there was to do.
            if let Some(OldState::Left(error)) = old_state {
                return Err(EncryptError::NotErased(guest.reference(), error));
            }
            return Ok(EncryptResult {
                old_state,
                ..self.result(EncryptAction::None, id, &key.provider, secret)
            });
        }
        let secret = key.key_ref.secret_uuid.unwrap_or_else(SecretUuid::random);
        match self.redefine(secret) {
            Ok(()) => {}
            Err(Failure::Before(error)) => return Err(error),
            Err(Failure::After(cause)) => return Err(self.unfinished(cause)),
        }
        let message = "its XML says again that its TPM is encrypted".to_owned();
        Ok(EncryptResult {
            old_state,
            not_recorded: self.record(message),
            ..self.result(EncryptAction::Completed, id, &key.provider, secret)
        })
    }

    /// Lets the XML say that the TPM is encrypted.
    fn redefine(&self, secret: SecretUuid) -> Result<(), Failure> {
        let guest = self.guest;
        let libvirt = self.host.libvirt();
        match libvirt.encrypt_vtpm(guest.uuid(), secret, default_deadline()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Before(EncryptError::Redefined(guest.reference()))),
            // It may have done it, and only its answer may be lost.
            Err(error @ SecretError::Unreachable(_)) => Err(error.into()),
            Err(error) => {
                let error = EncryptError::NotRedefined(guest.reference(), error);
                Err(Failure::Before(error))
            }
        }
    }

    /// Removes what was made for an attempt that failed.
    fn undo(&mut self, key: &Key, error: EncryptError) -> EncryptError {
        let (guest, state_dir) = (self.guest.uuid(), self.host.state_dir());
        let removed = plain_state::remove(state_dir, guest).map_err(HostError::from);
        let undone = removed.and_then(|_| Ok(key.undo(&mut self.store, guest)?));
        match undone {
            Ok(()) => error,
            Err(left) => EncryptError::NotUndone {
                error: Box::new(error),
                left,
            },
        }
    }

    fn unfinished(&self, cause: StoppedError) -> EncryptError {
        EncryptError::Unfinished {
            guest: self.guest.reference(),
            cause: Box::new(cause),
        }
    }

    fn record(&mut self, message: String) -> Option<StoreError> {
        let recorded = self.guest.record(&mut self.store, Origin::Encrypt, message);
        recorded.err()
    }

    fn result(
        &self,
        action: EncryptAction,
        key_ref: KeyRefId,
        provider: &Provider,
        secret_uuid: SecretUuid,
    ) -> EncryptResult {
        EncryptResult {
            guest: self.guest.reference(),
            provider: provider.into(),
            key_ref,
            secret_uuid,
            action,
            survival: Survival::default(),
            old_state: None,
            plain_state: None,
            not_recorded: None,
        }
    }
}
