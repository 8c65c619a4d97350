//! Provider keys that were deleted on this host: though others announce them, they are not opened again unasked.

use std::collections::BTreeSet;

use rusqlite::Transaction;

use super::super::error::Failure;
use super::super::{Store, StoreError};
use crate::key::id::KeyId;

impl Store {
    /// The provider keys that were deleted here since this host joined its fleet.
    pub fn declined_keys(&self) -> Result<BTreeSet<KeyId>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT key_id FROM fleet_declined")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            let mut keys = BTreeSet::new();
            for text in rows {
                keys.extend(KeyId::parse(&text?));
            }
            Ok(keys)
        })
    }
}

/// Records that a key was deleted here; nothing, where the host is in no fleet, or another provider has it.
pub(in crate::store) fn decline_key(
    transaction: &Transaction<'_>,
    key_id: KeyId,
) -> Result<(), Failure> {
    let sql = "INSERT OR IGNORE INTO fleet_declined (key_id) SELECT ?1 FROM fleet
               WHERE NOT EXISTS (SELECT 1 FROM key_provider WHERE key_id = ?1)";
    transaction.execute(sql, [key_id.to_string()])?;
    Ok(())
}

/// Records that a key is here, and wanted.
pub(in crate::store) fn accept_key(
    transaction: &Transaction<'_>,
    key_id: KeyId,
) -> Result<(), Failure> {
    let sql = "DELETE FROM fleet_declined WHERE key_id = ?1";
    transaction.execute(sql, [key_id.to_string()])?;
    Ok(())
}
