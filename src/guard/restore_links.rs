//! After a refusal because of a transient guest's TPM state (VG207 to VG209), libvirt deletes that
//! state when the last hook has returned. So the hook starts a process that waits for the deletion
//! and restores the state from hard links.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::context::Guard;
use crate::clock::Deadline;
use crate::domain::{Domain, Emulator};
use crate::host::dirs::StateDir;
use crate::host::poll::poll;
use crate::ids::DomainUuid;
use crate::swtpm::{Backend, StatePath};
use crate::tpm_copies::{CopyStore, HardLinks, LinksRestored};

/// How long libvirt may take to delete the state; it does so at once.
const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(10);

/// The first arguments of that process. It has five arguments; libvirt's calls have four, whatever
/// the guest's name is.
const MARK: [&str; 2] = ["--restore-links", "--"];

/// Returns the arguments of the process that must be started for this guest, if any.
#[must_use]
pub fn arguments(guard: &Guard, domain: &Domain) -> Option<[OsString; 5]> {
    let (vtpm, _) = domain.encrypted_vtpm()?;
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let is_filled = HardLinks::of(&place).ok().flatten()?.exist();
    is_filled.then(|| {
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
    let gone = poll(PAUSE, Deadline::after(PATIENCE), || {
        (attempt(state_dir, domain, &place) != Some(LinksRestored::StillThere)).then_some(())
    });
    if gone.is_none()
        && let Ok(Some(shelter)) = HardLinks::of(&place)
    {
        // libvirt has not deleted it.
        let _ = shelter.remove();
    }
}

/// Restores the state before the guest's next start, in case that process has not done so yet.
pub(super) fn before_start(guard: &Guard, domain: DomainUuid, vtpm: &Emulator) {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain, vtpm);
    attempt(&guard.state_dir, domain, &place);
}

/// Restores the state if it is gone. Its saved copy is then dropped, or it would replace a later
/// state.
fn attempt(state_dir: &StateDir, domain: DomainUuid, place: &StatePath) -> Option<LinksRestored> {
    let shelter = HardLinks::of(place).ok().flatten()?;
    let returned = shelter.restore().unwrap_or_else(|error| {
        tracing::warn!(%domain, %error, "could not restore the TPM state after libvirt deleted it");
        LinksRestored::NoLinks
    });
    if returned == LinksRestored::Restored {
        let copy_store = CopyStore::of(state_dir, domain);
        let dropped = copy_store.run().and_then(|run| {
            if let Some(copy) = run.state {
                copy_store.drop_copy(&copy)?;
            }
            copy_store.remove_run()?;
            copy_store.remove_if_empty()
        });
        if let Err(error) = dropped {
            tracing::warn!(%domain, %error, "could not drop the saved copy of the TPM state");
        }
    }
    Some(returned)
}
