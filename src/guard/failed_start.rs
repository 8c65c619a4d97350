//! A start that the guard allowed and that failed: its event, and what happens to the TPM state
//! that it left.

use std::fs;
use std::path::Path;

use super::context::Guard;
use super::copies::{libvirt_would_delete, note_tpm_elsewhere};
use super::operation::Ending;
use super::start_note::StartNote;
use super::status::progress;
use super::{start_note, swtpm_log};
use crate::clock::Timestamp;
use crate::domain::{Domain, Emulator};
use crate::host::path_error::PathError;
use crate::ids::DomainUuid;
use crate::messages::Command;
use crate::store::{Event, Origin};
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyError, CopyStore, LiveState};

/// Returns the event of a start that has failed, at `stopped end`, or at `release end` with libvirt's
/// reason. Each is returned once.
pub(super) fn take(guard: &Guard, domain: &Domain, ending: Option<Ending>) -> Option<Event> {
    domain.encrypted_vtpm()?;
    let note = start_note::take_failed(guard, domain, progress(guard, domain), ending)?;
    Some(event(guard, domain, &note))
}

fn event(guard: &Guard, domain: &Domain, note: &StartNote) -> Event {
    let mut message = "the start failed after it was allowed".to_owned();
    if let Some(said) = swtpm_log::since(guard, domain, note.log_length) {
        message = format!("{message}; swtpm: {said}");
    }
    if note.awaits_state {
        match set_aside(guard, domain, note) {
            Ok(true) => {
                message = format!(
                    "{message}; the TPM state that it left is not the guest's, and is set aside; \
                     for details: {}",
                    Command::StateShow(domain.into())
                );
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(domain = domain.name, %error, "could not set aside a TPM state that is not the guest's");
            }
        }
    }
    tracing::warn!(domain = domain.name, %domain.uuid, message);
    let at = note.recorded().unwrap_or_else(Timestamp::now);
    Event::new(at, Origin::Stopped, domain.uuid, &domain.name, message)
}

/// Sets aside the TPM state of a start whose own state never arrived: libvirt has made a new TPM
/// for it (9.0 for a guest that is restored, 11.3 for one that migrates here) under the guest's
/// key, and the next start would take it for the guest's. A state that libvirt deletes itself is
/// not saved, for its start was not over; that the guest's TPM is elsewhere is noted where it is: with a migration
/// that failed, and not with a restore, after which the copy of its last run still is the latest. Returns whether a
/// state was set aside.
fn set_aside(guard: &Guard, domain: &Domain, note: &StartNote) -> Result<bool, CopyError> {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(false);
    };
    if libvirt_would_delete(guard, domain, vtpm) {
        if note.migrates {
            note_tpm_elsewhere(guard, domain)?;
        }
        return Ok(false);
    }
    save_and_remove(guard, (domain.uuid, &domain.name), vtpm)
}

/// Removes a state, of which a copy is saved that no start restores. Returns whether there was one.
pub(super) fn save_and_remove(
    guard: &Guard,
    (domain, name): (DomainUuid, &str),
    vtpm: &Emulator,
) -> Result<bool, CopyError> {
    let Some(original) = LiveState::read(&guard.config.libvirt.tpm_states(), domain, vtpm)? else {
        return Ok(false);
    };
    if !matches!(original.state(), StateFile::Encrypted(_) | StateFile::Plain) {
        return Ok(false);
    }
    let copy_store = CopyStore::of(&guard.state_dir, domain);
    copy_store.save_set_aside(&original, name, Timestamp::now())?;
    remove(original.path(), vtpm).map_err(PathError::at(original.path()))?;
    Ok(true)
}

/// Removes a state that was saved, and its directory if nothing else is in it: libvirt would take
/// an empty one for a TPM that is set up, and make none with certificates.
fn remove(path: &Path, vtpm: &Emulator) -> std::io::Result<()> {
    fs::remove_file(path)?;
    if let (None, Some(directory)) = (&vtpm.source, path.parent()) {
        // swtpm's lock, which nobody holds any more. Any other file keeps the directory.
        let _ = fs::remove_file(directory.join(".lock"));
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}
