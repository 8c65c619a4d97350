//! `store check`, `backup`, `restore`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::host::{Host, HostError, default_deadline};
use super::sync::{SyncError, exclusive};
use crate::clock::{Deadline, Timestamp};
use crate::store::{Access, Store, StoreError, StoreFinding};

/// How long copying or reading a whole store may take.
const DEADLINE_FOR_ALL: Duration = Duration::from_secs(10 * 60);

/// What `store check` found.
#[derive(Debug, Serialize)]
pub(crate) struct CheckedStore {
    /// Whether there is a store.
    pub(crate) exists: bool,
    pub(crate) findings: Vec<FoundInStore>,
}

/// Damage or an inconsistency.
#[derive(Debug)]
pub(crate) struct FoundInStore(pub(crate) StoreFinding);

/// What `store backup` did.
#[derive(Debug, Serialize)]
pub(crate) struct BackedUp {
    #[serde(serialize_with = "super::json::path")]
    pub(crate) file: PathBuf,
    /// The providers that no recovery file restores.
    pub(crate) providers_never_exported: Vec<String>,
}

/// What `store restore` did.
#[derive(Debug, Serialize)]
pub(crate) struct RestoredStore {
    #[serde(skip)]
    pub(crate) backup: PathBuf,
    /// Where the previous store is kept.
    #[serde(serialize_with = "super::json::optional_path")]
    pub(crate) previous: Option<PathBuf>,
    /// The providers whose key this host cannot open.
    pub(crate) providers_without_key: Vec<String>,
}

/// Why a store was not restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreStoreError {
    /// An exchange with the fleet goes on; the store is unchanged.
    #[error(transparent)]
    Exchange(SyncError),
    /// The backup cannot be used, or the store not be replaced; it is unchanged.
    #[error(transparent)]
    Backup(StoreError),
    /// The store was restored; its providers could not be read.
    #[error(transparent)]
    Providers(HostError),
}

impl FoundInStore {
    /// What it is, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self.0 {
            StoreFinding::Damaged(_) => "damaged",
            StoreFinding::SchemaMissing(_) => "schema-missing",
            StoreFinding::SchemaDiffers(_) => "schema-differs",
            StoreFinding::SchemaForeign(_) => "schema-foreign",
            StoreFinding::Dangling { .. } => "dangling",
            StoreFinding::ProviderUnreadable { .. } => "provider-unreadable",
            StoreFinding::KeyRefUnreadable { .. } => "key-ref-unreadable",
            StoreFinding::ProviderUnknown { .. } => "provider-unknown",
        }
    }
}

impl Serialize for FoundInStore {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document {
            kind: &'static str,
            damage: bool,
            message: String,
        }
        Document {
            kind: self.kind(),
            damage: self.0.is_damage(),
            message: self.0.to_string(),
        }
        .serialize(to)
    }
}

/// Checks the whole store.
pub(crate) fn check(host: &Host) -> Result<CheckedStore, StoreError> {
    let deadline = Deadline::after(DEADLINE_FOR_ALL);
    let (exists, findings) = match Store::open(host.state_dir(), Access::Read, deadline) {
        Ok(store) => (true, store.check()?),
        Err(StoreError::Missing) => (false, Vec::new()),
        // Damage that keeps it from being opened is what it was to find.
        Err(StoreError::Corrupt { detail, .. }) => (true, vec![StoreFinding::Damaged(detail)]),
        Err(error) => return Err(error),
    };
    let findings = findings.into_iter().map(FoundInStore).collect();
    Ok(CheckedStore { exists, findings })
}

/// Writes a copy of the store into a new file, whole or not at all.
pub(crate) fn backup(host: &Host, file: &Path) -> Result<BackedUp, StoreError> {
    let deadline = Deadline::after(DEADLINE_FOR_ALL);
    let store = Store::open(host.state_dir(), Access::Read, deadline)?;
    store.backup(file, deadline)?;
    let never_exported = store
        .providers()?
        .into_iter()
        .filter(|provider| provider.exported_at.is_none());
    Ok(BackedUp {
        file: file.to_owned(),
        providers_never_exported: never_exported.map(|provider| provider.name).collect(),
    })
}

/// Replaces the store with a backup. A kill leaves one of the two.
pub(crate) fn restore(host: &Host, file: &Path) -> Result<RestoredStore, RestoreStoreError> {
    // An exchange would note in the restored store how far it has read what this one knows.
    let _exclusive = is_member(host)
        .then(|| exclusive(host, None))
        .transpose()
        .map_err(RestoreStoreError::Exchange)?;
    let deadline = Deadline::after(DEADLINE_FOR_ALL);
    let restored = Store::restore(host.state_dir(), file, Timestamp::now(), deadline)
        .map_err(RestoreStoreError::Backup)?;
    Ok(RestoredStore {
        backup: file.to_owned(),
        previous: restored.previous,
        providers_without_key: without_key(host).map_err(RestoreStoreError::Providers)?,
    })
}

/// Whether the present store is one that is exchanged with a fleet: none that is missing, damaged or of a later release is.
fn is_member(host: &Host) -> bool {
    let store = host.store(Access::Read).ok().flatten();
    store.is_some_and(|store| matches!(store.membership(), Ok(Some(_))))
}

/// The providers whose key is not on this host, or not whole.
fn without_key(host: &Host) -> Result<Vec<String>, HostError> {
    let keyring = host.keyring();
    let store = host.store(Access::Read)?;
    let providers = store.map_or(Ok(Vec::new()), |store| store.providers())?;
    let without = providers
        .into_iter()
        .filter(|provider| keyring.open(provider.key_id, default_deadline()).is_err());
    Ok(without.map(|provider| provider.name).collect())
}
