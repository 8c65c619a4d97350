//! A provider key that others announced becomes one that wraps new keys here.

use rusqlite::{ToSql, Transaction};

use super::super::error::Failure;
use super::super::many_rows::ManyRows;
use super::super::schema::{is_uuid, provider_uuid};
use super::super::{Store, StoreError, provider_rows, rotation};
use crate::clock::{Deadline, Timestamp};
use crate::key::id::KeyId;
use crate::verdict::facts::Provider;

impl Store {
    /// Gives a provider the key of an announced one, whose row goes; its own stays as a previous key. `Changed` if
    /// either is not as it was seen. A kill leaves the key promoted or not. A row that an exchange looked at just before, if one
    /// ran, opens with the previous key, and follows with the next rotation at the latest.
    pub fn promote_key(
        &mut self,
        provider: &Provider,
        announced: &Provider,
        key_version: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let as_seen = |transaction: &Transaction<'_>| -> Result<(), Failure> {
            let mut both = [provider, announced].into_iter();
            both.try_for_each(|seen| provider_rows::as_seen(transaction, seen))
        };
        self.read(as_seen)?;
        let patience = self.deadline.remaining();
        // What one transaction would do to thousands of rows comes before it, some at a time.
        let (from, to) = (announced.uuid.to_string(), provider.uuid.to_string());
        let rebound: [(&str, &dyn ToSql); 4] = [
            (":from", &from),
            (":to", &to),
            (":name", &provider.name),
            (":now", &now.0),
        ];
        self.write_some_at_a_time(&rebind(), &rebound)?;
        self.reconsider_keys(announced.key_id)?;
        self.write(|transaction| {
            as_seen(transaction)?;
            rebind().change(transaction, &rebound, None)?;
            provider_rows::delete(transaction, announced.uuid)?;
            let key = (announced.key_id, key_version);
            provider_rows::set_key(transaction, provider.uuid, key, now)?;
            if let Some(at) = announced.exported_at {
                provider_rows::set_exported(transaction, provider.uuid, at, now)?;
            }
            rotation::keep_previous(transaction, provider, now)
        })?;
        // An exchange, if one ran, may have looked at some of them just before that. All facts are looked through for
        // these: too much for the transaction, for which starts wait.
        self.set_deadline(Deadline::after(patience))?;
        if let Err(error) = self.reconsider_keys(announced.key_id) {
            // The provider has its key all the same, and the rows open.
            tracing::warn!(
                provider = provider.name,
                %error,
                "some key references may follow its new key with its next rotation only"
            );
        }
        Ok(())
    }

    /// Marks the known keys that a KEK wraps, so that the next exchange looks at their rows again: a provider has it now.
    pub(in crate::store) fn reconsider_keys(&mut self, key_id: KeyId) -> Result<(), StoreError> {
        let of_kek = ManyRows {
            table: "fleet_fact",
            condition: "kind = 'key' AND key_id = :key_id
                 AND NOT EXISTS (SELECT 1 FROM fleet_pending AS known WHERE known.id = fleet_fact.id)"
                .to_owned(),
            change: "INSERT OR IGNORE INTO fleet_pending (id) SELECT id FROM fleet_fact WHERE {}"
                .to_owned(),
        };
        self.write_some_at_a_time(&of_kek, &[(":key_id", &key_id.to_string())])
    }
}

/// Binds the key references of one provider to another.
fn rebind() -> ManyRows {
    ManyRows {
        table: "key_ref",
        condition: is_uuid("provider_uuid", ":from"),
        change: format!(
            "UPDATE OR ABORT key_ref SET provider_uuid = {}, provider_name = :name, updated_at = :now
             WHERE {{}}",
            provider_uuid(":to")
        ),
    }
}
