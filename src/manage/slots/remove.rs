//! `provider slot remove`: one way less to a provider's key, and never the last one that opens it.

use serde::Serialize;

use super::list::{HOST, RECOVERY};
use super::{ListedSlot, SlotError, open};
use crate::ids::SlotUuid;
use crate::keyring::{KekPlace, Keyring, KeyringError};
use crate::manage::host::{Host, default_deadline};
use crate::manage::providers::{ProviderRef, ProvidersLock};
use crate::store::{Access, Slot};
use crate::verdict::facts::Provider;

/// What `provider slot remove` removed.
#[derive(Debug, Serialize)]
pub(crate) struct RemovedSlot {
    pub(crate) provider: ProviderRef,
    #[serde(flatten)]
    pub(crate) slot: ListedSlot,
}

/// Removes a slot of the provider that `text` names: by its UUID, its label, or KMS:REMOTE-KEY. The key manager is
/// not asked: its key stays there.
pub(crate) fn remove(host: &Host, text: &str, named: &str) -> Result<RemovedSlot, SlotError> {
    let (mut store, found) = host.provider(text, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    let reference = || ProviderRef::from(&provider);
    let mut slots = store.slots()?;
    slots.retain(|slot| slot.key_id == provider.key_id);
    let mut chosen = slots.iter().filter(|slot| is_named(slot, named));
    let slot = match (chosen.next(), chosen.next()) {
        (Some(slot), None) => slot,
        (Some(_), Some(_)) => return Err(SlotError::Ambiguous(reference(), named.to_owned())),
        (None, _) if named == HOST => return Err(SlotError::NotRemovable(reference(), HOST)),
        (None, _) if named == RECOVERY => {
            return Err(SlotError::NotRemovable(reference(), RECOVERY));
        }
        (None, _) => return Err(SlotError::NoSlot(reference(), named.to_owned())),
    };
    // What was verified once may be gone by now: another way has to open at this moment.
    let mut others = slots.iter().filter(|other| other.uuid != slot.uuid);
    let mut managers = host.key_managers(&host.config()?);
    if let Err(sealed) = opens_after_a_reboot(&host.keyring(), &provider) {
        let mut reasons: Vec<_> = sealed.into_iter().collect();
        let mut opens = |other: &Slot| {
            let opened = open(&mut managers, other);
            opened
                .map_err(|error| reasons.push(error.to_string()))
                .is_ok()
        };
        if !others.any(&mut opens) {
            return Err(SlotError::Last(reference(), reasons));
        }
    }
    store.set_deadline(default_deadline())?;
    store.delete_slot(slot, &slots)?;
    Ok(RemovedSlot {
        slot: slot.into(),
        provider: reference(),
    })
}

fn is_named(slot: &Slot, text: &str) -> bool {
    SlotUuid::parse(text).is_ok_and(|uuid| uuid == slot.uuid)
        || slot.label.as_deref() == Some(text)
        || format!("{}:{}", slot.kms, slot.remote_key) == text
}

/// Whether the key is sealed on this host's disk, and opens; or why it does not, where it is there.
fn opens_after_a_reboot(keyring: &Keyring, provider: &Provider) -> Result<(), Option<String>> {
    match keyring.place(provider.key_id) {
        Ok(KekPlace::Disk) => {}
        Ok(_) | Err(KeyringError::Missing(_)) => return Err(None),
        Err(error) => return Err(Some(error.to_string())),
    }
    let opened = keyring.open(provider.key_id, default_deadline());
    opened.map_err(|error| Some(error.to_string()))?;
    Ok(())
}
