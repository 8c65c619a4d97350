//! What keeps swtpm from using a TPM state, whatever the key: its lock, and the way to it.

use std::time::Duration;

use super::context::Guard;
use super::status::is_running;
use crate::clock::Deadline;
use crate::domain::{Domain, Emulator, Vtpm};
use crate::host::poll;
use crate::swtpm::{
    LockHolder, LockProblem, StateFile, StatePath, closed_directory, lock_problem, read_state,
};
use crate::verdict::facts::Obstacle;
use crate::verdict::refusal::Refusal;

/// How long a start waits for a lock: at a restart, and at a restore right after a save, the TPM
/// emulator of the run before may not have ended yet.
pub(super) const FOR_THE_LOCK: Duration = Duration::from_millis(1500);

/// How often the lock is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

impl Guard {
    /// Why swtpm could not start from this guest's TPM state as it is, whatever the key.
    #[must_use]
    pub fn unusable_state(&self, domain: &Domain) -> Option<Refusal> {
        let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
            return None;
        };
        if let Some(hindrance) = look(self, domain, vtpm, Deadline::after(Duration::ZERO)) {
            return Some(Refusal::TpmObstructed(hindrance));
        }
        match read_state(&self.config.libvirt.tpm_states(), domain.uuid, vtpm) {
            StateFile::Damaged(how) => Some(Refusal::TpmStateDamaged { how }),
            _ => None,
        }
    }
}

/// Looks for what hinders swtpm. The lock is waited for until `patience` ends; where state is on
/// its way nobody asks for it, for the source of a migration holds it rightly.
pub(super) fn look(
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
    // A guest that runs holds its own.
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
