//! After a start that failed, libvirt deletes a transient guest's TPM state when the last hook has
//! returned; another host may use it, or start the guest next. So the hook starts a process that
//! waits for the deletion and restores the state: from hard links, or else from its saved copy.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::context::Guard;
use super::failed_start;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator};
use crate::host::crash;
use crate::host::dirs::StateDir;
use crate::host::path_error::PathError;
use crate::host::poll::poll;
use crate::ids::DomainUuid;
use crate::swtpm::{Backend, StatePath, is_used_elsewhere};
use crate::tpm_copies::{CopyError, CopyStore, HardLinks, LinksRestored, RunRecord, restore_copy};

#[cfg(test)]
mod tests;

/// How long libvirt may take to delete the state; it does so at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a state that is back is watched. Of a migration that fails when its guest's process ends
/// here, libvirt deletes the state twice: for the migration, and for the process.
const WATCH: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(10);

/// How long a start waits where the state was moved away for a deletion that is due at once; and then for
/// the process that is at its copies.
const PATIENCE_OF_START: Duration = Duration::from_secs(2);

/// The first arguments of that process. It has six arguments; libvirt's calls have four, whatever
/// the guest's name is.
const MARK: [&str; 2] = ["--restore-links", "--"];

/// Returns the arguments of the process that must be started for this guest, if any.
#[must_use]
pub fn arguments(guard: &Guard, domain: &Domain) -> Option<[OsString; 6]> {
    let (vtpm, _) = domain.encrypted_vtpm()?;
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    drop_stale(domain.uuid, &place, Timestamp::now());
    let is_protected = links_of(&place)?.exist();
    let copy_store = guard.copy_store(domain);
    let start = FailedStart(run_of(&copy_store).and_then(|run| run.started_at));
    (is_protected || start.copy(&copy_store).is_some()).then(|| {
        let [mark, end] = MARK.map(OsString::from);
        [
            mark,
            end,
            domain.uuid.to_string().into(),
            place.path.clone().into(),
            place.made_directories().to_string().into(),
            start.0.map_or_else(String::new, |at| at.to_string()).into(),
        ]
    })
}

/// Runs that process. Returns whether the arguments are its own.
pub fn run(state_dir: &StateDir, arguments: &[OsString]) -> bool {
    let [mark, end, what @ ..] = arguments else {
        return false;
    };
    let is_it = [mark, end] == MARK && what.len() == 4;
    if is_it {
        wait_and_restore(state_dir, what);
    }
    is_it
}

fn wait_and_restore(state_dir: &StateDir, what: &[OsString]) {
    let parsed = || {
        let [domain, path, directories, start] = what else {
            return None;
        };
        let domain = DomainUuid::parse(domain.to_str()?).ok()?;
        let directories = directories.to_str()?.parse().ok()?;
        // Only the linear format has none.
        let backend = match directories {
            0 => Backend::Linear,
            _ => Backend::Directory,
        };
        let place = StatePath::of_copy(Path::new(path), directories, backend);
        Some((domain, place, FailedStart(start.to_str()?.parse().ok())))
    };
    let Some((domain, place, start)) = parsed() else {
        return;
    };
    let links = links_of(&place);
    let own = links.as_ref().and_then(HardLinks::identity);
    let was_protected = links.is_some_and(|links| links.exist());
    let gone = poll(PAUSE, Deadline::after(PATIENCE), || {
        let restored = match links_of(&place) {
            Some(links) => attempt(domain, links.restore_and_keep()),
            None => LinksRestored::NoLinks,
        };
        let restored = match restored {
            LinksRestored::NoLinks if was_protected && is_there(&place) => {
                // The start that came next, here or on another host, was faster.
                LinksRestored::Restored
            }
            LinksRestored::NoLinks => attempt_copy(state_dir, domain, &place, start),
            restored => restored,
        };
        if restored == LinksRestored::Restored {
            start.forget(state_dir, domain, Deadline::after(PATIENCE));
        }
        (restored != LinksRestored::StillThere).then_some(restored)
    });
    match (gone, own) {
        (Some(LinksRestored::Restored), Some(own)) => watch(domain, &place, own),
        (Some(_), _) => {}
        // libvirt has not deleted it.
        (None, _) => give_up(domain, &place),
    }
}

/// Restores a state that another host goes on using again, however often libvirt deletes it. Then the
/// links are removed.
fn watch(domain: DomainUuid, place: &StatePath, own: (u64, u64)) {
    let Some(links) = links_of(place) else {
        return;
    };
    // The links have the lock, too: libvirt may be deleting the state once more at this moment.
    if is_used_elsewhere(&links.linked(place)) {
        poll(PAUSE, Deadline::after(WATCH), || {
            // A start that comes next takes them, or makes others, which another process waits with.
            let are_own = links.identity() == Some(own);
            let has_watched = crash::has_watched();
            if are_own {
                attempt(domain, links.restore_and_keep());
            }
            (!are_own || has_watched).then_some(())
        });
    }
    if let Err(error) = links.remove_own(own) {
        tracing::warn!(%domain, %error, "could not remove hard links to the TPM state");
    }
}

fn links_of(place: &StatePath) -> Option<HardLinks> {
    HardLinks::of(place).ok().flatten()
}

fn is_there(place: &StatePath) -> bool {
    place.path.symlink_metadata().is_ok()
}

fn give_up(domain: DomainUuid, place: &StatePath) {
    if let Some(Err(error)) = links_of(place).map(|links| links.give_up()) {
        tracing::warn!(%domain, %error, "could not restore the TPM state, which libvirt has not deleted");
    }
}

/// Restores the state before the guest's next start, in case that process has not done so yet.
/// Returns whether it did.
pub(super) fn before_start(
    guard: &Guard,
    domain: DomainUuid,
    vtpm: &Emulator,
    deadline: Deadline,
) -> bool {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain, vtpm);
    let Some(links) = links_of(&place).filter(HardLinks::exist) else {
        return false;
    };
    // Hard links to a state that is there are no reason to wait.
    let patience = match links.is_moved() {
        Ok(true) => PATIENCE_OF_START,
        _ => Duration::ZERO,
    };
    let restored = poll(PAUSE, deadline.at_most(patience), || {
        let restored = attempt(domain, links.restore());
        (restored != LinksRestored::StillThere).then_some(restored)
    });
    // They were there a moment ago: that process was faster, or NFS has done the rename and denies it.
    let is_back = match restored {
        Some(LinksRestored::Restored) => true,
        Some(LinksRestored::NoLinks) => !links.exist() && is_there(&place),
        Some(LinksRestored::StillThere) | None => false,
    };
    if is_back {
        let before = run_of(&CopyStore::of(&guard.state_dir, domain));
        let before = before.and_then(|run| run.started_at);
        // This start's own record is of no earlier one.
        if before != Some(guard.start_time.get().0) {
            let patience = deadline.at_most(PATIENCE_OF_START);
            FailedStart(before).forget(&guard.state_dir, domain, patience);
        }
    }
    if restored.is_none() && matches!(links.is_moved(), Ok(true)) {
        give_up(domain, &place);
        return is_there(&place);
    }
    is_back
}

/// `reset`: a state that a failed start has left in hard links is not to come back. A copy of it is
/// saved that no start restores. Returns whether there was one. While the state itself is there,
/// libvirt may be about to delete it: then the links stay, unless they are old.
pub fn set_aside(
    guard: &Guard,
    (domain, name): (DomainUuid, &str),
    vtpm: &Emulator,
) -> Result<bool, CopyError> {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain, vtpm);
    let links = HardLinks::of(&place).map_err(|source| CopyError::State {
        path: place.path.clone(),
        source,
    })?;
    let Some(links) = links.filter(HardLinks::exist) else {
        return Ok(false);
    };
    let at = || PathError::at(&place.path);
    if links.original_is_there() && !links.is_moved().map_err(at())? {
        drop_stale(domain, &place, Timestamp::now());
        return Ok(false);
    }
    // A kill from here on leaves what the next start would have made of the links.
    if links.restore().map_err(at())? == LinksRestored::StillThere {
        links.give_up().map_err(at())?;
    }
    failed_start::save_and_remove(guard, (domain, name), vtpm)
}

/// The guest runs: links that a killed process has left of an earlier failed start are of no use.
pub(super) fn after_start(guard: &Guard, domain: DomainUuid, vtpm: &Emulator, now: Timestamp) {
    let states = guard.config.libvirt.tpm_states();
    drop_stale(domain, &StatePath::of(&states, domain, vtpm), now);
}

fn drop_stale(domain: DomainUuid, place: &StatePath, now: Timestamp) {
    if let Some(Err(error)) = links_of(place).map(|links| links.remove_stale(now)) {
        tracing::warn!(%domain, %error, "could not remove old hard links to the TPM state");
    }
}

fn attempt(domain: DomainUuid, restored: io::Result<LinksRestored>) -> LinksRestored {
    restored.unwrap_or_else(|error| {
        tracing::warn!(%domain, %error, "could not restore the TPM state after libvirt deleted it");
        LinksRestored::NoLinks
    })
}

/// Restores the state from the copy of before the start: nothing else is left of it.
fn attempt_copy(
    state_dir: &StateDir,
    domain: DomainUuid,
    place: &StatePath,
    start: FailedStart,
) -> LinksRestored {
    let copy_store = CopyStore::of(state_dir, domain);
    let Some(name) = start.copy(&copy_store) else {
        return LinksRestored::NoLinks;
    };
    // All of it: what is written into a directory that libvirt deletes would go, too.
    if matches!(HardLinks::of(place), Ok(Some(links)) if links.original_is_there()) {
        return LinksRestored::StillThere;
    }
    let copies = copy_store.available_copies();
    let mut copies = copies.unwrap_or_default().0.into_iter();
    let Some(copy) = copies.find(|copy| copy.manifest.sha256() == name) else {
        return LinksRestored::NoLinks;
    };
    match restore_copy(&copy, None) {
        Ok(_) => LinksRestored::Restored,
        Err(error) => {
            tracing::warn!(%domain, %error, "could not restore the TPM state from its saved copy");
            LinksRestored::NoLinks
        }
    }
}

/// The record of the guest's last run, if it has one.
fn run_of(copy_store: &CopyStore) -> Option<RunRecord> {
    let exists = copy_store.exists();
    exists.then(|| copy_store.known_run()).flatten()
}

/// A start that has failed, by its time: what was saved for the next one is none of its concern.
#[derive(Debug, Clone, Copy)]
struct FailedStart(Option<i64>);

impl FailedStart {
    /// The copy of the state that it had.
    fn copy(self, copy_store: &CopyStore) -> Option<String> {
        let run = run_of(copy_store).filter(|run| run.started_at == self.0)?;
        run.state.filter(|_| run.starting && run.had_state)
    }

    /// Drops what was saved for it: its state is back, and the copy would replace a later one.
    fn forget(self, state_dir: &StateDir, domain: DomainUuid, deadline: Deadline) {
        let copy_store = CopyStore::of(state_dir, domain);
        if copy_store.exists()
            && let Err(error) = self.drop_from(&copy_store, deadline)
        {
            tracing::warn!(%domain, %error, "could not drop the saved copy of the TPM state");
        }
    }

    fn drop_from(self, copy_store: &CopyStore, deadline: Deadline) -> Result<(), CopyError> {
        let _exclusive = copy_store.exclusive(deadline)?;
        let run = copy_store.run()?;
        if run.started_at != self.0 {
            return Ok(());
        }
        if let Some(copy) = run.state {
            copy_store.drop_copy(&copy)?;
        }
        if run.outdated && copy_store.has_copies()? {
            return copy_store.write_run(RunRecord {
                outdated: true,
                ..RunRecord::default()
            });
        }
        copy_store.remove_run()?;
        copy_store.remove_if_empty()
    }
}
