//! `provider list`, `provider show`: the providers, and what their keys are worth on this host.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

use super::host::{Host, HostError, default_deadline};
use super::providers::{ProviderError, ProviderRef};
use super::slots::{ListedSlot, slots_of};
use crate::clock::Timestamp;
use crate::key::id::KeyId;
use crate::keyring::{Keyring, KeyringError, Seal};
use crate::store::{Access, KeyRefRecord, Slot};
use crate::verdict::facts::{Provider, provider_of};

/// A provider.
#[derive(Debug, Serialize)]
pub(crate) struct ListedProvider {
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    kind: &'static str,
    pub(crate) key_id: KeyId,
    pub(crate) key_version: i64,
    pub(crate) is_default: bool,
    pub(crate) seal: SealState,
    pub(crate) exported_at: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
    /// How many guests are bound to it.
    pub(crate) guests: usize,
    /// The ways to its key.
    pub(crate) slots: Vec<ListedSlot>,
}

/// What `provider show` found.
#[derive(Debug, Serialize)]
pub(crate) struct ShownProvider {
    #[serde(flatten)]
    pub(crate) provider: ListedProvider,
    /// Whether its key opens.
    opens: bool,
    /// Why it does not open.
    pub(crate) trouble: Option<String>,
}

/// How a provider key is sealed on this host, or why it cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealState {
    Sealed(Seal),
    Missing,
    Damaged,
    NotTrusted,
    Unreadable,
}

/// All providers, by name.
pub(crate) fn list(host: &Host) -> Result<Vec<ListedProvider>, HostError> {
    let Some(store) = host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let (all, rows) = (store.providers()?, store.all_key_refs(None, false)?);
    let (keyring, slots) = (host.keyring(), store.slots()?);
    let listed = |provider: &Provider| ListedProvider::new(provider, &all, &rows, &slots, &keyring);
    Ok(all.iter().map(listed).collect())
}

/// The provider that `text` names, and whether its key opens.
pub(crate) fn show(host: &Host, text: &str) -> Result<ShownProvider, ProviderError> {
    let (store, provider) = host.provider(text, Access::Read)?;
    let (all, rows) = (store.providers()?, store.all_key_refs(None, false)?);
    let keyring = host.keyring();
    let opened = keyring.open(provider.key_id, default_deadline());
    Ok(ShownProvider {
        provider: ListedProvider::new(&provider, &all, &rows, &store.slots()?, &keyring),
        opens: opened.is_ok(),
        trouble: opened.err().map(|error| error.to_string()),
    })
}

impl ListedProvider {
    /// The slots of key managers.
    pub(crate) fn key_managers(&self) -> impl Iterator<Item = &ListedSlot> {
        let slots = self.slots.iter();
        slots.filter(|slot| slot.slot_uuid.is_some())
    }

    /// Describes a provider by all of them, the key references in use, and the keyring.
    pub(super) fn new(
        provider: &Provider,
        all: &[Provider],
        rows: &[KeyRefRecord],
        slots: &[Slot],
        keyring: &Keyring,
    ) -> Self {
        let is_bound = |row: &&KeyRefRecord| {
            provider_of(&row.key_ref, all).is_some_and(|named| named.uuid == provider.uuid)
        };
        let guests: BTreeSet<_> = rows.iter().filter(is_bound).map(|row| row.domain).collect();
        Self {
            provider: provider.into(),
            kind: "native",
            key_id: provider.key_id,
            key_version: provider.key_version,
            is_default: provider.is_default,
            seal: SealState::of(keyring, provider.key_id),
            exported_at: provider.exported_at,
            created_at: provider.created_at,
            guests: guests.len(),
            slots: slots_of(provider, slots, keyring),
        }
    }
}

impl SealState {
    pub(super) fn of(keyring: &Keyring, key_id: KeyId) -> Self {
        Self::from(&keyring.seal(key_id))
    }

    /// Whether it is sealed there, and can be used.
    pub(crate) fn is_sealed(self) -> bool {
        matches!(self, Self::Sealed(_))
    }
}

impl From<&Result<Seal, KeyringError>> for SealState {
    fn from(seal: &Result<Seal, KeyringError>) -> Self {
        match seal {
            Ok(seal) => Self::Sealed(*seal),
            Err(KeyringError::Missing(_)) => Self::Missing,
            Err(KeyringError::Damaged { .. }) => Self::Damaged,
            Err(KeyringError::NotTrusted { .. }) => Self::NotTrusted,
            Err(_) => Self::Unreadable,
        }
    }
}

/// As JSON has it.
impl fmt::Display for SealState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed(seal) => seal.fmt(f),
            Self::Missing => f.write_str("missing"),
            Self::Damaged => f.write_str("damaged"),
            Self::NotTrusted => f.write_str("not trusted"),
            Self::Unreadable => f.write_str("unreadable"),
        }
    }
}

impl Serialize for SealState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
