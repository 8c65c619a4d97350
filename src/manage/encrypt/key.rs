//! The key of a TPM that is to be encrypted: one that is there, or a new one, which is removed again
//! if the encryption fails.

use super::error::EncryptError;
use crate::clock::Timestamp;
use crate::guard::make_key;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::keyring::unlock::{OpenedKey, Unlocker};
use crate::manage::host::{Host, default_deadline};
use crate::manage::providers::ProviderError;
use crate::manage::stopped_guest::DefinedGuest;
use crate::store::{Access, Change, Store, StoreError};
use crate::verdict::facts::{KeyRef, Provider, References, provider_of};
use crate::verdict::repair::{KeyOrigin, Repair};

/// What a guest's TPM state is encrypted with.
pub(super) struct Key {
    pub(super) id: KeyRefId,
    pub(super) dek: Dek,
    pub(super) provider: Provider,
    /// The libvirt secret that it belongs to.
    pub(super) secret: SecretUuid,
    made: Option<Made>,
}

/// Where a key was made by this very command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// In a placeholder that was there.
    InPlaceholder,
    /// In a row of its own.
    InNewRow,
}

/// Which provider is to wrap it.
pub(super) enum Choice {
    /// The one that was named.
    Named(Provider),
    /// The one that the guest is bound to, else this default one.
    Default(Option<Provider>),
}

impl Choice {
    /// The store, and the choice of who named this provider, or none.
    pub(super) fn of(host: &Host, named: Option<&str>) -> Result<(Store, Self), EncryptError> {
        if let Some(name) = named {
            let (store, provider) = host.provider_for_new_keys(Some(name))?;
            return Ok((store, Self::Named(provider)));
        }
        let store = host.store(Access::Write)?.ok_or(StoreError::Missing)?;
        let mut all = store.providers()?.into_iter();
        let default = all.find(|provider| provider.is_default);
        Ok((store, Self::Default(default)))
    }

    fn fits(&self, provider: &Provider) -> bool {
        match self {
            Self::Named(named) => named.uuid == provider.uuid,
            Self::Default(_) => true,
        }
    }
}

/// The keys of the guest that open on this host.
pub(super) fn opened(
    unlocker: &mut Unlocker,
    seen: &References,
    guest: DomainUuid,
) -> Vec<OpenedKey> {
    let rows = seen.key_refs.iter().cloned();
    unlocker.open_rows(rows, &seen.providers, guest, default_deadline())
}

impl Key {
    /// The newest key that the guest has of the provider that is chosen: one that an interrupted
    /// run made, perhaps. Without one, a new key.
    pub(super) fn find_or_make(
        host: &Host,
        store: &mut Store,
        guest: &DefinedGuest,
        choice: Choice,
        secret: Option<SecretUuid>,
    ) -> Result<Self, EncryptError> {
        let seen = store.references(guest.uuid(), Timestamp::now())?;
        let mut unlocker = Unlocker::new(&host.keyring());
        let mut keys = opened(&mut unlocker, &seen, guest.uuid());
        keys.retain(|key| choice.fits(&key.provider));
        if let Some(key) = keys.pop() {
            let its = key.key_ref.secret_uuid;
            return Ok(Self {
                id: key.key_ref.id,
                dek: key.dek,
                provider: key.provider,
                secret: secret.or(its).unwrap_or_else(SecretUuid::random),
                made: None,
            });
        }
        Self::make(host, store, guest, &seen, choice, secret)
    }

    /// Makes the guest's key, in its placeholder if it has one.
    fn make(
        host: &Host,
        store: &mut Store,
        guest: &DefinedGuest,
        seen: &References,
        choice: Choice,
        secret: Option<SecretUuid>,
    ) -> Result<Self, EncryptError> {
        let placeholder = seen.key_refs.iter().find(|row| row.wrapped_dek.is_none());
        let secret = secret
            .or(placeholder.and_then(|row| row.secret_uuid))
            .unwrap_or_else(SecretUuid::random);
        let bound = placeholder.and_then(|row| provider_of(row, &seen.providers));
        let provider = match choice {
            Choice::Named(provider) => provider,
            Choice::Default(default) => {
                bound.cloned().or(default).ok_or(ProviderError::NoDefault)?
            }
        };
        let mut unlocker = Unlocker::new(&host.keyring());
        let generation = unlocker.next_generation(seen, Some(&guest.domain), default_deadline());
        let (new_key, dek) = make_key(
            &mut unlocker,
            Some(&*store),
            &provider,
            guest.uuid(),
            None,
            generation,
            default_deadline(),
        )?;
        let made = store.apply(&Change {
            domain: guest.uuid(),
            seen,
            repairs: &creation(placeholder, &provider),
            new_key: Some(&new_key),
            secret_uuid: Some(secret),
            clients_key: None,
            event: None,
            now: Timestamp::now(),
        })?;
        let (id, made) = match (placeholder, made) {
            (Some(row), _) => (row.id, Made::InPlaceholder),
            (None, Some(id)) => (id, Made::InNewRow),
            (None, None) => return Err(StoreError::Changed.into()),
        };
        Ok(Self {
            id,
            dek,
            provider,
            secret,
            made: Some(made),
        })
    }

    /// Removes a key that was made and that nothing is encrypted with.
    pub(super) fn undo(&self, store: &mut Store, guest: DomainUuid) -> Result<(), StoreError> {
        let Some(made) = self.made else {
            return Ok(());
        };
        let now = Timestamp::now();
        let retired = store.retire_fresh_key(guest, None, now)?;
        let placeholder = retired.and_then(|retired| retired.placeholder);
        let (Made::InNewRow, Some(key_ref)) = (made, placeholder) else {
            return Ok(());
        };
        let seen = store.references(guest, now)?;
        store.apply(&Change {
            domain: guest,
            seen: &seen,
            repairs: &[Repair::DeletePlaceholder { key_ref }],
            new_key: None,
            secret_uuid: None,
            clients_key: None,
            event: None,
            now,
        })?;
        Ok(())
    }
}

/// The changes that make a key, in the placeholder if there is one.
fn creation(placeholder: Option<&KeyRef>, provider: &Provider) -> Vec<Repair> {
    let key_ref = placeholder.map(|row| row.id);
    let is_bound = placeholder.is_some_and(|row| row.is_bound_to(provider));
    let bind = (!is_bound).then(|| Repair::BindProvider {
        key_ref,
        provider: provider.uuid,
        provider_name: provider.name.clone(),
    });
    let create = Repair::CreateKey {
        key_ref,
        provider: provider.uuid,
        origin: KeyOrigin::Random,
    };
    bind.into_iter().chain([create]).collect()
}
