//! Locks on this program's own files (flock(2)). A lock ends when its file is closed, also by a
//! kill. swtpm's lock on a TPM state is of another kind: `swtpm/lock.rs`.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::clock::Deadline;
use crate::host::poll::poll;

/// How often a lock is tried that another process holds.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until nobody else holds the lock on an open file or directory, and takes it. An error
/// of kind `TimedOut`: somebody held it until the deadline.
pub fn lock(file: &File, deadline: Deadline) -> io::Result<()> {
    let locked = poll(PAUSE, deadline, || match file.try_lock() {
        Ok(()) => Some(Ok(())),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => None,
        Err(TryLockError::Error(error)) => Some(Err(error)),
    });
    locked.unwrap_or_else(|| Err(ErrorKind::TimedOut.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_until_the_deadline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = file.reopen().unwrap();
        let soon = || Deadline::after(Duration::from_millis(20));
        lock(&held, soon()).unwrap();
        let error = lock(file.as_file(), soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(held);
        lock(file.as_file(), soon()).unwrap();
    }
}
