//! The key of a TPM that is to be encrypted: one that is there, or a new one, which goes away
//! again where nothing comes of it.

use super::words;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::guard::make_key;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::keyring::unlock::{OpenedKey, Unlocker};
use crate::manage::host::HostError;
use crate::manage::host::default_deadline;
use crate::store::{Access, Change, Store, StoreError};
use crate::verdict::facts::{KeyRef, Provider, References, provider_of};
use crate::verdict::repair::{KeyOrigin, Repair};

/// What a guest's TPM state is encrypted with.
pub(crate) struct Key {
    pub(crate) id: KeyRefId,
    pub(crate) dek: Dek,
    pub(crate) provider: Provider,
    /// The libvirt secret that it belongs to.
    pub(crate) secret: SecretUuid,
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
pub(crate) enum Choice {
    /// The one that was named.
    Named(Provider),
    /// The one that the guest is bound to, else this default one.
    Default(Option<Provider>),
}

impl Choice {
    /// The store, and the choice of who named this provider, or none.
    pub(crate) fn of(
        context: &Context,
        named: Option<&str>,
    ) -> Result<(Store, Self), CommandError> {
        if let Some(name) = named {
            let (store, provider) = context.host.provider_for_new_keys(Some(name))?;
            return Ok((store, Self::Named(provider)));
        }
        let store = context
            .host
            .store(Access::Write)?
            .ok_or(StoreError::Missing)?;
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
pub(crate) fn opened(context: &Context, seen: &References, domain: DomainUuid) -> Vec<OpenedKey> {
    let rows = seen.key_refs.iter().cloned();
    let mut unlocker = Unlocker::new(&context.host.keyring());
    unlocker.open_rows(rows, &seen.providers, domain, default_deadline())
}

impl Key {
    /// The newest key that the guest has of the provider that is chosen: one that an interrupted
    /// run made, perhaps. Without one, a new key.
    pub(crate) fn find_or_make(
        context: &Context,
        store: &mut Store,
        domain: DomainUuid,
        choice: Choice,
        secret: Option<SecretUuid>,
    ) -> Result<Self, CommandError> {
        let seen = store.references(domain, Timestamp::now())?;
        let mut keys = opened(context, &seen, domain);
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
        Self::make(context, store, domain, &seen, choice, secret)
    }

    /// Makes the guest's key, in its placeholder if it has one.
    fn make(
        context: &Context,
        store: &mut Store,
        domain: DomainUuid,
        seen: &References,
        choice: Choice,
        secret: Option<SecretUuid>,
    ) -> Result<Self, CommandError> {
        let placeholder = seen.key_refs.iter().find(|row| row.wrapped_dek.is_none());
        let secret = secret
            .or(placeholder.and_then(|row| row.secret_uuid))
            .unwrap_or_else(SecretUuid::random);
        let bound = placeholder.and_then(|row| provider_of(row, &seen.providers));
        let provider = match choice {
            Choice::Named(provider) => provider,
            Choice::Default(default) => {
                bound.cloned().or(default).ok_or_else(words::no_provider)?
            }
        };
        let mut unlocker = Unlocker::new(&context.host.keyring());
        let patience = default_deadline();
        let made = make_key(
            &mut unlocker,
            Some(&*store),
            &provider,
            domain,
            None,
            patience,
        );
        let (new_key, dek) = made.map_err(HostError::from)?;
        let made = store.apply(&Change {
            domain,
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

    /// Takes back a key that was made and that nothing is encrypted with.
    pub(crate) fn take_back(
        &self,
        store: &mut Store,
        domain: DomainUuid,
    ) -> Result<(), StoreError> {
        let Some(made) = self.made else {
            return Ok(());
        };
        let now = Timestamp::now();
        let taken_back = store.retire_fresh_key(domain, None, now)?;
        let placeholder = taken_back.and_then(|taken_back| taken_back.placeholder);
        let (Made::InNewRow, Some(key_ref)) = (made, placeholder) else {
            return Ok(());
        };
        let seen = store.references(domain, now)?;
        store.apply(&Change {
            domain,
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
