//! `provider delete`: the row and the key, unless guests need them.

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::table;
use crate::manage::providers::ProvidersLock;
use crate::messages::{Arg, quoted};
use crate::store::{Access, DependentDomain, Store};
use crate::verdict::facts::Provider;

pub(crate) fn run(context: &Context, name: &str, force: bool) -> Result<(), CommandError> {
    let (mut store, found) = context.host.provider(name, Access::Write)?;
    let _exclusive = ProvidersLock::acquire(&context.host)?;
    let provider = store.provider_by_uuid(found.uuid)?;
    let locked = named(context, &store, store.dependent_domains(&provider)?)?;
    if !force {
        refuse_harm(context, &provider, &locked)?;
    }
    // The row before the key that it needs: a kill in between leaves a key that nobody needs.
    store.delete_provider(provider.uuid)?;
    let key_removed = remove_key(context, &store, &provider)?;
    answer(context, &provider, &locked, key_removed)
}

/// The guests with their names, also those that only libvirt knows; by name.
fn named(
    context: &Context,
    store: &Store,
    mut guests: Vec<DependentDomain>,
) -> Result<Vec<DependentDomain>, CommandError> {
    let mut names = context
        .host
        .names(store, guests.iter().map(|guest| guest.uuid).collect())?;
    for guest in &mut guests {
        guest.name = names.remove(&guest.uuid);
    }
    let nameless_last = |guest: &DependentDomain| (guest.name.is_none(), guest.name.clone());
    guests.sort_by_key(nameless_last);
    Ok(guests)
}

fn refuse_harm(
    context: &Context,
    provider: &Provider,
    locked: &[DependentDomain],
) -> Result<(), CommandError> {
    let word = Arg::provider(provider);
    if !locked.is_empty() {
        let document = json!({
            "deleted": false,
            "uuid": provider.uuid.to_string(),
            "name": provider.name,
            "locked": documents(locked),
        });
        context.output.answer(&document, |out| {
            let mut rows = table(&["DOMAIN", "UUID"]);
            for guest in locked {
                let name = guest.name.as_deref().unwrap_or("-");
                rows.add_row([name, &guest.uuid.to_string()]);
            }
            out.table(&rows)
        })?;
        return Err(CommandError::refused(format!(
            "provider {} is needed: {} would not start without it",
            quoted(&provider.name),
            count(locked.len(), "guest")
        ))
        .with_hint(format!(
            "to delete it all the same: vtpm-guard provider delete {word} --force"
        )));
    }
    if provider.exported_at.is_none() {
        return Err(CommandError::refused(format!(
            "provider {} was never exported: its key would be gone for good",
            quoted(&provider.name)
        ))
        .with_hint(format!(
            "export it: vtpm-guard provider export {word} --output FILE; \
             or: vtpm-guard provider delete {word} --force"
        )));
    }
    Ok(())
}

/// Removes the sealed KEK, unless another provider has the same. Says whether it is gone.
pub(crate) fn remove_key(
    context: &Context,
    store: &Store,
    provider: &Provider,
) -> Result<bool, CommandError> {
    let others = store.providers()?;
    if others.iter().any(|other| other.key_id == provider.key_id) {
        return Ok(false);
    }
    context
        .host
        .keyring()
        .remove(provider.key_id)
        .map_err(|error| {
            CommandError::failed(format!(
                "provider {} is deleted, but its sealed key is not: {error}",
                quoted(&provider.name)
            ))
            .with_hint("manually remove the file named after the key ID")
        })?;
    Ok(true)
}

fn answer(
    context: &Context,
    provider: &Provider,
    locked: &[DependentDomain],
    key_removed: bool,
) -> Result<(), CommandError> {
    let document = json!({
        "deleted": true,
        "uuid": provider.uuid.to_string(),
        "name": provider.name,
        "key_id": provider.key_id.to_string(),
        "key_removed": key_removed,
        "locked": documents(locked),
    });
    context.output.answer(&document, |out| {
        let key = provider.key_id.short();
        let kept = if key_removed {
            ""
        } else {
            ", which another provider has too"
        };
        writeln!(
            out,
            "deleted provider {}: key {key}{kept}",
            quoted(&provider.name)
        )
    })?;
    if !locked.is_empty() {
        let until = match provider.exported_at {
            Some(_) => "cannot start until it is imported again: vtpm-guard provider import FILE",
            None => "cannot start without it, and it was never exported",
        };
        let guests = count(locked.len(), "guest");
        context.output.note(&format!("{guests} {until}"));
    }
    if provider.is_default {
        context
            .output
            .note("no provider is the default now: vtpm-guard provider set-default NAME");
    }
    Ok(())
}

fn documents(locked: &[DependentDomain]) -> Value {
    let document =
        |guest: &DependentDomain| json!({ "name": guest.name, "uuid": guest.uuid.to_string() });
    locked.iter().map(document).collect()
}
