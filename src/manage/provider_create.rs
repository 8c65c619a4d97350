//! `provider create`, `provider set-default`: a new key under a name, and which one new guests get.

use serde::Serialize;

use super::host::{Host, default_deadline};
use super::provider_list::ListedProvider;
use super::providers::{ProviderError, ProviderRef, ProvidersLock, check_name};
use super::slots::{SlotError, SlotSpec, make, place};
use crate::clock::Timestamp;
use crate::ids::ProviderUuid;
use crate::key::kek::Kek;
use crate::keyring::{StoredKek, WeakerSeal};
use crate::store::{Access, NewProvider, StoreError};

/// What `provider create` made.
#[derive(Debug, Serialize)]
pub(crate) struct CreatedProvider {
    #[serde(flatten)]
    pub(crate) provider: ListedProvider,
    /// How its key was sealed, and why not more strongly.
    #[serde(skip)]
    pub(crate) stored: StoredKek,
}

/// What `provider set-default` did.
#[derive(Debug, Serialize)]
pub(crate) struct DefaultProvider {
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    /// Whether it was not the default before.
    pub(crate) changed: bool,
}

/// Makes a provider with a new key, which these key managers wrap. The first one becomes the default.
pub(crate) fn create(
    host: &Host,
    name: &str,
    default: bool,
    slots: &[SlotSpec],
    weaker: WeakerSeal,
) -> Result<CreatedProvider, SlotError> {
    check_name(name)?;
    let config = host.config()?;
    let mut store = host.store(Access::Create)?.ok_or(StoreError::Missing)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let providers = store.providers()?;
    if providers.iter().any(|provider| provider.name == name) {
        return Err(StoreError::NameTaken(name.to_owned()).into());
    }
    let kek = Kek::generate()?;
    // The key managers first: if one of them does not take the key, there is nothing to take back.
    let mut managers = host.key_managers(&config);
    let slots = slots
        .iter()
        .map(|spec| make(&mut managers, spec, None, &kek));
    let slots = slots.collect::<Result<Vec<_>, _>>()?;
    // The key before the row that needs it: a kill in between leaves a key that nobody needs.
    let keyring = host.keyring();
    let place = place(config.kek_cache, &slots);
    let stored = keyring.store_only_in(place, &kek, weaker, default_deadline())?;
    store.set_deadline(default_deadline())?;
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: default || providers.is_empty(),
        exported_at: None,
    };
    if let Err(error) = store.create_provider(&new, &slots, Timestamp::now()) {
        // The first error is the one to report; nothing was ever wrapped with this key.
        let _ = keyring.remove(new.key_id);
        return Err(error.into());
    }
    let created = store.provider_by_uuid(new.uuid)?;
    Ok(CreatedProvider {
        provider: ListedProvider::new(&created, &[], &[], &slots, &keyring),
        stored,
    })
}

/// Makes the provider that `text` names the default.
pub(crate) fn set_default(host: &Host, text: &str) -> Result<DefaultProvider, ProviderError> {
    let (mut store, provider) = host.provider_for_new_keys(Some(text))?;
    store.set_default_provider(provider.uuid, Timestamp::now())?;
    Ok(DefaultProvider {
        provider: (&provider).into(),
        changed: !provider.is_default,
    })
}
