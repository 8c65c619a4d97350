//! What other hosts said becomes rows of this one.

use rusqlite::{Transaction, params};

use super::super::error::Failure;
use super::super::key_rows::{self, NewRow, exactly_one};
use super::super::{RewrappedRow, Store, StoreError, provider_rows, rotation};
use super::facts::{self, KnownFact};
use super::{outbox, placements};
use crate::clock::Timestamp;
use crate::fleet::FactId;
use crate::fleet::claim::PlacementClaim;
use crate::ids::{DomainUuid, KeyRefId};
use crate::key::id::KeyId;
use crate::key::new_key::NewKey;
use crate::key::wrap::WrappedDek;
use crate::verdict::facts::Provider;

/// Facts of others, and the changes of rows that follow from them: made together, or not at all. Nothing is ever
/// deleted.
#[derive(Debug, Default)]
pub struct Merge {
    /// The facts, which have been verified.
    pub facts: Vec<KnownFact>,
    /// The keys of which they say something new; their rows are changed by a later merge.
    pub pending: Vec<FactId>,
    /// The keys whose rows are as the facts say, with this merge.
    pub settled: Vec<FactId>,
    /// Where guests are, which has been verified.
    pub placements: Vec<PlacementClaim>,
    /// The rows that change.
    pub rows: Vec<RowChange>,
    /// Keys of which this host says something else than the fleet: it is to be told.
    pub objections: Vec<(DomainUuid, WrappedDek)>,
    /// How far the shared store has been read with these facts, if it was read in order.
    pub cursor: Option<String>,
}

/// A change of one row.
#[derive(Debug)]
pub enum RowChange {
    /// A key that this guest did not have here.
    Add {
        /// The guest.
        domain: DomainUuid,
        /// The provider whose KEK wraps it.
        provider: Provider,
        /// The key.
        key: NewKey,
        /// Whether it is no candidate.
        is_retired: bool,
    },
    /// The same key, wrapped with the KEK that follows.
    Rewrap {
        /// The provider of the new KEK.
        provider: Provider,
        /// The row, and the key.
        row: RewrappedRow,
    },
    /// The key is a candidate no more, or again.
    Retire {
        /// The row.
        key_ref: KeyRefId,
        /// What it held when that was decided.
        seen: WrappedDek,
        /// Whether it is retired, or a candidate again.
        is_retired: bool,
    },
}

impl Store {
    /// The keys whose rows do not say yet what is known of them.
    pub fn pending_keys(&self) -> Result<Vec<FactId>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare("SELECT id FROM fleet_pending")?;
            let rows = query.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
            let mut keys = Vec::new();
            for bytes in rows {
                keys.extend(bytes?.try_into().ok().map(FactId));
            }
            Ok(keys)
        })
    }

    /// Makes these changes, which the fleet has said and need not be told. `Changed` if a row is not as it was
    /// seen.
    pub fn merge(&mut self, merge: &Merge, now: Timestamp) -> Result<(), StoreError> {
        self.write_quietly(|transaction| {
            for fact in &merge.facts {
                facts::insert(transaction, fact)?;
            }
            for (keys, sql) in [
                (
                    &merge.pending,
                    "INSERT OR IGNORE INTO fleet_pending (id) VALUES (?1)",
                ),
                (&merge.settled, "DELETE FROM fleet_pending WHERE id = ?1"),
            ] {
                let mut statement = transaction.prepare(sql)?;
                for key in keys {
                    statement.execute([key.0])?;
                }
            }
            for placement in &merge.placements {
                placements::put(transaction, placement)?;
            }
            for change in &merge.rows {
                apply(transaction, change, now)?;
            }
            for (domain, wrapped) in &merge.objections {
                outbox::note(transaction, *domain, Some(wrapped))?;
            }
            if let Some(cursor) = &merge.cursor {
                transaction.execute("UPDATE fleet SET cursor = ?1", [cursor])?;
            }
            Ok(())
        })
    }
}

fn apply(transaction: &Transaction<'_>, change: &RowChange, now: Timestamp) -> Result<(), Failure> {
    match change {
        RowChange::Add {
            domain,
            provider,
            key,
            is_retired,
        } => {
            // A start may have learnt it in the meantime.
            if key_rows::is_held(transaction, *domain, &key.wrapped_dek)? {
                return Err(StoreError::Changed.into());
            }
            let provider = with_key(transaction, provider, key.key_id)?;
            let row = NewRow {
                domain: *domain,
                provider: (provider.uuid, &provider.name),
                secret_uuid: None,
                key: Some(key),
                // It has been used, as far as anybody here can know: its TPM state is not to be made anew.
                first_used_at: Some(now),
                retired_at: is_retired.then_some(now),
                now,
            };
            key_rows::insert(transaction, &row)?;
        }
        RowChange::Rewrap { provider, row } => {
            let provider = with_key(transaction, provider, row.key.key_id)?;
            rotation::rewrap(transaction, &provider, std::slice::from_ref(row), now)?;
        }
        RowChange::Retire {
            key_ref,
            seen,
            is_retired,
        } => exactly_one(transaction.execute(
            "UPDATE OR ABORT key_ref SET retired_at = iif(?3, ?4, NULL), updated_at = ?4
             WHERE id = ?1 AND wrapped_dek = ?2",
            params![key_ref.0, seen.as_bytes(), is_retired, now.0],
        )?)?,
    }
    Ok(())
}

/// The provider as it is now, perhaps under another name. `Changed` if it is not there any more or has another KEK: what was
/// decided while it had this one would be wrapped by one that may be gone.
fn with_key(
    transaction: &Transaction<'_>,
    seen: &Provider,
    key_id: KeyId,
) -> Result<Provider, Failure> {
    let all = provider_rows::all(transaction)?.into_iter();
    let mut same = all.filter(|it| it.uuid == seen.uuid && it.key_id == key_id);
    same.next().ok_or_else(|| StoreError::Changed.into())
}
