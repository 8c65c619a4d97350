//! After a refusal for what is wrong with a transient guest's TPM state (VG207 to VG209): libvirt
//! deletes that state when the last hook has returned. So the hook leaves a process behind that
//! waits for it and puts the state back.

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

/// The first arguments of the process that is left behind. With those that follow it has five;
/// libvirt's calls have four, whatever the guest's name is.
const MARK: [&str; 2] = ["--restore-links", "--"];

/// The arguments of the process that must be left behind for this guest, if one must.
#[must_use]
pub fn arguments(guard: &Guard, domain: &Domain) -> Option<[OsString; 5]> {
    let (vtpm, _) = domain.encrypted_vtpm()?;
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let is_filled = HardLinks::of(&place).ok().flatten()?.exist();
    is_filled.then(|| {
        let directories = place.directories_below().len() + 1;
        let [mark, end] = MARK.map(OsString::from);
        [
            mark,
            end,
            domain.uuid.to_string().into(),
            place.path.clone().into(),
            directories.to_string().into(),
        ]
    })
}

/// What that process does. Says whether this is it.
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
        let place = StatePath::of_copy(Path::new(path), directories, Backend::Directory);
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
        // libvirt keeps it after all.
        let _ = shelter.remove();
    }
}

/// Where that process has not come to it yet: before the guest's next start.
pub(super) fn before_start(guard: &Guard, domain: DomainUuid, vtpm: &Emulator) {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain, vtpm);
    attempt(&guard.state_dir, domain, &place);
}

/// Brings the state back, if it is gone. The copy of it is of no more use then; left there, it
/// would take the place of a later state.
fn attempt(state_dir: &StateDir, domain: DomainUuid, place: &StatePath) -> Option<LinksRestored> {
    let shelter = HardLinks::of(place).ok().flatten()?;
    let returned = shelter.restore().unwrap_or_else(|error| {
        tracing::warn!(%domain, %error, "the TPM's state cannot be put back after libvirt deleted it");
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
            tracing::warn!(%domain, %error, "the copy of the TPM's state was not dropped");
        }
    }
    Some(returned)
}
