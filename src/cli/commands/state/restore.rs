//! `state restore`: puts a kept copy back by hand.

use std::io::ErrorKind;

use serde_json::json;

use super::{Judged, copies_of, no_copies};
use crate::cli::commands::key;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::domain::{self, Vtpm};
use crate::manage::guests::GuestRef;
use crate::manage::host::default_deadline;
use crate::tpm_copies::{CopyRestored, RestoreError, restore_copy};

pub(crate) fn run(context: &Context, text: &str) -> Result<(), CommandError> {
    let domain = context.host.guest(text)?;
    let label = domain.label();
    let copies = copies_of(context, domain.uuid)?;
    // One that the key opens before one that it does not, one that stands by before one that
    // was set aside, the latest before the others.
    let worth = |judged: &&Judged| (judged.opened, judged.copy.is_available());
    let Some(best) = copies.iter().rev().max_by_key(worth) else {
        return Err(no_copies(&domain));
    };
    // Without libvirt nothing can go wrong either: a guest that runs has its state.
    let guest = context
        .host
        .libvirt()
        .guest(domain.uuid, default_deadline());
    let guest = guest.ok().flatten();
    if guest.as_ref().is_some_and(|guest| guest.running) {
        return Err(CommandError::refused(format!("{label} is running"))
            .with_hint(format!("stop it first: virsh shutdown {}", domain.arg)));
    }
    let defined = guest.and_then(|guest| domain::read(guest.xml.as_bytes()).ok());
    let states = context.host.libvirt_dirs().tpm_states();
    let start = match defined.as_ref().map(|defined| &defined.vtpm) {
        Some(Some(Vtpm::Emulator(vtpm))) => Some((states.as_path(), domain.uuid, vtpm)),
        _ => None,
    };
    let done = restore_copy(&best.copy, start).map_err(|error| not_put_back(&domain, &error))?;
    let document = json!({
        "domain": key::document(&domain),
        "copy": best.document(),
        "changed": done == CopyRestored::Written,
    });
    context.output.answer(&document, |out| match done {
        CopyRestored::Written => writeln!(out, "the TPM state of {label} is back in its place"),
        CopyRestored::AlreadyThere => {
            writeln!(out, "the TPM state of {label} is there: nothing changed")
        }
    })?;
    if !best.opened {
        context.output.note(&format!(
            "no key of {label} opens this copy: vtpm-guard check {}",
            domain.arg
        ));
    }
    Ok(())
}

pub(crate) fn not_put_back(domain: &GuestRef, error: &RestoreError) -> CommandError {
    match error {
        RestoreError::Occupied { .. } => CommandError::refused(error).with_hint(format!(
            "{} has a TPM state; move it away first if the kept one is the right one",
            domain.label()
        )),
        RestoreError::OtherTpm => {
            CommandError::refused(error).with_hint(format!("virsh edit {}", domain.arg))
        }
        RestoreError::Io(io) if io.kind() == ErrorKind::PermissionDenied => {
            CommandError::failed(format!("no permission: {error}")).with_hint("run it as root")
        }
        RestoreError::NotAState { .. } => CommandError::refused(error).with_hint(format!(
            "see the others: vtpm-guard state show {}",
            domain.arg
        )),
        RestoreError::State { .. } | RestoreError::Io { .. } => CommandError::failed(error),
    }
}
