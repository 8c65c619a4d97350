//! When a copy of a TPM state is saved, restored and dropped.
//!
//! | when | what |
//! | --- | --- |
//! | `prepare` of a transient guest | its state is saved before anything can refuse the start |
//! | `prepare` that finds no state | a copy is restored: a repair of the verdict |
//! | `started` | the copies of the guest's own state are dropped, the run of a transient guest is marked |
//! | `release` after a start that failed | the state is protected from libvirt (`restore_links`), or else restored from its copy |
//! | `release` after a run | the state is saved, unless policy gives each run a new TPM |
//! | `release` of a transient guest, and another swtpm has the state | it is protected likewise |
//! | with `state.keep = "all"`: `started` of any guest | the copies stay, and are outdated |
//! | likewise, `release` after a run | the state is saved |
//! | with a configuration that could not be read: `started` of any guest | likewise: a default drops nothing |
//! | likewise, `release` after a run of a guest that has copies | the state is saved |
//! | `stopped` and `release` of a guest that has migrated away, or whose own state never arrived | no copy is saved |

use std::fs::File;
use std::time::Duration;

use crate::clock::Deadline;
use crate::domain::Domain;
use crate::tpm_copies::CopyStore;

mod after_run;
mod available;
mod before_start;
pub(super) mod managed_run;
mod opener;

pub(super) use after_run::{has_its_tpm_here, note_migration, note_tpm_elsewhere, save_after_run};
pub(super) use available::{AvailableCopies, available_copies, libvirt_would_delete};
pub(super) use before_start::{note_refusal, save_before_start};
pub(super) use opener::drop_after_start;

/// How long another process may be at the guest's copies.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes the guest's copies for this process alone. Should another one keep them for long, a start or the end of a run goes
/// on all the same.
fn exclusive(copy_store: &CopyStore, domain: &Domain, deadline: Deadline) -> Option<File> {
    let exclusive = copy_store.exclusive(deadline.at_most(PATIENCE));
    let exclusive = exclusive.inspect_err(|error| {
        tracing::warn!(domain = domain.name, %error, "another process is at the copies of its TPM state");
    });
    exclusive.ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::manage::tests::fixture::Fixture;

    #[test]
    fn of_two_processes_one_has_the_copies_and_the_other_goes_on_without() {
        let fixture = Fixture::new();
        let guest = fixture.guest_in_use("vm1");
        fixture.save_copy(&guest);
        let domain = fixture.domain(&guest);
        let copy_store = CopyStore::of(fixture.host.state_dir(), guest.uuid);
        let take = || {
            let soon = Deadline::after(Duration::from_millis(50));
            exclusive(&copy_store, &domain, soon)
        };
        let held = take();
        assert!(held.is_some() && take().is_none());
        drop(held);
        assert!(take().is_some());
    }
}
