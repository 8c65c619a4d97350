//! The wrapped keys that `sync` has written into the metadata of guests.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Transaction, params};

use super::error::Failure;
use super::{Store, StoreError, columns};
use crate::clock::Timestamp;
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;

/// Of how many guests the keys are noted in one transaction: each may have several.
const GUESTS_AT_ONCE: usize = 100;

/// Wrapped keys, by guest.
pub type WrittenKeys = BTreeMap<DomainUuid, Vec<WrappedDek>>;

impl Store {
    /// The keys that this host has written, or was about to write.
    pub fn written_keys(&self) -> Result<WrittenKeys, StoreError> {
        self.read(|connection| {
            let sql = "SELECT domain_uuid, wrapped_dek FROM written_key ORDER BY rowid";
            let mut query = connection.prepare(sql)?;
            let mut rows = query.query([])?;
            let mut written = WrittenKeys::new();
            while let Some(row) = rows.next()? {
                let parse = |text: &str| DomainUuid::parse(text).ok();
                let domain = columns::parsed(row, "domain_uuid", parse)?;
                if let (Some(domain), Some(key)) = (domain, columns::bytes(row, "wrapped_dek")?) {
                    let keys = written.entry(domain).or_default();
                    keys.push(WrappedDek::from_stored(key));
                }
            }
            Ok(written)
        })
    }

    /// Records that these keys are about to be written: some at a time, for a start waits for each transaction.
    pub fn add_written_keys(
        &mut self,
        keys: &WrittenKeys,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let guests: Vec<_> = keys.iter().collect();
        for some in guests.chunks(GUESTS_AT_ONCE) {
            self.write(|transaction| {
                let sql = "INSERT OR IGNORE INTO written_key (domain_uuid, wrapped_dek, at)
                           VALUES (?1, ?2, ?3)";
                let mut insert = transaction.prepare(sql)?;
                for (domain, keys) in some {
                    for key in *keys {
                        insert.execute(params![domain.to_string(), key.as_bytes(), now.0])?;
                    }
                }
                Ok(())
            })?;
            Self::let_others_in();
        }
        Ok(())
    }

    /// Forgets the keys of these guests but for those given, which are what it has written there.
    pub fn keep_written_keys(&mut self, keys: &WrittenKeys) -> Result<(), StoreError> {
        let guests: Vec<_> = keys.iter().collect();
        for some in guests.chunks(GUESTS_AT_ONCE) {
            self.write(|transaction| {
                some.iter()
                    .try_for_each(|(domain, kept)| keep(transaction, **domain, kept))
            })?;
            Self::let_others_in();
        }
        Ok(())
    }

    /// The guests with a key reference that was changed at this time or later.
    pub fn domains_changed_since(
        &self,
        since: Timestamp,
    ) -> Result<BTreeSet<DomainUuid>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT DISTINCT resource_uuid FROM key_ref
                       WHERE resource_type = 'tpm' AND updated_at >= ?1";
            let mut query = connection.prepare(sql)?;
            let texts = query.query_map([since.0], |row| columns::text(row, "resource_uuid"))?;
            let texts = texts.collect::<Result<Vec<_>, _>>()?;
            let uuids = texts.iter().flatten();
            let uuids = uuids.filter_map(|text| DomainUuid::parse(text).ok());
            Ok(uuids.collect())
        })
    }
}

fn keep(
    transaction: &Transaction<'_>,
    domain: DomainUuid,
    kept: &[WrappedDek],
) -> Result<(), Failure> {
    let domain = domain.to_string();
    let sql = "SELECT wrapped_dek FROM written_key WHERE domain_uuid = ?1";
    let mut query = transaction.prepare(sql)?;
    let found = query.query_map([&domain], |row| row.get::<_, Vec<u8>>(0))?;
    for key in found.collect::<Result<Vec<_>, _>>()? {
        if kept.iter().all(|kept| kept.as_bytes() != key) {
            let sql = "DELETE FROM written_key WHERE domain_uuid = ?1 AND wrapped_dek = ?2";
            transaction.execute(sql, params![domain, key])?;
        }
    }
    Ok(())
}
