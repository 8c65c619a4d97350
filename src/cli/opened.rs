//! The keys of a guest that open on this host, for the commands that need their bytes.

use super::context;
use crate::cli::ui::error::AdminError;
use crate::ids::DomainUuid;
use crate::key::dek::Dek;
use crate::key::wrap::{self, WrappedDek};
use crate::keyring::Keyring;
use crate::store::NewKey;
use crate::verdict::facts::{KeyRef, Provider};

/// A key reference, the provider whose key opens it, and the DEK that was in it.
pub(crate) struct OpenedKey {
    pub(crate) key_ref: KeyRef,
    pub(crate) provider: Provider,
    pub(crate) dek: Dek,
}

/// Those of a guest's key references that open; of the others `key show` tells why not.
pub(crate) fn opened_keys(
    keyring: &Keyring,
    rows: impl IntoIterator<Item = KeyRef>,
    providers: &[Provider],
    domain: DomainUuid,
) -> Vec<OpenedKey> {
    let open = |key_ref: KeyRef| {
        let wrapped = key_ref.wrapped_dek.as_ref()?;
        let key_id = wrapped.key_id().ok()?;
        let kek = keyring.open(key_id, context::patience()).ok()?;
        let dek = wrapped.unwrap(&kek, domain).ok()??;
        let mut holders = providers.iter().filter(|holder| holder.key_id == key_id);
        let named = |holder: &&Provider| Some(holder.uuid) == key_ref.provider_uuid;
        let provider = holders.clone().find(named).or_else(|| holders.next())?;
        Some(OpenedKey {
            provider: provider.clone(),
            key_ref,
            dek,
        })
    };
    rows.into_iter().filter_map(open).collect()
}

/// Wraps a DEK for a guest with a provider's key.
pub(crate) fn wrap_for(
    keyring: &Keyring,
    provider: &Provider,
    dek: &Dek,
    domain: DomainUuid,
) -> Result<NewKey, AdminError> {
    let kek = keyring.open(provider.key_id, context::patience())?;
    let wrapped_dek = WrappedDek::wrap(&kek, dek, domain).map_err(AdminError::failed)?;
    Ok(NewKey {
        wrapped_dek,
        key_id: provider.key_id,
        key_version: provider.key_version,
        algorithm: wrap::ALGORITHM,
    })
}
