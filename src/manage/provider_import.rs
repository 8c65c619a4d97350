//! `provider import`: a provider back from its recovery file, with a new UUID and the same key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::fleet;
use super::host::{Host, default_deadline};
use super::name::BadName;
use super::provider_list::SealState;
use super::providers::{ProviderError, ProvidersLock, check_name};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, ProviderUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::{StoredKek, WeakerSeal};
use crate::recovery::file::{Header, RecoveryError, RecoveryFile};
use crate::recovery::passphrase::Passphrase;
use crate::store::{Access, NewProvider, Store, StoreError};
use crate::verdict::facts::Provider;

/// What is asked for.
pub(crate) struct ImportProvider<'a> {
    /// Where the recovery file is.
    pub(crate) path: &'a Path,
    pub(crate) file: &'a RecoveryFile,
    pub(crate) passphrase: &'a Passphrase,
    /// Another name than the one in the file.
    pub(crate) name: Option<&'a str>,
    /// Whether nothing is to be changed.
    pub(crate) dry_run: bool,
    pub(crate) weaker: WeakerSeal,
}

/// What `provider import` did, or would do.
#[derive(Debug, Serialize)]
pub(crate) struct ImportedProvider {
    pub(crate) action: ImportAction,
    /// `None` in a dry run.
    uuid: Option<ProviderUuid>,
    pub(crate) name: String,
    pub(crate) key_id: KeyId,
    key_version: i64,
    pub(crate) opens: Opens,
    pub(crate) does_not_open: DoesNotOpen,
    pub(crate) dry_run: bool,
    #[serde(skip)]
    pub(crate) seal: SealState,
    /// How its key was sealed, and why not more strongly.
    #[serde(skip)]
    pub(crate) stored: Option<StoredKek>,
}

/// What an import does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ImportAction {
    /// Makes a provider.
    Create,
    /// Seals the key of a provider again that did not open any more.
    OpenAgain,
    /// Keeps the next key of a provider of this host, as another host of the fleet has rotated it and the present key has
    /// signed: it opens here, and the provider gets it with the next exchange.
    NextKey,
    /// Nothing: the provider is there, and its key opens. Only a dry run gets so far, to verify
    /// that the file would bring it back.
    None,
}

/// What the key opens.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Opens {
    pub(crate) key_refs: usize,
    pub(crate) guests: usize,
}

/// The key references that name the key, and that it does not open.
#[derive(Debug, Default, Serialize)]
pub(crate) struct DoesNotOpen {
    pub(crate) key_refs: usize,
}

/// Why a provider was not imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The host.
    #[error(transparent)]
    Provider(ProviderError),
    /// The file does not open.
    #[error("{1}")]
    File(PathBuf, RecoveryError),
    /// It cannot have the name in the file, or the one that was given.
    #[error("bad name")]
    BadName(PathBuf, String, BadName),
    /// A provider has the name and the key, and that opens.
    #[error("already here")]
    AlreadyHere(String),
    /// This provider has the key under another name.
    #[error("another name")]
    KeyHasProvider(PathBuf, Provider),
    /// A provider has the name, with another key.
    #[error("another key")]
    NameHasKey {
        path: PathBuf,
        name: String,
        here: KeyId,
        in_file: KeyId,
        /// The host is in a fleet, which may know that one follows the other.
        in_fleet: bool,
    },
}

impl<E: Into<ProviderError>> From<E> for ImportError {
    fn from(error: E) -> Self {
        Self::Provider(error.into())
    }
}

/// Imports a provider. The whole file is opened before anything is looked at or changed.
pub(crate) fn import(
    host: &Host,
    import: &ImportProvider<'_>,
) -> Result<ImportedProvider, ImportError> {
    let header = import.file.header();
    let kek = import.file.open(import.passphrase);
    let kek = kek.map_err(|error| ImportError::File(import.path.to_owned(), error))?;
    let name = import.name.unwrap_or(&header.provider);
    let keyring = host.keyring();
    let (store, action, name, made) = if import.dry_run {
        let store = host.store(Access::Read)?;
        let providers = store.as_ref().map_or(Ok(Vec::new()), Store::providers)?;
        let (action, known) = plan(host, import, &providers, name, store.as_ref())?;
        let name = known.map_or(name, |known| &known.name).to_owned();
        (store, action, name, None)
    } else {
        let mut store = host.store(Access::Create)?.ok_or(StoreError::Missing)?;
        let _exclusive = ProvidersLock::acquire(host)?;
        let providers = store.providers()?;
        let (action, known) = plan(host, import, &providers, name, Some(&store))?;
        // The key before the row that needs it: a kill in between leaves a key that nobody needs.
        let stored = keyring.store(&kek, import.weaker, default_deadline())?;
        let uuid = match known {
            Some(known) => {
                if known.exported_at.is_none() {
                    store.mark_exported(known.uuid, known.key_id, header.created)?;
                }
                known.uuid
            }
            None if action == ImportAction::NextKey => {
                let kept = fleet::kept_name(name, header.key_id);
                create(host, &mut store, header, &kept, false)?
            }
            None => create(host, &mut store, header, name, providers.is_empty())?,
        };
        let name = known.map_or(name, |known| &known.name).to_owned();
        (Some(store), action, name, Some((uuid, stored)))
    };
    let (opens, does_not_open) = opened_by(&kek, store.as_ref())?;
    let (uuid, stored) = made.unzip();
    Ok(ImportedProvider {
        action,
        uuid,
        name,
        key_id: header.key_id,
        key_version: header.key_version,
        opens,
        does_not_open,
        dry_run: import.dry_run,
        seal: SealState::of(&keyring, header.key_id),
        stored,
    })
}

/// What is to be done, and with which provider if it is here.
fn plan<'a>(
    host: &Host,
    import: &ImportProvider<'_>,
    providers: &'a [Provider],
    name: &str,
    store: Option<&Store>,
) -> Result<(ImportAction, Option<&'a Provider>), ImportError> {
    let (path, key_id) = (import.path.to_owned(), import.file.header().key_id);
    let named = providers.iter().find(|provider| provider.name == name);
    let same_key = providers.iter().find(|provider| provider.key_id == key_id);
    let other_name = |known: &Provider| ImportError::KeyHasProvider(path.clone(), known.clone());
    let known = match (named, same_key) {
        (Some(known), _) if known.key_id == key_id => Some(known),
        // It has another name by now, which nobody but the file says that it should not have.
        (_, Some(known)) if import.name.is_none() || is_key_of(known, name) => Some(known),
        (_, Some(known)) => return Err(other_name(known)),
        (_, None) => None,
    };
    if let Some(known) = known {
        return match host.keyring().open(key_id, default_deadline()) {
            Ok(_) if import.dry_run => Ok((ImportAction::None, Some(known))),
            Ok(_) if known.name == name || is_key_of(known, name) => {
                Err(ImportError::AlreadyHere(known.name.clone()))
            }
            Ok(_) => Err(other_name(known)),
            Err(_) => Ok((ImportAction::OpenAgain, Some(known))),
        };
    }
    match named {
        Some(known) if fleet::is_next_key(host, store, known.key_id, key_id)? => {
            Ok((ImportAction::NextKey, None))
        }
        Some(known) => Err(ImportError::NameHasKey {
            path,
            name: name.to_owned(),
            here: known.key_id,
            in_file: key_id,
            in_fleet: store
                .map(Store::membership)
                .transpose()?
                .flatten()
                .is_some(),
        }),
        None => match check_name(name) {
            Ok(()) => Ok((ImportAction::Create, None)),
            Err(ProviderError::BadName(name, why)) => Err(ImportError::BadName(path, name, why)),
            Err(error) => Err(error.into()),
        },
    }
}

/// Whether this is a key of the provider with that name: a previous one, or one that other hosts of
/// the fleet announced for it.
fn is_key_of(known: &Provider, name: &str) -> bool {
    [known.previous_key_of(), known.announced_as()].contains(&Some(name))
}

/// Makes the provider's row; its key is stored.
fn create(
    host: &Host,
    store: &mut Store,
    header: &Header,
    name: &str,
    is_default: bool,
) -> Result<ProviderUuid, ProviderError> {
    let new = NewProvider {
        uuid: ProviderUuid::random(),
        name: name.to_owned(),
        key_id: header.key_id,
        key_version: header.key_version,
        is_default,
        // The file that it came from is its export.
        exported_at: Some(header.created),
    };
    if let Err(error) = store.create_provider(&new, &[], Timestamp::now()) {
        // The first error is the one to report; no other provider has this key.
        let _ = host.keyring().remove(new.key_id);
        return Err(error.into());
    }
    Ok(new.uuid)
}

/// Tries the key on every key reference in use that names it.
fn opened_by(kek: &Kek, store: Option<&Store>) -> Result<(Opens, DoesNotOpen), StoreError> {
    let rows = store.map_or(Ok(Vec::new()), |store| store.key_refs_under(kek.key_id()))?;
    let mut guests = BTreeSet::<DomainUuid>::new();
    let (mut opens, mut does_not_open) = (Opens::default(), DoesNotOpen::default());
    for row in rows.iter().filter(|row| row.retired_at.is_none()) {
        let Some(wrapped) = &row.key_ref.wrapped_dek else {
            continue;
        };
        if matches!(wrapped.unwrap(kek, row.domain), Ok(Some(_))) {
            guests.insert(row.domain);
            opens.key_refs += 1;
        } else {
            does_not_open.key_refs += 1;
        }
    }
    opens.guests = guests.len();
    Ok((opens, does_not_open))
}
