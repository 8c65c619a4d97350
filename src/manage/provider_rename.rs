//! `provider rename`.

use serde::Serialize;

use super::host::{Host, default_deadline};
use super::providers::{ProviderError, ProviderRef, ProvidersLock, check_name};
use crate::clock::Timestamp;
use crate::store::Access;

/// What `provider rename` did.
#[derive(Debug, Serialize)]
pub(crate) struct RenamedProvider {
    #[serde(flatten)]
    pub(crate) provider: ProviderRef,
    /// Whether it had another name.
    pub(crate) changed: bool,
    #[serde(skip)]
    pub(crate) old_name: String,
    /// Whether the configuration still binds new guests to the old name.
    #[serde(skip)]
    pub(crate) was_auto_bind: bool,
}

/// Gives the provider that `text` names another name.
pub(crate) fn rename(
    host: &Host,
    text: &str,
    new_name: &str,
) -> Result<RenamedProvider, ProviderError> {
    check_name(new_name)?;
    let (mut store, found) = host.provider(text, Access::Write)?;
    // A rotation names the key that it keeps after the provider.
    let _exclusive = ProvidersLock::acquire(host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    store.set_deadline(default_deadline())?;
    store.rename_provider(provider.uuid, new_name, Timestamp::now())?;
    Ok(RenamedProvider {
        provider: ProviderRef {
            name: new_name.to_owned(),
            uuid: provider.uuid,
        },
        changed: provider.name != new_name,
        was_auto_bind: provider.name != new_name && host.auto_binds_to(&provider.name),
        old_name: provider.name,
    })
}
