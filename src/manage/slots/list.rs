//! `provider slot list`: every way to a provider's key.

use serde::Serialize;

use super::SlotError;
use crate::clock::Timestamp;
use crate::ids::SlotUuid;
use crate::key::id::KeyId;
use crate::keyring::{KekPlace, Keyring, KeyringError};
use crate::manage::host::Host;
use crate::manage::providers::ProviderRef;
use crate::store::{Access, Slot};
use crate::verdict::facts::Provider;

/// The `kind` of the sealed key of this host.
pub(super) const HOST: &str = "host";

/// The `kind` of the recovery file.
pub(super) const RECOVERY: &str = "recovery";

/// One way to a provider's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ListedSlot {
    /// None of the sealed key of this host and the recovery file.
    pub(crate) slot_uuid: Option<SlotUuid>,
    pub(crate) key_id: KeyId,
    pub(crate) kind: String,
    pub(crate) label: Option<String>,
    pub(crate) kms: Option<String>,
    pub(crate) remote_key: Option<String>,
    pub(crate) remote_version: Option<String>,
    pub(crate) verified_at: Option<Timestamp>,
    pub(crate) created_at: Option<Timestamp>,
}

/// What `provider slot list` found.
#[derive(Debug, Serialize)]
pub(crate) struct ListedSlots {
    pub(crate) provider: ProviderRef,
    pub(crate) slots: Vec<ListedSlot>,
}

/// The slots of the provider that `text` names.
pub(crate) fn list(host: &Host, text: &str) -> Result<ListedSlots, SlotError> {
    let (store, provider) = host.provider(text, Access::Read)?;
    let slots = slots_of(&provider, &store.slots()?, &host.keyring());
    Ok(ListedSlots {
        provider: (&provider).into(),
        slots,
    })
}

/// The slots of a provider: its sealed key on this host, its recovery file, and those of `all` with its key.
pub(crate) fn slots_of(provider: &Provider, all: &[Slot], keyring: &Keyring) -> Vec<ListedSlot> {
    let other = |kind: &str, label: String, created_at| ListedSlot {
        slot_uuid: None,
        key_id: provider.key_id,
        kind: kind.to_owned(),
        label: Some(label),
        kms: None,
        remote_key: None,
        remote_version: None,
        verified_at: None,
        created_at,
    };
    let label = match keyring.seal(provider.key_id) {
        Ok(seal) => {
            let until = match keyring.place(provider.key_id) {
                Ok(KekPlace::Tmpfs) => ", until the next reboot",
                _ => "",
            };
            Some(format!("{seal}{until}"))
        }
        Err(KeyringError::Missing(_)) => None,
        // It is there, and opens nothing.
        Err(error) => Some(error.to_string()),
    };
    let host = label.map(|label| other(HOST, label, None));
    let exported = provider.exported_at;
    let recovery = exported.map(|at| {
        other(
            RECOVERY,
            "the recovery file of its last export".to_owned(),
            Some(at),
        )
    });
    let its = all.iter().filter(|slot| slot.key_id == provider.key_id);
    let its = its.map(ListedSlot::from);
    host.into_iter().chain(recovery).chain(its).collect()
}

impl ListedSlot {
    /// How a person names it: its key manager and the key there, or its kind.
    pub(crate) fn name(&self) -> String {
        match (&self.kms, &self.remote_key) {
            (Some(kms), Some(key)) => format!("{kms}:{key}"),
            _ => self.kind.clone(),
        }
    }
}

impl From<&Slot> for ListedSlot {
    fn from(slot: &Slot) -> Self {
        Self {
            slot_uuid: Some(slot.uuid),
            key_id: slot.key_id,
            kind: slot.kind.clone(),
            label: slot.label.clone(),
            kms: Some(slot.kms.clone()),
            remote_key: Some(slot.remote_key.clone()),
            remote_version: slot.remote_version.clone(),
            verified_at: slot.verified_at,
            created_at: Some(slot.created_at),
        }
    }
}
