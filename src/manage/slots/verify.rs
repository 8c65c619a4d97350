//! `provider slot verify`: does each slot still open the provider's key?

use std::time::Duration;

use serde::Serialize;

use super::list::HOST;
use super::{ListedSlot, SlotError, open, slots_of};
use crate::clock::{Deadline, Timestamp};
use crate::keyring::Keyring;
use crate::kms::KeyManagers;
use crate::manage::host::{Host, default_deadline};
use crate::manage::providers::ProviderRef;
use crate::store::{Access, Slot, Store, StoreError};
use crate::verdict::facts::Provider;

/// What `provider slot verify` found.
#[derive(Debug, Serialize)]
pub(crate) struct VerifiedSlots {
    pub(crate) provider: ProviderRef,
    pub(crate) slots: Vec<VerifiedSlot>,
}

/// A slot, and whether it opens.
#[derive(Debug, Serialize)]
pub(crate) struct VerifiedSlot {
    #[serde(flatten)]
    pub(crate) slot: ListedSlot,
    /// Whether it opens the provider's key; nothing of a recovery file, for which a passphrase is needed.
    pub(crate) opens: Option<bool>,
    /// Why it does not open.
    pub(crate) trouble: Option<String>,
}

impl VerifiedSlots {
    /// Whether all that could be tried opens.
    pub(crate) fn all_open(&self) -> bool {
        self.slots.iter().all(|slot| slot.opens != Some(false))
    }
}

/// Opens the key of the provider that `text` names through each of its slots, and records which did.
pub(crate) fn verify(host: &Host, text: &str) -> Result<VerifiedSlots, SlotError> {
    let mut managers = host.key_managers(&host.config()?);
    let (mut store, provider) = host.provider(text, Access::Write)?;
    let slots = verify_all(&mut store, &mut managers, &host.keyring(), &provider)?;
    Ok(VerifiedSlots {
        provider: (&provider).into(),
        slots,
    })
}

/// The same for a provider that was found. The store is not held while a key manager is asked.
pub(in crate::manage) fn verify_all(
    store: &mut Store,
    managers: &mut KeyManagers,
    keyring: &Keyring,
    provider: &Provider,
) -> Result<Vec<VerifiedSlot>, SlotError> {
    let all = store.slots()?;
    let mut verified = Vec::new();
    for mut slot in slots_of(provider, &all, keyring) {
        let row = all.iter().find(|row| Some(row.uuid) == slot.slot_uuid);
        let trouble = match row {
            Some(row) => {
                let trouble = try_slot(store, managers, row)?;
                if trouble.is_none() {
                    slot.verified_at = Some(Timestamp::now());
                }
                Some(trouble)
            }
            None if slot.kind == HOST => {
                let opened = keyring.open(provider.key_id, default_deadline());
                Some(opened.err().map(|error| error.to_string()))
            }
            None => None,
        };
        verified.push(VerifiedSlot {
            slot,
            opens: trouble.as_ref().map(Option::is_none),
            trouble: trouble.flatten(),
        });
    }
    Ok(verified)
}

/// After how long a slot is tried again though nobody needs it, in milliseconds: six hours.
pub(in crate::manage) const TRIED_EVERY: i64 = 6 * 60 * 60 * 1000;

/// For how long they are tried at once.
const TIME_TO_TRY: Duration = Duration::from_secs(60);

/// Opens the slots that nobody has opened for long, and records which open: a key manager that is gone is to be noticed
/// before its key is needed.
pub(in crate::manage) fn try_old(
    store: &mut Store,
    managers: &mut KeyManagers,
) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let is_old = |at: Timestamp| at.is_due(TRIED_EVERY, now);
    let deadline = Deadline::after(TIME_TO_TRY);
    let mut slots = store.slots()?;
    slots.sort_by_key(|slot| slot.verified_at);
    for slot in slots {
        if deadline.has_passed() {
            break;
        }
        if slot.verified_at.is_none_or(is_old)
            && let Some(why) = try_slot(store, managers, &slot)?
        {
            tracing::warn!(
                slot = slot.remote_key,
                kms = slot.kms,
                "does not open: {why}"
            );
        }
    }
    Ok(())
}

/// Opens one slot, and records it. Returns why it does not open.
fn try_slot(
    store: &mut Store,
    managers: &mut KeyManagers,
    slot: &Slot,
) -> Result<Option<String>, StoreError> {
    match open(managers, slot) {
        Ok(_) => {
            store.set_deadline(default_deadline())?;
            store.mark_slot_verified(slot.uuid, Timestamp::now())?;
            Ok(None)
        }
        Err(error) => Ok(Some(error.to_string())),
    }
}
