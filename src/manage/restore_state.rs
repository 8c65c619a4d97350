//! `state restore`, `state show`: restores a saved copy of a guest's TPM state.

use serde::Serialize;

use super::copies::{JudgedCopy, ShownCopies};
use super::guests::{GuestError, GuestRef};
use super::host::{Host, default_deadline};
use crate::domain::{self, Vtpm};
use crate::tpm_copies::{CopyError, CopyRestored, RestoreError, restore_copy};

/// What `state restore` did.
#[derive(Debug, Serialize)]
pub(crate) struct RestoredState {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) copy: JudgedCopy,
    /// Whether these very bytes were not there already.
    pub(crate) changed: bool,
    #[serde(skip)]
    pub(crate) unreadable: Vec<CopyError>,
}

/// Why no copy was restored or shown. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopiesError {
    /// No guest was found, or the host failed.
    #[error(transparent)]
    Guest(GuestError),
    /// There is none.
    #[error("no saved copy")]
    None(GuestRef),
    /// The guest runs: it has its state.
    #[error("running")]
    Running(GuestRef),
    /// It could not be written in the state's place.
    #[error("{1}")]
    NotRestored(GuestRef, RestoreError),
}

impl<E: Into<GuestError>> From<E> for CopiesError {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

/// Restores the best copy of the guest that `text` names: one that its key opens before one that
/// it does not, one that is available before one that was set aside, the latest before the others.
pub(crate) fn restore(host: &Host, text: &str) -> Result<RestoredState, CopiesError> {
    let ShownCopies {
        guest,
        copies,
        unreadable,
    } = show(host, text)?;
    let worth = |judged: &JudgedCopy| (judged.opened, judged.copy.is_available());
    let best = copies.into_iter().rev().max_by_key(worth);
    let copy = best.ok_or_else(|| CopiesError::None(guest.clone()))?;
    // Without libvirt nothing can go wrong either: a guest that runs has its state.
    let known = host.libvirt().guest(guest.uuid, default_deadline());
    let known = known.ok().flatten();
    if known.as_ref().is_some_and(|known| known.running) {
        return Err(CopiesError::Running(guest));
    }
    let defined = known.and_then(|known| domain::read(known.xml.as_bytes()).ok());
    let states = host.libvirt_dirs().tpm_states();
    let start = match defined.as_ref().map(|defined| &defined.vtpm) {
        Some(Some(Vtpm::Emulator(vtpm))) => Some((states.as_path(), guest.uuid, vtpm)),
        _ => None,
    };
    let done = restore_copy(&copy.copy, start)
        .map_err(|error| CopiesError::NotRestored(guest.clone(), error))?;
    Ok(RestoredState {
        guest,
        copy,
        changed: done == CopyRestored::Written,
        unreadable,
    })
}

/// The copies of the guest that `text` names.
pub(crate) fn show(host: &Host, text: &str) -> Result<ShownCopies, CopiesError> {
    let guest = host.guest(text)?;
    let copies = host.copies_of(guest.uuid)?;
    if copies.judged.is_empty() {
        return Err(CopiesError::None(guest));
    }
    Ok(ShownCopies {
        guest,
        copies: copies.judged,
        unreadable: copies.unreadable,
    })
}
