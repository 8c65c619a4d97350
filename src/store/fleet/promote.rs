//! A provider key that others announced becomes one that wraps new keys here.

use rusqlite::ToSql;

use super::super::schema::{is_uuid, provider_uuid};
use super::super::{Store, StoreError, provider_rows, rotation};
use crate::clock::Timestamp;
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
        for seen in [provider, announced] {
            if self.provider_by_uuid(seen.uuid)?.key_id != seen.key_id {
                return Err(StoreError::Changed);
            }
        }
        // What one transaction would do to thousands of rows comes before it, some at a time.
        let (from, to) = (announced.uuid.to_string(), provider.uuid.to_string());
        let rebound: [(&str, &dyn ToSql); 4] = [
            (":from", &from),
            (":to", &to),
            (":name", &provider.name),
            (":now", &now.0),
        ];
        self.write_some_at_a_time(&rebind("LIMIT :most"), &rebound)?;
        let key_id = announced.key_id.to_string();
        self.write_some_at_a_time(&reconsider("LIMIT :most"), &[(":key_id", &key_id)])?;
        self.write(|transaction| {
            for seen in [provider, announced] {
                if provider_rows::by_uuid(transaction, seen.uuid)?.key_id != seen.key_id {
                    return Err(StoreError::Changed.into());
                }
            }
            transaction.execute(&rebind(""), &rebound)?;
            provider_rows::delete(transaction, announced.uuid)?;
            let key = (announced.key_id, key_version);
            provider_rows::set_key(transaction, provider.uuid, key, now)?;
            if let Some(at) = announced.exported_at {
                provider_rows::set_exported(transaction, provider.uuid, at, now)?;
            }
            rotation::keep_previous(transaction, provider, now)?;
            // Rows that hold the same keys under the previous one can follow now.
            transaction.execute(&reconsider(""), &[(":key_id", &key_id)])?;
            Ok(())
        })
    }
}

/// Has the rows looked at again that follow from known keys which a KEK wraps.
fn reconsider(limit: &str) -> String {
    format!(
        "INSERT OR IGNORE INTO fleet_pending (id)
         SELECT id FROM fleet_fact WHERE kind = 'key' AND key_id = :key_id
             AND NOT EXISTS (SELECT 1 FROM fleet_pending AS known WHERE known.id = fleet_fact.id) {limit}"
    )
}

/// Binds the key references of one provider to another.
fn rebind(limit: &str) -> String {
    format!(
        "UPDATE OR ABORT key_ref SET provider_uuid = {}, provider_name = :name, updated_at = :now
         WHERE id IN (SELECT id FROM key_ref WHERE {} {limit})",
        provider_uuid(":to"),
        is_uuid("provider_uuid", ":from")
    )
}
