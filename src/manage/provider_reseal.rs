//! `provider reseal`: a stored key under the strongest seal that this host has now.

use serde::{Serialize, Serializer};

use super::host::{Host, default_deadline};
use super::providers::{ProviderError, ProviderRef, ProvidersLock};
use crate::key::id::KeyId;
use crate::keyring::{Keyring, KeyringError, Resealed, Seal};
use crate::store::Access;
use crate::verdict::facts::Provider;

/// A provider, and what came of sealing its key again.
#[derive(Debug)]
pub(crate) struct ResealedProvider {
    pub(crate) provider: ProviderRef,
    pub(crate) key_id: KeyId,
    /// The old seal stays where there is an error.
    pub(crate) result: Result<Resealed, KeyringError>,
}

/// Seals the key of the provider that `text` names.
pub(crate) fn reseal(host: &Host, text: &str) -> Result<ResealedProvider, ProviderError> {
    let (store, found) = host.provider(text, Access::Read)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    let resealed = ResealedProvider::new(&host.keyring(), &provider);
    match resealed.result {
        // The error of the only one is the error of the command.
        Err(error) => Err(error.into()),
        Ok(_) => Ok(resealed),
    }
}

/// Seals the keys of all providers. One that fails does not stop the others.
pub(crate) fn reseal_all(host: &Host) -> Result<Vec<ResealedProvider>, ProviderError> {
    let Some(store) = host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let _exclusive = ProvidersLock::acquire(host)?;
    let providers = store.providers()?;
    let keyring = host.keyring();
    let resealed = |provider| ResealedProvider::new(&keyring, provider);
    Ok(providers.iter().map(resealed).collect())
}

impl ResealedProvider {
    fn new(keyring: &Keyring, provider: &Provider) -> Self {
        Self {
            provider: provider.into(),
            key_id: provider.key_id,
            result: keyring.reseal(provider.key_id, default_deadline()),
        }
    }

    /// Whether its key was in a file in clear until now.
    pub(crate) fn was_in_clear(&self) -> bool {
        let is_left = |done: &Resealed| done.before == Seal::RootOnlyFile && done.is_changed();
        self.result.as_ref().is_ok_and(is_left)
    }
}

impl Serialize for ResealedProvider {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            provider: &'a ProviderRef,
            key_id: KeyId,
            changed: bool,
            seal: Option<String>,
            previous_seal: Option<String>,
            error: Option<String>,
        }
        let done = self.result.as_ref();
        Document {
            provider: &self.provider,
            key_id: self.key_id,
            changed: done.is_ok_and(|done| done.is_changed()),
            seal: done.ok().map(|done| done.after.to_string()),
            previous_seal: done.ok().map(|done| done.before.to_string()),
            error: done.err().map(ToString::to_string),
        }
        .serialize(to)
    }
}
