//! `state restore`, `state show`: restores a saved copy of a guest's TPM state.

use std::cmp::Reverse;

use serde::Serialize;

use super::copies::{Copies, JudgedCopy, NamedCopy, ShownCopies};
use super::guests::{GuestError, GuestRef};
use super::host::{Host, default_deadline};
use crate::tpm_copies::{CopyError, CopyRestored, RestoreError, restore_copy, sort_latest_first};

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
    /// Why the fleet's store was not heard, if there is one.
    #[serde(skip)]
    pub(crate) fleet_silent: Option<String>,
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
    /// There is none on this host, and the fleet's store did not answer.
    #[error("no saved copy, and the fleet's store did not answer: {1}")]
    FleetSilent(GuestRef, String),
    /// None is named so.
    #[error("no such copy: {1}")]
    NoSuchCopy(GuestRef, String),
    /// Several are, or it has too few digits.
    #[error("several copies: {1}")]
    Ambiguous(GuestRef, String),
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
/// it does not, one that is available before one that was set aside, the latest before the others; or the one that
/// is named. Those of the fleet's store are among them.
pub(crate) fn restore(
    host: &Host,
    text: &str,
    named: Option<&str>,
) -> Result<RestoredState, CopiesError> {
    let guest = host.guest(text)?;
    let Copies {
        judged,
        mut unreadable,
    } = host.copies_of(guest.uuid)?;
    let mut copies: Vec<_> = judged.into_iter().map(|copy| (None, copy)).collect();
    let fleet_silent = match host.copies_in_fleet(guest.uuid)? {
        Ok(found) => {
            copies.extend(found.into_iter().map(|(id, copy)| (Some(id), copy)));
            None
        }
        Err(why) => Some(why),
    };
    if let Some(digits) = named {
        copies.retain(|(id, copy)| {
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            copy.sha256.starts_with(digits) || id.starts_with(digits)
        });
        let found = copies.iter().map(|(_, copy)| copy);
        if NamedCopy::of(digits, found) == NamedCopy::Ambiguous {
            return Err(CopiesError::Ambiguous(guest, digits.to_owned()));
        }
    }
    let worth = |judged: &JudgedCopy| (judged.opened, judged.copy.is_available());
    sort_latest_first(&mut copies, |(_, judged)| &judged.copy);
    copies.sort_by_key(|(_, judged)| Reverse(worth(judged)));
    let Some((_, copy)) = copies.into_iter().next() else {
        return Err(match (named, fleet_silent) {
            // It may be the one that is looked for.
            _ if !unreadable.is_empty() => unreadable.remove(0).into(),
            (_, Some(why)) => CopiesError::FleetSilent(guest, why),
            (Some(digits), None) => CopiesError::NoSuchCopy(guest, digits.to_owned()),
            (None, None) => CopiesError::None(guest),
        });
    };
    // Without libvirt nothing can go wrong either: a guest that runs has its state.
    let known = host.libvirt().guest(guest.uuid, default_deadline());
    if matches!(&known, Ok(Some(known)) if known.running) {
        return Err(CopiesError::Running(guest));
    }
    let states = host.configured_libvirt_dirs()?.tpm_states();
    let definition = host.definition_by(&known, guest.uuid);
    let start = definition.as_ref();
    let start = start.map(|(_, vtpm)| (states.as_path(), guest.uuid, vtpm));
    let done = restore_copy(&copy.copy, start)
        .map_err(|error| CopiesError::NotRestored(guest.clone(), error))?;
    Ok(RestoredState {
        guest,
        copy,
        changed: done == CopyRestored::Written,
        unreadable,
        fleet_silent,
    })
}

/// The copies of the guest that `text` names.
pub(crate) fn show(host: &Host, text: &str) -> Result<ShownCopies, CopiesError> {
    let guest = host.guest(text)?;
    let mut copies = host.copies_of(guest.uuid)?;
    if copies.judged.is_empty() {
        return Err(match copies.unreadable.pop() {
            Some(error) => error.into(),
            None => CopiesError::None(guest),
        });
    }
    Ok(ShownCopies {
        guest,
        copies: copies.judged,
        unreadable: copies.unreadable,
    })
}
