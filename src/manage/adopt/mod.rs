//! `adopt`: takes over the keys in existing libvirt secrets.
//!
//! For each guest: read the secret's value, prove it against the TPM state, wrap it, store it.
//! Then everything once more: read the row back, open it with a freshly unsealed provider key,
//! compare it with libvirt's value, which is read again, and prove it again. A secret is undefined
//! only when all of its guests have passed that. Every step leaves the guest able to start, and
//! the next run resumes one that was killed.

mod error;
mod examine;
mod guests;
mod release;
mod take_over;

pub(crate) use error::{AdoptError, NotAdopted};

use self::guests::{KnownGuest, Target};
use super::dry_start;
use super::guests::GuestRef;
use super::host::Host;
use super::providers::ProvidersLock;
use crate::config::Config;
use crate::ids::{KeyRefId, SecretUuid};
use crate::keyring::Keyring;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::secret::SecretError;
use crate::libvirt::{Daemons, Libvirt};
use crate::store::Store;
use crate::verdict::adopt::{AvailableSecret, NotAdoptable};
use crate::verdict::code::Code;
use crate::verdict::facts::Provider;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The guests of these names or UUIDs. Without a list it is all that have an encrypted vTPM, and
    /// those whose XML cannot be read: they may have one.
    pub(crate) guests: Option<&'a [String]>,
    /// The provider that wraps the keys. Without one it is that of the guest's placeholder, else
    /// the default.
    pub(crate) provider: Option<&'a str>,
    /// Whether libvirt's secrets stay as they are.
    pub(crate) keep_plaintext: bool,
}

/// How far a run has come.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// The keys of so many guests will be stored.
    TakeOver(usize),
    /// The keys of so many guests will be verified.
    Verify(usize),
    /// It is this guest's turn.
    Guest(&'a str),
}

/// What became of one guest.
#[derive(Debug)]
pub(crate) struct AdoptResult {
    pub(crate) guest: GuestRef,
    /// The secret that its encrypted vTPM names.
    pub(crate) secret: Option<SecretUuid>,
    /// Its key, once that is in the store.
    pub(crate) stored: Option<StoredKey>,
    /// Why it was not adopted, or not completely.
    pub(crate) error: Option<NotAdopted>,
}

/// A guest's key that is in the store.
#[derive(Debug)]
pub(crate) struct StoredKey {
    pub(crate) key_ref: KeyRefId,
    /// The name of the provider that wraps it.
    pub(crate) provider: String,
    /// Whether this run stored it.
    pub(crate) is_new: bool,
    /// Whether the TPM state has proven it.
    pub(crate) proven: bool,
    /// Whether it is so short that it can be guessed from a copy of the TPM state.
    pub(crate) guessable: bool,
    /// What became of libvirt's secret.
    pub(crate) secret: SecretOutcome,
}

/// What became of libvirt's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretOutcome {
    /// libvirt has none.
    Absent,
    /// It is the guard's own.
    Own,
    /// It stays, as was asked for.
    Kept,
    /// It stays until these guests are adopted, too.
    KeptFor(Vec<GuestRef>),
    /// It is to be removed. In a result: its guest failed before it was.
    ToRemove,
    /// It was removed.
    Removed,
}

/// Adopts guests. One that cannot be adopted does not keep the others from it.
pub(crate) fn adopt(
    host: &Host,
    request: &Request<'_>,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Vec<AdoptResult>, AdoptError> {
    let config = host.config()?;
    let (store, provider) = host.provider_for_new_keys(request.provider)?;
    let (mut chosen, encrypted) = guests::choose(host, request.guests)?;
    // The provider key of every new row must stay until the row is there, and until it was
    // opened once more.
    let _providers = ProvidersLock::acquire(host)?;
    // It may have been rotated until then.
    let provider = store.provider_by_uuid(provider.uuid)?;
    let mut adopting = Adopting {
        secrets: host.secrets_at(&config),
        unlocker: Unlocker::new(&host.keyring()),
        keyring: host.keyring(),
        daemons: host.daemons(),
        config,
        store,
        provider,
        provider_named: request.provider.is_some(),
        keep_plaintext: request.keep_plaintext,
        encrypted,
        unreachable: None,
    };
    progress(Step::TakeOver(chosen.len()));
    for guest in &mut chosen {
        progress(Step::Guest(&guest.name));
        adopting.take_over(guest);
        guest.explain_nothing(host);
    }
    progress(Step::Verify(chosen.len()));
    adopting.release(&mut chosen, progress);
    Ok(chosen.into_iter().map(|guest| guest.result).collect())
}

/// What a run works with.
struct Adopting {
    config: Config,
    keyring: Keyring,
    daemons: Daemons,
    store: Store,
    secrets: Box<dyn Libvirt>,
    /// Opens and wraps the keys of the first half.
    unlocker: Unlocker,
    /// The provider that was named, or the default.
    provider: Provider,
    /// Whether it was named: else a guest's placeholder may name another.
    provider_named: bool,
    keep_plaintext: bool,
    /// All guests with an encrypted vTPM.
    encrypted: Vec<KnownGuest>,
    /// Why libvirt's secrets are unreachable: nobody waits for them again.
    unreachable: Option<SecretError>,
}

impl Adopting {
    /// Asks libvirt about secrets, unless it has been unreachable before.
    fn ask<T>(
        &mut self,
        question: impl FnOnce(&dyn Libvirt) -> Result<T, SecretError>,
    ) -> Result<T, SecretError> {
        if let Some(unreachable) = &self.unreachable {
            return Err(unreachable.clone());
        }
        let answer = question(&*self.secrets);
        if let Err(error @ (SecretError::Unreachable(_) | SecretError::NoHelper(_))) = &answer {
            self.unreachable = Some(error.clone());
        }
        answer
    }
}

/// One guest that is to be adopted.
struct Work {
    name: String,
    /// Its encrypted vTPM, if it has one.
    target: Option<Target>,
    result: AdoptResult,
}

impl Work {
    /// Where there is nothing to adopt, and the guest is no new one that only lacks a provider, what
    /// helps is what helps against the refusal of its start.
    fn explain_nothing(&mut self, host: &Host) {
        use NotAdoptable::NothingToAdopt;
        let nothing = match &self.result.error {
            Some(NotAdopted::Refused { why, .. }) => matches!(
                why,
                NothingToAdopt(AvailableSecret::Absent | AvailableSecret::Own)
            ),
            _ => false,
        };
        if let (true, Some(target)) = (nothing, &self.target)
            && let Some(why) = dry_start::refusal(host, &target.domain)
            && why.code() != Code::KeyMissing
        {
            self.result.error = Some(NotAdopted::WouldNotStart(why));
        }
    }

    /// The key that is stored, unless something has failed.
    fn stored(&self) -> Option<&StoredKey> {
        self.result
            .stored
            .as_ref()
            .filter(|_| self.result.error.is_none())
    }

    /// Takes the next step with a key that is stored, unless one before it failed.
    fn proceed(&mut self, step: impl FnOnce(&Target, &mut StoredKey) -> Result<(), NotAdopted>) {
        if self.result.error.is_none()
            && let (Some(target), Some(stored)) = (&self.target, &mut self.result.stored)
        {
            self.result.error = step(target, stored).err();
        }
    }
}
