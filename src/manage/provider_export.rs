//! `provider export`: the key into a recovery file, under a passphrase. Once the key of a
//! rotation is in one, the previous key goes, if nothing needs it.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::host::{Host, default_deadline};
use super::json;
use super::previous_keys::PreviousKey;
use super::provider_delete::remove_key;
use super::providers::{ProviderError, ProviderRef, ProvidersLock};
use crate::clock::Timestamp;
use crate::key::id::KeyId;
use crate::recovery::file::{RecoveryError, RecoveryFile};
use crate::recovery::passphrase::Passphrase;
use crate::store::{Access, Store, StoreError};
use crate::verdict::facts::Provider;

/// What `provider export` did.
#[derive(Debug, Serialize)]
pub(crate) struct ExportedProvider {
    #[serde(serialize_with = "json::path")]
    pub(crate) file: PathBuf,
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    pub(crate) key_id: KeyId,
    exported_at: Timestamp,
    /// The previous keys that nothing on this host needed any more.
    #[serde(rename = "former_keys_dropped")]
    pub(crate) dropped: Vec<KeyId>,
    /// Those that are still here.
    #[serde(rename = "former_keys_kept", serialize_with = "key_ids")]
    pub(crate) kept: Vec<PreviousKey>,
}

/// Why a provider was not exported, or not to the end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The provider or its key cannot be had.
    #[error(transparent)]
    Provider(ProviderError),
    /// The file cannot be made.
    #[error("{1}")]
    File(PathBuf, RecoveryError),
    /// The file is written, but the store does not have that.
    #[error("{1}")]
    NotRecorded(PathBuf, StoreError),
    /// The file is written, and the store has that, but a previous key that nothing needs could not be dropped.
    #[error("{1}")]
    NotDropped(PathBuf, ProviderError),
}

impl<E: Into<ProviderError>> From<E> for ExportError {
    fn from(error: E) -> Self {
        Self::Provider(error.into())
    }
}

fn key_ids<S: Serializer>(keys: &[PreviousKey], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(keys.iter().map(|key| key.key_id))
}

/// The provider that `text` names. What can be known to fail without its key does so here, before
/// anybody types a passphrase.
pub(crate) fn exportable(host: &Host, text: &str, file: &Path) -> Result<Provider, ExportError> {
    let (_, provider) = host.provider(text, Access::Write)?;
    if file.symlink_metadata().is_ok() {
        let exists = RecoveryError::Exists(file.to_owned());
        return Err(ExportError::File(file.to_owned(), exists));
    }
    host.keyring().seal(provider.key_id)?;
    Ok(provider)
}

/// Writes the key of this provider into a new recovery file. The key is not in memory before: not
/// while somebody types the passphrase.
pub(crate) fn export(
    host: &Host,
    provider: &Provider,
    file: &Path,
    passphrase: &Passphrase,
) -> Result<ExportedProvider, ExportError> {
    let kek = host.keyring().open(provider.key_id, default_deadline())?;
    let now = Timestamp::now();
    RecoveryFile::seal(&kek, &provider.name, provider.key_version, now, passphrase)
        .and_then(|recovery| recovery.write_to(file))
        .map_err(|error| ExportError::File(file.to_owned(), error))?;
    record(host, provider, now).map_err(|error| ExportError::NotRecorded(file.into(), error))?;
    let (dropped, kept) = drop_previous_keys(host, provider)
        .map_err(|error| ExportError::NotDropped(file.into(), error))?;
    Ok(ExportedProvider {
        file: file.to_owned(),
        provider: provider.into(),
        key_id: provider.key_id,
        exported_at: now,
        dropped,
        kept,
    })
}

fn record(host: &Host, provider: &Provider, now: Timestamp) -> Result<(), StoreError> {
    let mut store = reopened(host)?;
    store.mark_exported(provider.uuid, provider.key_id, now)
}

/// The store, whose deadline may have passed while somebody typed.
fn reopened(host: &Host) -> Result<Store, StoreError> {
    host.store(Access::Write)?.ok_or(StoreError::Missing)
}

/// Drops the previous keys that nothing needs any more.
fn drop_previous_keys(
    host: &Host,
    provider: &Provider,
) -> Result<(Vec<KeyId>, Vec<PreviousKey>), ProviderError> {
    let mut store = reopened(host)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let (mut dropped, mut kept) = (Vec::new(), Vec::new());
    if store.provider_by_uuid(provider.uuid)?.key_id != provider.key_id {
        // Rotated once more since: what was exported is a previous key by now.
        return Ok((dropped, kept));
    }
    for previous in store.previous_keys(provider)? {
        if previous.exported_at.is_some() && store.delete_previous_key(&previous)? {
            // The row before the key that it needs: a kill in between leaves a key that nobody
            // needs.
            remove_key(host, &store, &previous)?;
            dropped.push(previous.key_id);
        } else {
            kept.push(PreviousKey::new(&store, &previous)?);
        }
    }
    Ok((dropped, kept))
}
