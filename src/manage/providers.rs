//! Which provider a text names, and who may change providers now.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

use super::host::{Host, HostError, default_deadline};
use super::name::{self, BadName};
use crate::clock::Deadline;
use crate::host::lock::lock;
use crate::host::path_error::PathError;
use crate::ids::ProviderUuid;
use crate::keyring::KeyringError;
use crate::messages::{Arg, kind};
use crate::store::{Access, Store, StoreError};
use crate::verdict::facts::Provider;

/// A provider, as answers and messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ProviderRef {
    pub(crate) name: String,
    pub(crate) uuid: ProviderUuid,
}

impl ProviderRef {
    /// How a command line names it.
    pub(crate) fn arg(&self) -> Arg<kind::Provider> {
        Arg::provider_of(&self.name, self.uuid)
    }
}

impl From<&Provider> for ProviderRef {
    fn from(provider: &Provider) -> Self {
        Self {
            name: provider.name.clone(),
            uuid: provider.uuid,
        }
    }
}

/// Why a provider cannot be had, or not for this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// None was named, and there is no default.
    #[error("there is no default provider")]
    NoDefault,
    /// It is a previous key of that provider: it wraps no new key.
    #[error("a previous key")]
    PreviousKey {
        provider: ProviderRef,
        /// The name of the provider whose key it was.
        owner: String,
        /// Whether that provider still exists.
        owner_exists: bool,
    },
    /// Other hosts of the fleet announced it for the provider of that name: it wraps no new key, until
    /// it is accepted.
    #[error("an announced key")]
    AnnouncedKey {
        provider: ProviderRef,
        /// The name of that provider.
        owner: String,
    },
    /// It cannot have this name.
    #[error("bad name")]
    BadName(String, BadName),
    /// It is deleted, but its sealed key is not.
    #[error("{1}")]
    KeyLeft(ProviderRef, KeyringError),
    /// Another process is changing providers.
    #[error("another vtpm-guard is changing providers")]
    Busy,
    /// The host.
    #[error(transparent)]
    Host(HostError),
}

impl<E: Into<HostError>> From<E> for ProviderError {
    fn from(error: E) -> Self {
        Self::Host(error.into())
    }
}

impl Host {
    /// The store, and the provider of this name or UUID in it.
    pub(crate) fn provider(
        &self,
        text: &str,
        access: Access,
    ) -> Result<(Store, Provider), ProviderError> {
        let missing = || StoreError::NoProvider(text.to_owned());
        let store = self.store(access)?.ok_or_else(missing)?;
        let provider = store.provider(text)?;
        Ok((store, provider))
    }

    /// The same, for new keys; without a text it is the default provider.
    pub(crate) fn provider_for_new_keys(
        &self,
        text: Option<&str>,
    ) -> Result<(Store, Provider), ProviderError> {
        let Some(text) = text else {
            return self.default_provider();
        };
        let (store, provider) = self.provider(text, Access::Write)?;
        refuse_previous_key(&store, &provider)?;
        Ok((store, provider))
    }

    /// Whether the configuration binds new guests to the provider of this name. Under a broken one none is
    /// bound.
    pub(super) fn auto_binds_to(&self, name: &str) -> bool {
        let config = self.config();
        config.is_ok_and(|config| config.policy.auto_bind.as_deref() == Some(name))
    }

    fn default_provider(&self) -> Result<(Store, Provider), ProviderError> {
        let store = self.store(Access::Write)?.ok_or(ProviderError::NoDefault)?;
        let providers = store.providers()?;
        let default = providers.into_iter().find(|provider| provider.is_default);
        Ok((store, default.ok_or(ProviderError::NoDefault)?))
    }
}

/// Refuses a previous key of a provider, and one that was only announced.
pub(crate) fn refuse_previous_key(store: &Store, provider: &Provider) -> Result<(), ProviderError> {
    if let Some(owner) = provider.announced_as() {
        return Err(ProviderError::AnnouncedKey {
            provider: provider.into(),
            owner: owner.to_owned(),
        });
    }
    let Some(owner) = provider.previous_key_of() else {
        return Ok(());
    };
    let mut providers = store.providers()?.into_iter();
    Err(ProviderError::PreviousKey {
        provider: provider.into(),
        owner: owner.to_owned(),
        owner_exists: providers.any(|other| other.name == owner),
    })
}

/// Held while providers come and go, until it is dropped. A sealed KEK and its provider's row
/// are two things: of two administrators at once, one would remove the KEK that the other's
/// row needs.
pub(crate) struct ProvidersLock {
    _state_dir: File,
}

impl ProvidersLock {
    /// Waits until nobody else holds it. The state directory must exist.
    pub(crate) fn acquire(host: &Host) -> Result<Self, ProviderError> {
        let path = host.state_dir();
        let state_dir = File::open(path).map_err(PathError::at(path))?;
        Self::wait(&state_dir, path, default_deadline())?;
        Ok(Self {
            _state_dir: state_dir,
        })
    }

    fn wait(state_dir: &File, path: &Path, deadline: Deadline) -> Result<(), ProviderError> {
        lock(state_dir, deadline).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => ProviderError::Busy,
            _ => PathError::new(path, error).into(),
        })
    }
}

/// Checks the name of a provider to be.
pub(super) fn check_name(name: &str) -> Result<(), ProviderError> {
    match name::problem(name) {
        None => Ok(()),
        Some(why) => Err(ProviderError::BadName(name.to_owned(), why)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_waits_too_long_is_told_that_another_one_is_at_it() {
        let dir = tempfile::tempdir().unwrap();
        let wait = |file: &File| {
            let deadline = Deadline::after(Duration::from_millis(1));
            ProvidersLock::wait(file, dir.path(), deadline)
        };
        let (one, other) = (File::open(dir.path()), File::open(dir.path()));
        wait(one.as_ref().unwrap()).unwrap();
        let busy = wait(&other.unwrap()).unwrap_err();
        assert!(matches!(busy, ProviderError::Busy), "{busy:?}");
    }
}
