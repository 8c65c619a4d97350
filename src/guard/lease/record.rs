//! The file of a lease: who is being started with a secret, and a digest of the key.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::clock::Timestamp;
use crate::key::dek::Dek;
use crate::libvirt::Process;

/// How long a start may take while its daemon runs, if its end was missed because the hook was
/// killed at `started`. swtpm has read its key long before.
const LONGEST_START: Duration = Duration::from_secs(10 * 60);

/// The same for a start without a daemon: somebody calls the hook by hand.
const WITHOUT_DAEMON: Duration = Duration::from_secs(30);

/// A guest between `prepare` and `started` or `release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) domain: String,
    pub(super) name: String,
    /// The daemon that starts it; when it ends, so does the start.
    pub(super) daemon: Option<Process>,
    pub(super) since: i64,
}

impl Holder {
    /// Returns whether its start may still be in progress.
    pub(super) fn is_starting(&self, now: Timestamp) -> bool {
        let limit = match self.daemon {
            Some(daemon) if daemon.lives() => LONGEST_START,
            Some(_) => return false,
            None => WITHOUT_DAEMON,
        };
        // Whatever the file says, it is a time that a number can say.
        let age = u64::try_from(now.0.saturating_sub(self.since)).map(Duration::from_millis);
        age.is_ok_and(|age| age < limit)
    }
}

/// The content of a lease's file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// The key's digest, under `salt`.
    pub(super) salt: Vec<u8>,
    pub(super) digest: Vec<u8>,
    /// The guest in the secret's usage name.
    pub(super) defined_for: String,
    pub(super) holders: Vec<Holder>,
}

pub(super) fn digest(salt: &[u8], dek: &Dek) -> Vec<u8> {
    // HMAC accepts keys of any length.
    Hmac::<Sha256>::new_from_slice(salt)
        .map(|mac| {
            mac.chain_update(dek.expose())
                .finalize()
                .into_bytes()
                .to_vec()
        })
        .unwrap_or_default()
}

/// Reads the file; a missing or unreadable one lists no guest.
pub(super) fn read(path: &Path) -> io::Result<Record> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_cannot_be_is_no_start() {
        for since in [i64::MIN, i64::MAX] {
            let holder = Holder {
                domain: String::new(),
                name: String::new(),
                daemon: None,
                since,
            };
            assert!(!holder.is_starting(Timestamp::now()));
        }
    }
}
