//! `reset`: the next start of a guest may make a new TPM.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::commands::key;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::domain::{Emulator, TpmVersion};
use crate::guard::{has_managed_save, state_elsewhere};
use crate::ids::DomainUuid;
use crate::manage::guests::GuestRef;
use crate::manage::host::BrokenConfig;
use crate::messages;
use crate::store::{Access, Store};
use crate::swtpm::{StateFile, StatePath, read_state, remove_empty_directory};
use crate::tpm_copies::CopyStore;
use crate::verdict::refusal::Refusal;

/// A state directory without a state would keep libvirt from setting the new TPM up whole.
fn remove_empty_directories(context: &Context, domain: DomainUuid) {
    let states = context.host.libvirt_dirs().tpm_states();
    for version in [TpmVersion::V2_0, TpmVersion::V1_2] {
        let vtpm = Emulator {
            version,
            secret_uuid: None,
            persistent_state: false,
            source: None,
        };
        let place = StatePath::of(&states, domain, &vtpm);
        if let Err(error) = remove_empty_directory(&place) {
            context.output.note(&format!(
                "the empty directory {} stays, and a new TPM in it would have no certificates: {error}",
                place.directory().display()
            ));
        }
    }
}

pub(crate) fn run(context: &Context, text: &str) -> Result<ExitCode, CommandError> {
    let domain = context.host.guest(text)?;
    let label = domain.label();
    let no_key = || {
        CommandError::refused(format!(
            "{label} has no key, so nothing keeps it from a new TPM"
        ))
        .with_hint(format!(
            "see what its start would do: vtpm-guard check {}",
            domain.arg
        ))
    };
    refuse_managed_save(context, &domain)?;
    let now = Timestamp::now();
    let mut store = context.host.store(Access::Write)?;
    let rows = match &store {
        Some(store) => store.references(domain.uuid, now)?.key_refs,
        None => Vec::new(),
    };
    let has_key = rows.iter().any(|row| row.wrapped_dek.is_some());
    refuse_beside_state(context, store.as_ref(), &domain)?;
    // A kept copy would take the place of a state that is gone.
    let copies = CopyStore::of(context.host.state_dir(), domain.uuid).set_aside(now)?;
    let forgotten = match &mut store {
        Some(store) => store.clear_seen_state(domain.uuid)?,
        None => false,
    };
    let reset = match &mut store {
        Some(store) if has_key => store.reset_first_used(domain.uuid, now)?,
        _ if copies == 0 && !forgotten => return Err(no_key()),
        _ => usize::from(forgotten),
    };
    remove_empty_directories(context, domain.uuid);
    let document = json!({
        "domain": key::document(&domain),
        "changed": reset + copies > 0,
        "copies_set_aside": copies,
    });
    context
        .output
        .answer(&document, |out| match reset + copies {
            0 => writeln!(
                out,
                "the key of {label} has not been used yet: nothing changed"
            ),
            _ => writeln!(
                out,
                "if the TPM state of {label} is gone, its next start makes a new, empty TPM{}",
                if has_key { " under the same key" } else { "" }
            ),
        })?;
    if copies > 0 {
        let set_aside = match copies {
            1 => "the kept copy of its TPM state is".to_owned(),
            _ => format!("{copies} kept copies of its TPM state are"),
        };
        context.output.note(&format!(
            "{set_aside} set aside: vtpm-guard state show {}",
            domain.arg
        ));
    }
    if reset > 0 {
        context.output.note(
            "state that is there stays in use; with a new TPM the guest loses what the old one \
             held, and BitLocker asks for its recovery key",
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A TPM state that the guest's XML only does not name is not gone.
fn refuse_beside_state(
    context: &Context,
    store: Option<&Store>,
    domain: &GuestRef,
) -> Result<(), CommandError> {
    let Some((defined, vtpm)) = context.host.definition(domain.uuid) else {
        return Ok(());
    };
    let guard = context.host.guard(BrokenConfig::UseDefaults)?;
    let state = read_state(&guard.config.libvirt.tpm_states(), domain.uuid, &vtpm);
    let seen = store
        .map(|store| store.seen_state(domain.uuid))
        .transpose()?;
    let seen = seen.flatten().map(|seen| seen.path);
    match state_elsewhere(&guard, &defined, &vtpm, seen.as_deref()) {
        Some(found) if matches!(state, StateFile::Absent) => {
            let words = messages::refusal(&defined, &Refusal::TpmStateElsewhere(found));
            Err(CommandError::refused(words.message).with_hint(words.hint))
        }
        _ => Ok(()),
    }
}

/// A guest that goes on from a managed save has its TPM in there, and needs no new one.
fn refuse_managed_save(context: &Context, domain: &GuestRef) -> Result<(), CommandError> {
    let guard = context.host.guard(BrokenConfig::UseDefaults)?;
    match &domain.name {
        Some(name) if has_managed_save(&guard, name) => {
            let word = &domain.arg;
            Err(CommandError::refused(format!(
                "{} has a managed save, and its TPM is in there",
                domain.label()
            ))
            .with_hint(format!(
                "start the guest, its TPM comes with it: virsh start {word}; or give the save up \
                 first: virsh managedsave-remove {word}"
            )))
        }
        _ => Ok(()),
    }
}
