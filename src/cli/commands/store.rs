//! `store …`: check, back up, restore.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::provider_errors;
use crate::cli::ui::table::table;
use crate::clock::{Deadline, Timestamp};
use crate::manage::host::default_deadline;
use crate::messages::label;
use crate::store::{Access, Store, StoreError, StoreFinding};

/// How long copying a store may take.
const COPY_PATIENCE: Duration = Duration::from_secs(10 * 60);

pub(crate) fn run(context: &Context, verb: &args::Store) -> Result<ExitCode, CommandError> {
    match verb {
        args::Store::Check => check(context),
        args::Store::Backup { file } => backup(context, file),
        args::Store::Restore { file } => restore(context, file),
    }
}

/// Status 1 if anything is found.
fn check(context: &Context) -> Result<ExitCode, CommandError> {
    let deadline = Deadline::after(COPY_PATIENCE);
    let (exists, findings) = match Store::open(context.host.state_dir(), Access::Read, deadline) {
        Ok(store) => (true, store.check()?),
        Err(StoreError::Missing) => (false, Vec::new()),
        // Damage that stops the check at the door is what it was to find.
        Err(StoreError::Corrupt { detail, .. }) => (true, vec![StoreFinding::Damaged(detail)]),
        Err(error) => return Err(error.into()),
    };
    let document = |found: &StoreFinding| {
        json!({
            "kind": kind(found),
            "damage": found.is_damage(),
            "message": found.to_string(),
        })
    };
    let documents: Value = findings.iter().map(document).collect();
    context
        .output
        .answer(&json!({ "exists": exists, "findings": documents }), |out| {
            if !exists {
                return writeln!(out, "there is no store yet");
            }
            if findings.is_empty() {
                return writeln!(out, "the store is in order");
            }
            let mut rows = table(&["FINDING", "WHAT"]);
            for found in &findings {
                rows.add_row([kind(found), &found.to_string()]);
            }
            out.table(&rows)
        })?;
    if findings.iter().any(StoreFinding::is_damage) {
        context
            .output
            .note("bring back a backup: vtpm-guard store restore FILE");
    }
    Ok(ExitCode::from(u8::from(!findings.is_empty())))
}

fn backup(context: &Context, file: &Path) -> Result<ExitCode, CommandError> {
    let deadline = Deadline::after(COPY_PATIENCE);
    let store = Store::open(context.host.state_dir(), Access::Read, deadline)?;
    store.backup(file, deadline)?;
    let never_exported: Vec<_> = store
        .providers()?
        .into_iter()
        .filter(|provider| provider.exported_at.is_none())
        .map(|provider| provider.name)
        .collect();
    let document = json!({
        "file": file.to_string_lossy(),
        "providers_never_exported": never_exported,
    });
    context.output.answer(&document, |out| {
        writeln!(out, "backed up the store to {}", file.display())
    })?;
    context
        .output
        .note("the providers' keys are not in it: vtpm-guard provider export NAME --output FILE");
    if !never_exported.is_empty() {
        context
            .output
            .note(&format!("never exported: {}", labels(&never_exported)));
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(context: &Context, file: &Path) -> Result<ExitCode, CommandError> {
    let deadline = Deadline::after(COPY_PATIENCE);
    let restored = Store::restore(context.host.state_dir(), file, Timestamp::now(), deadline)
        .map_err(provider_errors::backup)?;
    let missed = missed_keys(context)?;
    let document = json!({
        "previous": restored.previous.as_ref().map(|path| path.to_string_lossy()),
        "providers_without_key": missed,
    });
    context.output.answer(&document, |out| {
        writeln!(out, "restored the store from {}", file.display())?;
        match &restored.previous {
            Some(path) => writeln!(out, "the store of before is kept: {}", path.display()),
            None => Ok(()),
        }
    })?;
    if !missed.is_empty() {
        context.output.note(&format!(
            "{} not open on this host ({}): vtpm-guard provider import FILE",
            match missed.len() {
                1 => "the key of 1 provider does".to_owned(),
                several => format!("the keys of {} do", count(several, "provider")),
            },
            labels(&missed)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The providers whose KEK is not on this host, or not whole.
fn missed_keys(context: &Context) -> Result<Vec<String>, CommandError> {
    let keyring = context.host.keyring();
    let store = context.host.store(Access::Read)?;
    let providers = store.map_or(Ok(Vec::new()), |store| store.providers())?;
    Ok(providers
        .into_iter()
        .filter(|provider| keyring.open(provider.key_id, default_deadline()).is_err())
        .map(|provider| provider.name)
        .collect())
}

fn labels(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| label(name)).collect();
    names.join(", ")
}

fn kind(found: &StoreFinding) -> &'static str {
    match found {
        StoreFinding::Damaged(_) => "damaged",
        StoreFinding::SchemaMissing(_) => "schema-missing",
        StoreFinding::SchemaDiffers(_) => "schema-differs",
        StoreFinding::SchemaForeign(_) => "schema-foreign",
        StoreFinding::Dangling { .. } => "dangling",
        StoreFinding::ProviderUnreadable { .. } => "provider-unreadable",
        StoreFinding::KeyRefUnreadable { .. } => "key-ref-unreadable",
        StoreFinding::ProviderUnknown { .. } => "provider-unknown",
    }
}
