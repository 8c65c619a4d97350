//! The key references that an earlier rotation of a provider missed, because it was interrupted, or because another tool
//! brought them back.

use crate::store::{KeyRefRecord, Store, StoreError};
use crate::verdict::facts::Provider;

/// Key references of a provider under a key that it has not got, or not any more.
#[derive(Debug)]
pub(crate) struct MissedRows {
    /// Who has that key: a previous key of the provider, or another provider.
    pub(crate) holder: Provider,
    pub(crate) rows: Vec<KeyRefRecord>,
}

/// What `provider rotate` re-wraps first with the present key of this provider.
pub(crate) fn missed_rows(
    store: &Store,
    provider: &Provider,
) -> Result<Vec<MissedRows>, StoreError> {
    let mut found = Vec::new();
    for holder in store.providers()? {
        if holder.key_id == provider.key_id {
            continue;
        }
        let mut rows = store.key_refs_under(holder.key_id)?;
        rows.retain(|row| is_missed(row, &holder, provider));
        if !rows.is_empty() {
            found.push(MissedRows { holder, rows });
        }
    }
    Ok(found)
}

/// Whether this row, whose key `holder` has, follows the provider: it is under a previous key of it, or names it. Not
/// one under a key that other hosts of a fleet announced: that may be the provider's next one.
pub(super) fn is_missed(row: &KeyRefRecord, holder: &Provider, provider: &Provider) -> bool {
    let names_it = row.key_ref.provider_uuid == Some(provider.uuid);
    is_previous(holder, provider) || (names_it && holder.announced_as().is_none())
}

/// Whether `holder` is a previous key of the provider.
pub(super) fn is_previous(holder: &Provider, provider: &Provider) -> bool {
    holder.previous_key_of() == Some(&provider.name)
}
