//! Opens and wraps guests' keys with the provider keys of this host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::KeyringError;
use super::keks::Keyring;
use crate::clock::{Deadline, Timestamp};
use crate::domain::Domain;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::new_key::NewKey;
use crate::key::wrap::{self, Generation, WrappedDek};
use crate::verdict::facts::{KeyRef, NotOpened, Provider, References, Travelling, provider_of_key};

#[cfg(test)]
mod tests;

/// KEKs that several [`Unlocker`]s share, or why one could not be unsealed: that is not tried again.
/// They are wiped with the last of them. Of several threads one unseals, and the others wait: the TPM
/// does one after another anyway.
#[derive(Default, Clone)]
pub(crate) struct UnsealedKeks(Arc<Mutex<BTreeMap<KeyId, Unsealed>>>);

#[cfg(test)]
impl UnsealedKeks {
    /// These, of which none was sealed.
    pub(crate) fn of(keks: impl IntoIterator<Item = Kek>) -> Self {
        let keks = keks.into_iter();
        let keks = keks.map(|kek| (kek.key_id(), Ok(Arc::new(kek))));
        Self(Arc::new(Mutex::new(keks.collect())))
    }
}

type Unsealed = Result<Arc<Kek>, Arc<KeyringError>>;

/// Opens DEKs and wraps them. It unseals each KEK at most once, since unsealing takes longer
/// than everything else, and wipes them when it is dropped.
pub struct Unlocker {
    keyring: Keyring,
    unsealed: UnsealedKeks,
}

/// A key reference whose DEK was opened.
pub struct OpenedKey {
    /// The key reference.
    pub key_ref: KeyRef,
    /// The provider whose KEK opened it.
    pub provider: Provider,
    /// The DEK in it.
    pub dek: Dek,
}

/// Why a DEK could not be wrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// The provider's KEK could not be unsealed.
    #[error("{0}")]
    Keyring(Arc<KeyringError>),
    /// There was no randomness, or libvirt takes no secret of this length.
    #[error(transparent)]
    Wrap(#[from] wrap::WrapError),
    /// The wrapped DEK did not open again, or gave another DEK.
    #[error("the wrapped key failed verification")]
    NotReadBack,
}

impl Unlocker {
    /// An unlocker that has not unsealed any KEK yet.
    #[must_use]
    pub fn new(keyring: &Keyring) -> Self {
        Self::sharing(keyring.clone(), UnsealedKeks::default())
    }

    /// An unlocker that uses and extends these unsealed KEKs.
    pub(crate) fn sharing(keyring: Keyring, unsealed: UnsealedKeks) -> Self {
        Self { keyring, unsealed }
    }

    /// Returns a KEK, which is unsealed unless it was before.
    pub fn kek(
        &mut self,
        key_id: KeyId,
        deadline: Deadline,
    ) -> Result<Arc<Kek>, Arc<KeyringError>> {
        let mut unsealed = self
            .unsealed
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let open = || {
            let opened = self.keyring.open(key_id, deadline);
            opened.map(Arc::new).map_err(Arc::new)
        };
        unsealed.entry(key_id).or_insert_with(open).clone()
    }

    /// Why a KEK that was asked for does not open, if one does not.
    #[must_use]
    pub fn why_not(&self) -> Option<String> {
        let unsealed = self.unsealed.0.lock();
        let unsealed = unsealed.unwrap_or_else(PoisonError::into_inner);
        let mut closed = unsealed.values().filter_map(|kek| kek.as_ref().err());
        closed.next().map(ToString::to_string)
    }

    /// Returns the KEK of the newest of a guest's keys whose KEK opens here.
    pub fn kek_of<'r>(
        &mut self,
        rows: impl DoubleEndedIterator<Item = &'r KeyRef>,
        deadline: Deadline,
    ) -> Option<Arc<Kek>> {
        let key_ids = rows.filter_map(|row| row.wrapped_dek.as_ref()?.key_id().ok());
        key_ids
            .rev()
            .find_map(|key_id| self.kek(key_id, deadline).ok())
    }

    /// Opens a guest's wrapped DEK with the KEK that its header names: no other KEK could.
    pub fn open(
        &mut self,
        wrapped: &WrappedDek,
        guest: DomainUuid,
        deadline: Deadline,
    ) -> Result<Dek, NotOpened> {
        let key_id = wrapped.key_id()?;
        let kek = self.kek(key_id, deadline).map_err(|error| match &*error {
            KeyringError::TimedOut => NotOpened::TimedOut { key_id },
            KeyringError::Missing(_) => NotOpened::NotHere { key_id },
            error => NotOpened::Sealed {
                key_id,
                reason: error.to_string(),
            },
        })?;
        match wrapped.unwrap(&kek, guest) {
            Ok(Some(dek)) => Ok(dek),
            Ok(None) => Err(NotOpened::NoProvider { key_id }),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens those of a guest's key references that open with the KEK of one of these providers. Why
    /// others do not: [`Self::why_not`].
    pub fn open_rows(
        &mut self,
        rows: impl IntoIterator<Item = KeyRef>,
        providers: &[Provider],
        guest: DomainUuid,
        deadline: Deadline,
    ) -> Vec<OpenedKey> {
        let open = |key_ref: KeyRef| {
            let wrapped = key_ref.wrapped_dek.as_ref()?;
            let provider = provider_of_key(&key_ref, providers)?;
            Some(OpenedKey {
                dek: self.open(wrapped, guest, deadline).ok()?,
                provider: provider.clone(),
                key_ref,
            })
        };
        rows.into_iter().filter_map(open).collect()
    }

    /// Opens the keys in a guest's XML, as far as that is known.
    pub fn open_travelling(
        &mut self,
        known: &References,
        domain: Option<&Domain>,
        deadline: Deadline,
    ) -> Vec<OpenedKey> {
        let Some(domain) = domain else {
            return Vec::new();
        };
        let keys = Travelling::of(domain, known, Timestamp::now()).keys;
        self.open_rows(keys, &known.providers, domain.uuid, deadline)
    }

    /// The generation of the guest's next key: above those that it has had here, and those in its
    /// XML. Of these only those count that open: whoever may change a guest's metadata can write any
    /// generation into a header, and it is authentic only then.
    pub fn next_generation(
        &mut self,
        known: &References,
        domain: Option<&Domain>,
        deadline: Deadline,
    ) -> Generation {
        let in_xml = self.open_travelling(known, domain, deadline);
        let in_xml = in_xml.iter().map(|key| key.key_ref.generation());
        let newest = in_xml.chain(known.newest_generation()).max();
        newest.unwrap_or_default().next()
    }

    /// The generation of a key that a guest gets by somebody's choice, and that has one already: it
    /// keeps it where the guest has no row, and no other key in its XML, that would go before it.
    pub fn generation_of_chosen(
        &mut self,
        dek: &Dek,
        its: Generation,
        known: &References,
        domain: Option<&Domain>,
        deadline: Deadline,
    ) -> Generation {
        let in_xml = self.open_travelling(known, domain, deadline);
        let in_xml = in_xml.iter();
        let in_xml = in_xml.map(|key| (key.key_ref.generation(), key.dek.same_as(dek)));
        let rows = known.newest_generation().map(|newest| (newest, false));
        in_xml.chain(rows).fold(its, |its, (other, is_it)| {
            its.max(if is_it { other } else { other.next() })
        })
    }

    /// Wraps a guest's DEK of this generation with a provider's KEK, and opens what was wrapped: only what gives
    /// the same DEK again is returned.
    pub fn wrap(
        &mut self,
        dek: &Dek,
        provider: &Provider,
        guest: DomainUuid,
        generation: Generation,
        deadline: Deadline,
    ) -> Result<NewKey, WrapError> {
        let kek = self
            .kek(provider.key_id, deadline)
            .map_err(WrapError::Keyring)?;
        let wrapped = WrappedDek::wrap(&kek, dek, guest, generation)?;
        match wrapped.unwrap(&kek, guest) {
            Ok(Some(again)) if again.same_as(dek) => {
                Ok(NewKey::new(wrapped, provider.key_id, provider.key_version))
            }
            _ => Err(WrapError::NotReadBack),
        }
    }
}
