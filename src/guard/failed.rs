//! A start that the guard let pass, and that failed: what history says of it, and what becomes of
//! the TPM state that it left.

use std::fs;
use std::path::Path;

use super::begun::{self, Begun};
use super::operation::Ending;
use super::status::progress;
use super::{Guard, copies};
use crate::clock::Timestamp;
use crate::domain::{Domain, Emulator};
use crate::host::path_error::PathError;
use crate::messages::Command;
use crate::store::{Event, Origin};
use crate::swtpm::StateFile;
use crate::tpm_copies::{CopyError, LiveState};

/// Looks whether a start has failed, at `stopped end`, or at `release end` with libvirt's reason.
/// Gives the event that tells of it.
pub(super) fn look(guard: &Guard, domain: &Domain, ending: Option<Ending>) -> Option<Event> {
    domain.encrypted_vtpm()?;
    let begun = begun::take_failed(guard, domain, progress(guard, domain), ending)?;
    Some(event(guard, domain, &begun))
}

fn event(guard: &Guard, domain: &Domain, begun: &Begun) -> Event {
    let mut message = "the start failed after it was allowed".to_owned();
    if let Some(said) = begun::log_since(guard, domain, begun) {
        message = format!("{message}; swtpm: {said}");
    }
    if begun.awaits_state {
        match set_aside(guard, domain) {
            Ok(true) => {
                message = format!(
                    "{message}; the TPM state that it left is not the guest's, and is set aside; \
                     for details: {}",
                    Command::StateShow(domain.into())
                );
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(domain = domain.name, %error, "a TPM state that is not the guest's stays");
            }
        }
    }
    tracing::warn!(domain = domain.name, %domain.uuid, message);
    let now = Timestamp::now();
    Event::new(now, Origin::Stopped, domain.uuid, &domain.name, message)
}

/// Sets the TPM state aside that a start left whose own never arrived: libvirt has made a TPM for
/// it (9.0 for a guest that is restored, 11.3 for one that migrates here), under the guest's
/// key, and the next start would take it for the guest's. What libvirt deletes itself is only not
/// kept.
fn set_aside(guard: &Guard, domain: &Domain) -> Result<bool, CopyError> {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(false);
    };
    if copies::libvirt_would_delete(guard, domain, vtpm) {
        copies::note_tpm_elsewhere(guard, domain)?;
        return Ok(false);
    }
    let Some(original) = LiveState::read(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm)?
    else {
        return Ok(false);
    };
    if !matches!(original.state(), StateFile::Encrypted(_) | StateFile::Plain) {
        return Ok(false);
    }
    let now = Timestamp::now();
    guard
        .copy_store(domain)
        .save_set_aside(&original, &domain.name, now)?;
    remove(original.path(), vtpm).map_err(PathError::at(original.path()))?;
    Ok(true)
}

/// Removes a state of which a copy is kept, and the directory that it was alone in: where that is
/// left, libvirt takes it for a made TPM, and makes none with certificates.
fn remove(path: &Path, vtpm: &Emulator) -> std::io::Result<()> {
    fs::remove_file(path)?;
    if let (None, Some(directory)) = (&vtpm.source, path.parent()) {
        // swtpm's lock, which nobody holds any more. What else is there keeps the directory.
        let _ = fs::remove_file(directory.join(".lock"));
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}
