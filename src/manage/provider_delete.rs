//! `provider delete`: the row and the key, unless guests need them.

use serde::Serialize;

use super::guests::GuestRef;
use super::host::{Host, HostError};
use super::providers::{ProviderError, ProviderRef, ProvidersLock};
use crate::clock::Timestamp;
use crate::key::id::KeyId;
use crate::store::{Access, Store};
use crate::verdict::facts::Provider;

/// What `provider delete` did.
#[derive(Debug, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, for an answer"
)]
pub(crate) struct DeletedProvider {
    deleted: bool,
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    pub(crate) key_id: KeyId,
    /// Whether the sealed key is gone too: another provider may have the same.
    pub(crate) key_removed: bool,
    /// The guests that cannot start without it, by name.
    pub(crate) locked: Vec<GuestRef>,
    #[serde(skip)]
    pub(crate) exported_at: Option<Timestamp>,
    #[serde(skip)]
    pub(crate) was_default: bool,
    /// Whether the configuration still binds new guests to it.
    #[serde(skip)]
    pub(crate) was_auto_bind: bool,
}

/// A provider that was not deleted, since guests need it. This is an answer and an error.
#[derive(Debug, Serialize)]
pub(crate) struct NeededProvider {
    deleted: bool,
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    /// The guests that would not start without it, by name.
    pub(crate) locked: Vec<GuestRef>,
}

/// Why a provider was not deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    /// The provider cannot be had, or its key could not be removed.
    #[error(transparent)]
    Provider(ProviderError),
    /// Guests need it.
    #[error("needed")]
    Needed(NeededProvider),
    /// Its key is in no recovery file.
    #[error("never exported")]
    NeverExported(ProviderRef),
}

impl<E: Into<ProviderError>> From<E> for DeleteError {
    fn from(error: E) -> Self {
        Self::Provider(error.into())
    }
}

/// Deletes the provider that `text` names and its key; with `force` even if guests need it, or it
/// was never exported.
pub(crate) fn delete(host: &Host, text: &str, force: bool) -> Result<DeletedProvider, DeleteError> {
    let (mut store, found) = host.provider(text, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    let locked = locked_without(host, &store, &provider)?;
    if !force && !locked.is_empty() {
        return Err(DeleteError::Needed(NeededProvider {
            deleted: false,
            provider: (&provider).into(),
            locked,
        }));
    }
    if !force && provider.exported_at.is_none() {
        return Err(DeleteError::NeverExported((&provider).into()));
    }
    // The row before the key that it needs: a kill in between leaves a key that nobody needs.
    let seen = locked.iter().map(|guest| guest.uuid).collect();
    store.delete_provider(provider.uuid, &seen)?;
    Ok(DeletedProvider {
        deleted: true,
        key_removed: remove_key(host, &store, &provider)?,
        provider: (&provider).into(),
        key_id: provider.key_id,
        locked,
        exported_at: provider.exported_at,
        was_default: provider.is_default,
        was_auto_bind: host.auto_binds_to(&provider.name),
    })
}

/// The guests that cannot start without a provider, with their names, also those that only
/// libvirt knows; by name, those without one last.
fn locked_without(
    host: &Host,
    store: &Store,
    provider: &Provider,
) -> Result<Vec<GuestRef>, HostError> {
    let guests = store.dependent_domains(provider)?;
    let mut names = host.names(store, guests.iter().map(|guest| guest.uuid).collect())?;
    let guests = guests.into_iter();
    let mut locked: Vec<_> = guests
        .map(|guest| GuestRef::of_uuid(guest.uuid, names.remove(&guest.uuid)))
        .collect();
    locked.sort_by_key(|guest| (guest.name.is_none(), guest.name.clone()));
    Ok(locked)
}

/// Removes the sealed key of a provider whose row is deleted, unless another provider has the
/// same. Returns whether it is gone.
pub(super) fn remove_key(
    host: &Host,
    store: &Store,
    provider: &Provider,
) -> Result<bool, ProviderError> {
    let others = store.providers()?;
    if others.iter().any(|other| other.key_id == provider.key_id) {
        return Ok(false);
    }
    let removed = host.keyring().remove(provider.key_id);
    removed.map_err(|error| ProviderError::KeyLeft(provider.into(), error))?;
    Ok(true)
}
