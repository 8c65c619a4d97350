//! What the store knows about a guest under another name: other guests with its secret or its
//! name, all keys that might be its TPM's, and where its TPM's state was seen.

use std::collections::BTreeSet;

use rusqlite::params;

use super::key_rows::{self, KeyRefRecord};
use super::schema::{KEYED, is_uuid};
use super::{Store, StoreError, columns, events};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, SecretUuid};

/// The condition that a row is one of a TPM, which all are: as a part of the index by guests.
const TPM: &str = "resource_type = 'tpm'";
/// The same beside the index by secrets, or by ids. The `+` keeps SQLite from the index by guests, in which this
/// alone selects every row.
const TPM_UNINDEXED: &str = "+resource_type = 'tpm'";

impl Store {
    /// When the guest's last start was allowed, as far as the store knows.
    pub fn last_start(&self, domain: DomainUuid) -> Result<Option<Timestamp>, StoreError> {
        let at: Option<i64> = self.read(|connection| {
            let sql = "SELECT max(at) FROM event
                       WHERE domain_uuid = ?1 AND operation = 'prepare' AND decision = 'allow'";
            Ok(connection.query_row(sql, [domain.to_string()], |row| row.get(0))?)
        })?;
        let seen = self.seen_state(domain)?.map(|seen| seen.at);
        Ok(at.map(Timestamp).max(seen))
    }

    /// Whether the guest has been on this host, as far as the store knows: a start was allowed, or
    /// an administrator's command changed something for it.
    pub fn is_known_here(&self, domain: DomainUuid) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM event
                                  WHERE domain_uuid = ?1 AND decision = 'allow')
                       OR EXISTS (SELECT 1 FROM seen_state WHERE domain_uuid = ?1)";
        self.read(|connection| {
            Ok(connection.query_row(sql, [domain.to_string()], |row| row.get(0))?)
        })
    }

    /// The name that a guest had last, as far as the store knows.
    pub fn last_name(&self, domain: DomainUuid) -> Result<Option<String>, StoreError> {
        if let Some(name) = self.read(|connection| events::last_name(connection, domain))? {
            return Ok(Some(name));
        }
        Ok(self.seen_state(domain)?.map(|seen| seen.domain_name))
    }

    /// Whether the guest has a key in use that it has run with.
    pub fn has_used_key(&self, domain: DomainUuid) -> Result<bool, StoreError> {
        let of_domain = format!("{TPM} AND {}", is_uuid("resource_uuid", "?1"));
        Ok(!self.used_keys(&of_domain, &domain.to_string())?.is_empty())
    }

    /// The guests with a used key for this secret, newest first.
    pub fn users_of_secret(&self, secret: SecretUuid) -> Result<Vec<DomainUuid>, StoreError> {
        let of_secret = format!("{TPM_UNINDEXED} AND {}", is_uuid("secret_uuid", "?1"));
        self.used_keys(&of_secret, &secret.to_string())
    }

    /// The guests with a used key that had this name last: the one that had it latest first.
    pub fn users_of_name(&self, name: &str) -> Result<Vec<DomainUuid>, StoreError> {
        let mut users = Vec::new();
        self.find_user_of_name(name, |user| {
            users.push(user);
            false
        })?;
        Ok(users)
    }

    /// The first of these guests that is wanted: with ten thousand short-lived guests of one name, the others are
    /// not looked at.
    pub fn find_user_of_name(
        &self,
        name: &str,
        mut is_wanted: impl FnMut(DomainUuid) -> bool,
    ) -> Result<Option<DomainUuid>, StoreError> {
        for guest in self.named_once(name)? {
            if self.last_name(guest)?.as_deref() == Some(name)
                && self.has_used_key(guest)?
                && is_wanted(guest)
            {
                return Ok(Some(guest));
            }
        }
        Ok(None)
    }

    /// The guests that ever had this name, the one that had it latest first. The history is short beside the keys of
    /// a large host, where the name of each key's guest is not to be asked for.
    fn named_once(&self, name: &str) -> Result<Vec<DomainUuid>, StoreError> {
        let sql = "SELECT domain_uuid FROM (
                       SELECT domain_uuid, at FROM event WHERE domain_name = ?1
                       UNION ALL SELECT domain_uuid, at FROM seen_state WHERE domain_name = ?1)
                   GROUP BY domain_uuid ORDER BY max(at) DESC";
        self.read(|connection| {
            let mut query = connection.prepare_cached(sql)?;
            let mut rows = query.query([name])?;
            let mut guests = Vec::new();
            while let Some(row) = rows.next()? {
                // Other tools write rows too: what is no UUID is no guest.
                let parse = |text: &str| DomainUuid::parse(text).ok();
                guests.extend(columns::parsed(row, "domain_uuid", parse)?);
            }
            Ok(guests)
        })
    }

    /// The keys of other guests that may open this one's TPM state, including retired ones, at most
    /// `limit`: first those for its secret, then those of guests that had its name, each group newest first; then
    /// those that were added last.
    pub fn candidate_keys(
        &self,
        domain: DomainUuid,
        secret: Option<SecretUuid>,
        name: &str,
        limit: usize,
    ) -> Result<Vec<KeyRefRecord>, StoreError> {
        let secret = secret.map(|secret| secret.to_string());
        let of_secret = is_uuid("secret_uuid", "?2");
        // The `+` keeps SQLite from the index by guests, for whose order it would fetch each event by itself.
        let had_the_name = "resource_uuid COLLATE NOCASE IN (
             WITH named AS MATERIALIZED (
                 SELECT domain_uuid FROM event WHERE domain_name = ?2
                 GROUP BY +domain_uuid ORDER BY max(at) DESC LIMIT ?3)
             SELECT domain_uuid FROM named UNION SELECT replace(domain_uuid, '-', '') FROM named)";
        // Each looks at few rows. Sorting all of them, by what their guests have in common with this one, takes
        // longer than a start has.
        let groups = [
            (
                format!("{TPM_UNINDEXED} AND {of_secret} ORDER BY updated_at DESC, id DESC"),
                secret,
            ),
            (
                format!("{TPM} AND {had_the_name} ORDER BY updated_at DESC, id DESC"),
                Some(name.to_owned()),
            ),
            (
                format!("{TPM_UNINDEXED} AND ?2 IS NULL ORDER BY id DESC"),
                None,
            ),
        ];
        let limit_in_sql = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut known = BTreeSet::new();
        let mut found = Vec::new();
        for (group, value) in groups {
            if found.len() >= limit {
                break;
            }
            let not_of_domain = is_uuid("resource_uuid", "?1");
            let condition = format!("{KEYED} AND NOT {not_of_domain} AND {group} LIMIT ?3");
            let rows = self.read(|connection| {
                let values = params![domain.to_string(), value, limit_in_sql];
                key_rows::select_in_order(connection, &condition, values)
            })?;
            let is_new = |row: &KeyRefRecord| known.insert(row.key_ref.id);
            found.extend(rows.into_iter().filter(is_new));
        }
        found.truncate(limit);
        Ok(found)
    }

    fn used_keys(&self, condition: &str, value: &str) -> Result<Vec<DomainUuid>, StoreError> {
        let condition = format!(
            "retired_at IS NULL AND {KEYED} AND first_used_at IS NOT NULL AND {condition}
             ORDER BY updated_at DESC, id DESC"
        );
        let rows =
            self.read(|connection| key_rows::select_in_order(connection, &condition, [value]))?;
        let mut known = BTreeSet::new();
        let domains = rows.into_iter().map(|row| row.domain);
        Ok(domains.filter(|domain| known.insert(*domain)).collect())
    }
}
