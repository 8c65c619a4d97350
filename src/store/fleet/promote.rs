//! A provider key that others announced becomes one that wraps new keys here.

use rusqlite::{Transaction, params};

use super::super::error::Failure;
use super::super::schema::is_uuid;
use super::super::{Store, StoreError, provider_rows, rotation};
use crate::clock::Timestamp;
use crate::key::id::KeyId;
use crate::verdict::facts::Provider;

impl Store {
    /// Gives a provider the key of an announced one, whose row goes; its own stays as a previous key. `Changed` if
    /// either is not as it was seen.
    pub fn promote_key(
        &mut self,
        provider: &Provider,
        announced: &Provider,
        key_version: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            for seen in [provider, announced] {
                if provider_rows::by_uuid(transaction, seen.uuid)?.key_id != seen.key_id {
                    return Err(StoreError::Changed.into());
                }
            }
            rebind(transaction, announced, provider, now)?;
            provider_rows::delete(transaction, announced.uuid)?;
            let key = (announced.key_id, key_version);
            provider_rows::set_key(transaction, provider.uuid, key, now)?;
            rotation::keep_previous(transaction, provider, now)?;
            // Rows that hold the same keys under the previous one can follow now.
            reconsider(transaction, announced.key_id)
        })
    }
}

/// Has the rows looked at again that follow from known keys which this KEK wraps.
fn reconsider(transaction: &Transaction<'_>, key_id: KeyId) -> Result<(), Failure> {
    transaction.execute(
        "INSERT OR IGNORE INTO fleet_pending (id)
         SELECT id FROM fleet_fact WHERE kind = 'key' AND key_id = ?1",
        [key_id.to_string()],
    )?;
    Ok(())
}

/// Binds the key references of one provider to another.
fn rebind(
    transaction: &Transaction<'_>,
    from: &Provider,
    to: &Provider,
    now: Timestamp,
) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE OR ABORT key_ref SET provider_uuid = ?2, provider_name = ?3, updated_at = ?4
         WHERE {}",
        is_uuid("provider_uuid", "?1")
    );
    transaction.execute(
        &sql,
        params![from.uuid.to_string(), to.uuid.to_string(), to.name, now.0],
    )?;
    Ok(())
}
