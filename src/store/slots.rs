//! Slots: the ways to a KEK through key managers.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, Transaction, params};

use super::error::Failure;
use super::key_rows::exactly_one;
use super::schema::is_uuid;
use super::{Store, StoreError, columns, provider_rows};
use crate::clock::Timestamp;
use crate::ids::SlotUuid;
use crate::key::id::KeyId;
use crate::verdict::facts::KmsSlots;

/// A row of `kek_slot`: a KEK, wrapped by a key manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its UUID.
    pub uuid: SlotUuid,
    /// The KEK.
    pub key_id: KeyId,
    /// The kind of the key manager.
    pub kind: String,
    /// What an administrator calls it.
    pub label: Option<String>,
    /// The section of the configuration that says where the key manager is.
    pub kms: String,
    /// The key manager's key.
    pub remote_key: String,
    /// The version of that key.
    pub remote_version: Option<String>,
    /// The wrapped KEK.
    pub blob: Vec<u8>,
    /// When it last opened.
    pub verified_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Store {
    /// All slots, the oldest first. A row that cannot be read is left out: nothing can be opened with it.
    pub fn slots(&self) -> Result<Vec<Slot>, StoreError> {
        self.read(|connection| all(connection))
    }

    /// Adds a slot. One of the same KEK, key manager and key is replaced, and keeps its UUID. Returns what is
    /// stored.
    pub fn add_slot(&mut self, slot: Slot) -> Result<Slot, StoreError> {
        self.write(|transaction| insert(transaction, slot))
    }

    /// Records that a slot has opened.
    pub fn mark_slot_verified(&mut self, slot: SlotUuid, now: Timestamp) -> Result<(), StoreError> {
        self.write(|transaction| {
            let is_it = is_uuid("slot_uuid", "?1");
            let sql = format!("UPDATE OR ABORT kek_slot SET verified_at = ?2 WHERE {is_it}");
            exactly_one(transaction.execute(&sql, params![slot.to_string(), now.0])?)
        })
    }

    /// Deletes a slot, unless the slots of its KEK have changed since `seen`: then `Changed`.
    pub fn delete_slot(&mut self, slot: &Slot, seen: &[Slot]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut now = all(transaction)?;
            now.retain(|it| it.key_id == slot.key_id);
            if now != seen {
                return Err(StoreError::Changed.into());
            }
            let sql = format!("DELETE FROM kek_slot WHERE {}", is_uuid("slot_uuid", "?1"));
            exactly_one(transaction.execute(&sql, [slot.uuid.to_string()])?)
        })
    }
}

/// Inserts a slot, or replaces the one of the same KEK, key manager and key.
pub(super) fn insert(transaction: &Transaction<'_>, mut slot: Slot) -> Result<Slot, Failure> {
    let same = all(transaction)?.into_iter().find(|it| {
        (it.key_id, &it.kms, &it.remote_key) == (slot.key_id, &slot.kms, &slot.remote_key)
    });
    if let Some(same) = same {
        slot.uuid = same.uuid;
        slot.label = slot.label.or(same.label);
    }
    exactly_one(transaction.execute(
        "INSERT OR REPLACE INTO kek_slot (slot_uuid, key_id, kind, label, kms, remote_key,
             remote_version, blob, verified_at, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            slot.uuid.to_string(),
            slot.key_id.to_string(),
            slot.kind,
            slot.label,
            slot.kms,
            slot.remote_key,
            slot.remote_version,
            slot.blob,
            slot.verified_at.map(|at| at.0),
            slot.created_at.0
        ],
    )?)?;
    Ok(slot)
}

/// Deletes the slots of a KEK whose provider is deleted, unless another provider has it.
pub(super) fn delete_unless_held(
    transaction: &Transaction<'_>,
    key_id: KeyId,
) -> Result<(), Failure> {
    let providers = provider_rows::all(transaction)?;
    if providers.iter().all(|other| other.key_id != key_id) {
        let sql = "DELETE FROM kek_slot WHERE key_id = ?1";
        transaction.execute(sql, [key_id.to_string()])?;
    }
    Ok(())
}

/// Which key managers open which KEK.
pub(super) fn by_key(connection: &Connection) -> Result<BTreeMap<KeyId, KmsSlots>, Failure> {
    let mut query = connection
        // Those that can be opened, as `all` has them.
        .prepare(
            "SELECT key_id, kms, verified_at FROM kek_slot
             WHERE length(CAST(blob AS BLOB)) > 0 AND remote_key <> ''
             ORDER BY created_at, slot_uuid",
        )?;
    let mut rows = query.query([])?;
    let mut slots = BTreeMap::<KeyId, KmsSlots>::new();
    while let Some(row) = rows.next()? {
        let key_id = columns::parsed(row, "key_id", KeyId::parse)?;
        let (Some(key_id), Some(kms)) = (key_id, columns::full_text(row, "kms")?) else {
            continue;
        };
        let slots = slots.entry(key_id).or_default();
        slots.opened_at = slots.opened_at.max(columns::time(row, "verified_at")?);
        if !slots.names.contains(&kms) {
            slots.names.push(kms);
        }
    }
    Ok(slots)
}

fn all(connection: &Connection) -> Result<Vec<Slot>, Failure> {
    let mut query = connection.prepare(
        "SELECT slot_uuid, key_id, kind, label, kms, remote_key, remote_version, blob, verified_at,
                created_at
         FROM kek_slot ORDER BY created_at, slot_uuid",
    )?;
    let rows = query.query_map([], slot)?;
    Ok(rows
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?)
}

/// A slot; `None` where what it needs to open cannot be read.
fn slot(row: &Row<'_>) -> rusqlite::Result<Option<Slot>> {
    let uuid = columns::parsed(row, "slot_uuid", |text| SlotUuid::parse(text).ok())?;
    let key_id = columns::parsed(row, "key_id", KeyId::parse)?;
    let (Some(uuid), Some(key_id), Some(kms), Some(remote_key), Some(blob)) = (
        uuid,
        key_id,
        columns::full_text(row, "kms")?,
        columns::full_text(row, "remote_key")?,
        columns::bytes(row, "blob")?,
    ) else {
        let kms = columns::text(row, "kms")?.unwrap_or_default();
        let remote_key = columns::text(row, "remote_key")?.unwrap_or_default();
        tracing::warn!(
            kms,
            key = remote_key,
            "a slot in the store is ignored: it cannot be read"
        );
        return Ok(None);
    };
    Ok(Some(Slot {
        uuid,
        key_id,
        kind: columns::text(row, "kind")?.unwrap_or_default(),
        label: columns::full_text(row, "label")?,
        kms,
        remote_key,
        remote_version: columns::full_text(row, "remote_version")?,
        blob,
        verified_at: columns::time(row, "verified_at")?,
        created_at: columns::time(row, "created_at")?.unwrap_or(Timestamp(0)),
    }))
}
