//! After a start that failed, libvirt deletes a transient guest's TPM state when the last hook has
//! returned; another host may use it, or start the guest next. So the hook starts a process that
//! waits for the deletion and restores the state: from hard links, or else from its saved copy.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::context::Guard;
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator};
use crate::host::dirs::StateDir;
use crate::host::poll::poll;
use crate::ids::DomainUuid;
use crate::swtpm::{Backend, StatePath};
use crate::tpm_copies::{CopyStore, HardLinks, LinksRestored, RunRecord, restore_copy};

/// How long libvirt may take to delete the state; it does so at once.
const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(10);

/// How long a start waits where the state was moved away for a deletion that is due at once.
const PATIENCE_OF_START: Duration = Duration::from_secs(2);

/// The first arguments of that process. It has five arguments; libvirt's calls have four, whatever
/// the guest's name is.
const MARK: [&str; 2] = ["--restore-links", "--"];

/// Returns the arguments of the process that must be started for this guest, if any.
#[must_use]
pub fn arguments(guard: &Guard, domain: &Domain) -> Option<[OsString; 5]> {
    let (vtpm, _) = domain.encrypted_vtpm()?;
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    drop_stale(domain.uuid, &place);
    let is_protected = HardLinks::of(&place).ok().flatten()?.exist();
    (is_protected || copy_of_failed_start(&guard.copy_store(domain)).is_some()).then(|| {
        let [mark, end] = MARK.map(OsString::from);
        [
            mark,
            end,
            domain.uuid.to_string().into(),
            place.path.clone().into(),
            place.made_directories().to_string().into(),
        ]
    })
}

/// Runs that process. Returns whether the arguments are its own.
pub fn run(state_dir: &StateDir, arguments: &[OsString]) -> bool {
    let [mark, end, what @ ..] = arguments else {
        return false;
    };
    let is_it = [mark, end] == MARK && what.len() == 3;
    if is_it {
        wait_and_restore(state_dir, what);
    }
    is_it
}

fn wait_and_restore(state_dir: &StateDir, what: &[OsString]) {
    let parsed = || {
        let [domain, path, directories] = what else {
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
        Some((domain, place))
    };
    let Some((domain, place)) = parsed() else {
        return;
    };
    let is_protected = || matches!(HardLinks::of(&place), Ok(Some(links)) if links.exist());
    let was_protected = is_protected();
    let gone = poll(PAUSE, Deadline::after(PATIENCE), || {
        let restored = match HardLinks::of(&place) {
            Ok(Some(links)) => attempt_links(state_dir, domain, &links),
            _ => LinksRestored::NoLinks,
        };
        let restored = match restored {
            LinksRestored::NoLinks if was_protected && is_there(&place) => {
                // The start that came next, here or on another host, was faster.
                forget_start(state_dir, domain);
                LinksRestored::Restored
            }
            LinksRestored::NoLinks => attempt_copy(state_dir, domain, &place),
            restored => restored,
        };
        (restored != LinksRestored::StillThere).then_some(())
    });
    if gone.is_none() {
        // libvirt has not deleted it.
        give_up(domain, &place);
    }
}

fn is_there(place: &StatePath) -> bool {
    place.path.symlink_metadata().is_ok()
}

fn give_up(domain: DomainUuid, place: &StatePath) {
    let shelter = HardLinks::of(place).ok().flatten();
    if let Some(Err(error)) = shelter.map(|shelter| shelter.give_up()) {
        tracing::warn!(%domain, %error, "could not restore the TPM state, which libvirt has not deleted");
    }
}

/// Restores the state before the guest's next start, in case that process has not done so yet.
/// Returns whether it did.
pub(super) fn before_start(guard: &Guard, domain: DomainUuid, vtpm: &Emulator) -> bool {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain, vtpm);
    let links = match HardLinks::of(&place) {
        Ok(Some(links)) if links.exist() => links,
        _ => return false,
    };
    // Hard links to a state that is there are no reason to wait.
    let patience = match links.is_moved() {
        Ok(true) => PATIENCE_OF_START,
        _ => Duration::ZERO,
    };
    let restored = poll(PAUSE, Deadline::after(patience), || {
        let restored = attempt_links(&guard.state_dir, domain, &links);
        (restored != LinksRestored::StillThere).then_some(restored)
    });
    if restored.is_none() && matches!(links.is_moved(), Ok(true)) {
        give_up(domain, &place);
        return is_there(&place);
    }
    restored == Some(LinksRestored::Restored)
}

/// The guest runs: links that a killed process has left of an earlier failed start are of no use.
pub(super) fn after_start(guard: &Guard, domain: DomainUuid, vtpm: &Emulator) {
    let states = guard.config.libvirt.tpm_states();
    drop_stale(domain, &StatePath::of(&states, domain, vtpm));
}

fn drop_stale(domain: DomainUuid, place: &StatePath) {
    let links = HardLinks::of(place).ok().flatten();
    if let Some(Err(error)) = links.map(|links| links.remove_stale(Timestamp::now())) {
        tracing::warn!(%domain, %error, "could not remove old hard links to the TPM state");
    }
}

fn attempt_links(state_dir: &StateDir, domain: DomainUuid, shelter: &HardLinks) -> LinksRestored {
    let restored = shelter.restore().unwrap_or_else(|error| {
        tracing::warn!(%domain, %error, "could not restore the TPM state after libvirt deleted it");
        LinksRestored::NoLinks
    });
    if restored == LinksRestored::Restored {
        forget_start(state_dir, domain);
    }
    restored
}

/// Restores the state from the copy of before the start: nothing else is left of it.
fn attempt_copy(state_dir: &StateDir, domain: DomainUuid, place: &StatePath) -> LinksRestored {
    let copy_store = CopyStore::of(state_dir, domain);
    let Some(name) = copy_of_failed_start(&copy_store) else {
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
        Ok(_) => {
            forget_start(state_dir, domain);
            LinksRestored::Restored
        }
        Err(error) => {
            tracing::warn!(%domain, %error, "could not restore the TPM state from its saved copy");
            LinksRestored::NoLinks
        }
    }
}

/// The copy of the state that a start had which has failed.
fn copy_of_failed_start(copy_store: &CopyStore) -> Option<String> {
    if !copy_store.exists() {
        return None;
    }
    let run = copy_store.run().ok()?;
    run.state.filter(|_| run.starting && run.had_state)
}

/// Drops what was saved for a start whose state is back, or it would replace a later one.
fn forget_start(state_dir: &StateDir, domain: DomainUuid) {
    let copy_store = CopyStore::of(state_dir, domain);
    if !copy_store.exists() {
        return;
    }
    let dropped = copy_store.run().and_then(|run| {
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
    });
    if let Err(error) = dropped {
        tracing::warn!(%domain, %error, "could not drop the saved copy of the TPM state");
    }
}
