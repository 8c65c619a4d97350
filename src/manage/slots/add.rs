//! `provider slot add`: one more way to a provider's key.

use serde::Serialize;

use super::{ListedSlot, SlotError, SlotSpec, make};
use crate::manage::host::{Host, default_deadline};
use crate::manage::providers::{ProviderRef, ProvidersLock};
use crate::store::Access;

/// What `provider slot add` made.
#[derive(Debug, Serialize)]
pub(crate) struct AddedSlot {
    pub(crate) provider: ProviderRef,
    #[serde(flatten)]
    pub(crate) slot: ListedSlot,
}

/// Lets a key manager wrap the key of the provider that `text` names. A slot for the same key of the same key
/// manager is made anew, as after that key was rotated.
pub(crate) fn add(
    host: &Host,
    text: &str,
    spec: &SlotSpec,
    label: Option<&str>,
) -> Result<AddedSlot, SlotError> {
    let mut managers = host.key_managers(&host.config()?);
    let (mut store, found) = host.provider(text, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    let kek = host.keyring().open(provider.key_id, default_deadline())?;
    let slot = make(&mut managers, spec, label.map(str::to_owned), &kek)?;
    store.set_deadline(default_deadline())?;
    let slot = store.add_slot(slot)?;
    Ok(AddedSlot {
        provider: (&provider).into(),
        slot: ListedSlot::from(&slot),
    })
}
