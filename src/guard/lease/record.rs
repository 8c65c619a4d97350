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
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn holder(daemon: Option<Process>, since: i64) -> Holder {
        Holder {
            domain: String::new(),
            name: String::new(),
            daemon,
            since,
        }
    }

    /// This process, as a daemon that lives.
    fn living() -> Process {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, after_the_name) = stat.rsplit_once(") ").unwrap();
        let started = after_the_name.split(' ').nth(19).unwrap();
        Process {
            pid: std::process::id(),
            started: started.parse().unwrap(),
        }
    }

    #[test]
    fn a_time_that_cannot_be_is_no_start() {
        for since in [i64::MIN, i64::MAX] {
            assert!(!holder(None, since).is_starting(Timestamp::now()));
        }
    }

    #[test]
    fn a_start_whose_end_was_missed_is_over_after_ten_minutes_or_without_a_daemon_after_half_a_one()
    {
        for (daemon, limit) in [(Some(living()), 600_000), (None, 30_000)] {
            let begun = holder(daemon, 1_000_000);
            assert!(begun.is_starting(Timestamp(1_000_000 + limit - 1)));
            assert!(!begun.is_starting(Timestamp(1_000_000 + limit)));
        }
    }

    /// A lease that is taken for none may give libvirt the key of another guest.
    #[test]
    fn only_a_lease_that_is_not_there_lists_no_guest_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            read(&dir.path().join("missing"))
                .unwrap()
                .holders
                .is_empty()
        );
        assert!(read(dir.path()).is_err());
    }
}
