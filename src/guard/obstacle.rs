//! What prevents swtpm from using a TPM state, whatever the key: its lock, or its directories.

use std::time::Duration;

use super::context::Guard;
use super::status::is_running;
use crate::clock::Deadline;
use crate::domain::{Domain, Emulator};
use crate::host::poll;
use crate::swtpm::{LockHolder, LockProblem, StatePath, closed_directory, lock_problem};
use crate::verdict::facts::Obstacle;

/// How long a start waits for a lock: at a restart, or a restore right after a save, the previous
/// TPM emulator may not have ended yet.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_millis(1500);

/// How often the lock is checked while waiting.
const PAUSE: Duration = Duration::from_millis(20);

/// Returns what prevents swtpm from using the state. Waits for the lock until `patience`. Callers
/// do not wait if a state arrives, since the source of a migration holds the lock rightly.
pub(super) fn find(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
    patience: Deadline,
) -> Option<Obstacle> {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    if let Some(closed) = closed_directory(&place, &guard.config.libvirt.qemu_conf()) {
        return Some(Obstacle::ClosedDirectory {
            path: closed.path.display().to_string(),
            mode: closed.mode,
            needed: closed.needed,
            user: closed.user,
        });
    }
    // A running guest holds its own lock.
    if is_running(guard, domain) {
        return None;
    }
    loop {
        let holder = match lock_problem(&place)? {
            LockProblem::Unusable { path, what } => {
                let path = path.display().to_string();
                return Some(Obstacle::BadLock { path, what });
            }
            LockProblem::Held(holder) => holder,
        };
        if !poll::wait(PAUSE, patience) {
            return Some(Obstacle::InUse {
                pid: match holder {
                    LockHolder::Process { pid, .. } => Some(pid),
                    LockHolder::Elsewhere | LockHolder::OpenFile => None,
                },
                holder: holder.to_string(),
            });
        }
    }
}
