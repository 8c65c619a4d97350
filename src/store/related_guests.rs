//! What the store knows about a guest under another name: other guests with its secret or its
//! name, all keys that might be its TPM's, and where its TPM's state was seen.

use rusqlite::params;

use super::key_rows::{self, KeyRefRecord};
use super::schema::{KEYED, LIVE, is_uuid};
use super::{Store, StoreError, events};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, SecretUuid};

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
        let of_domain = is_uuid("resource_uuid", "?1");
        Ok(!self.used_keys(&of_domain, &domain.to_string())?.is_empty())
    }

    /// The guests with a used key for this secret, newest first.
    pub fn users_of_secret(&self, secret: SecretUuid) -> Result<Vec<DomainUuid>, StoreError> {
        self.used_keys(&is_uuid("secret_uuid", "?1"), &secret.to_string())
    }

    /// The guests with a used key that had this name last, newest first.
    pub fn users_of_name(&self, name: &str) -> Result<Vec<DomainUuid>, StoreError> {
        let had_it = "coalesce(
            (SELECT domain_name FROM event WHERE domain_uuid = resource_uuid
             ORDER BY at DESC, id DESC LIMIT 1),
            (SELECT domain_name FROM seen_state WHERE domain_uuid = resource_uuid)) = ?1";
        self.used_keys(had_it, name)
    }

    /// The keys of other guests that may open this one's TPM state, including retired ones, at most
    /// `limit`: first those for its secret, then those of guests that had its name, then the
    /// others; each group newest first.
    pub fn candidate_keys(
        &self,
        domain: DomainUuid,
        secret: Option<SecretUuid>,
        name: &str,
        limit: usize,
    ) -> Result<Vec<KeyRefRecord>, StoreError> {
        let of_domain = is_uuid("resource_uuid", "?1");
        let of_secret = is_uuid("secret_uuid", "?2");
        let condition = format!(
            "resource_type = 'tpm' AND {KEYED} AND NOT {of_domain}
             ORDER BY coalesce({of_secret}, FALSE) DESC,
                      EXISTS (SELECT 1 FROM event
                              WHERE domain_uuid = resource_uuid AND domain_name = ?3) DESC,
                      updated_at DESC, id DESC
             LIMIT ?4"
        );
        let secret = secret.map(|secret| secret.to_string());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(|connection| {
            let values = params![domain.to_string(), secret, name, limit];
            key_rows::select_in_order(connection, &condition, values)
        })
    }

    fn used_keys(&self, condition: &str, value: &str) -> Result<Vec<DomainUuid>, StoreError> {
        let condition = format!(
            "{LIVE} AND {KEYED} AND first_used_at IS NOT NULL AND {condition}
             ORDER BY updated_at DESC, id DESC"
        );
        let rows =
            self.read(|connection| key_rows::select_in_order(connection, &condition, [value]))?;
        let mut domains = Vec::new();
        for row in rows {
            if !domains.contains(&row.domain) {
                domains.push(row.domain);
            }
        }
        Ok(domains)
    }
}
