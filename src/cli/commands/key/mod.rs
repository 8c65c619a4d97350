//! `key …`: which guest's key is wrapped by which provider.

pub(crate) mod bind;
mod clone;
mod import;
pub(crate) mod list;
mod prune;
mod renew;
mod show;

pub(crate) use list::state;

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::ids::KeyRefId;
use crate::manage::guests::GuestRef;
use crate::messages::label;
use crate::store::{Access, Store, StoreError, UseKeyResult};

pub(crate) fn run(context: &Context, verb: &args::Key) -> Result<ExitCode, CommandError> {
    match verb {
        args::Key::Bind { domain, provider } => bind::run(context, domain, provider.as_deref()),
        args::Key::Import {
            domain,
            from,
            old_domain,
        } => import::run(context, domain, from, old_domain.as_deref()),
        args::Key::List { domain } => list::run(context, domain.as_deref()),
        args::Key::Show { domain } => show::run(context, domain),
        args::Key::Unbind { domain } => unbind(context, domain),
        args::Key::Retire { id } => retire(context, KeyRefId(*id)),
        args::Key::Clone { domain, new_domain } => clone::run(context, domain, new_domain),
        args::Key::Renew { domain } => renew::run(context, domain),
        args::Key::Use { id } => use_key(context, KeyRefId(*id)),
        args::Key::Prune {
            older_than,
            standby,
            dry_run,
        } => prune::run(context, older_than.as_deref(), *standby, *dry_run),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn unbind(context: &Context, domain: &str) -> Result<(), CommandError> {
    let domain = context.host.guest(domain)?;
    let label = domain.label();
    let store = context.host.store(Access::Write)?;
    let unbound = store.map(|mut store| store.unbind(domain.uuid, Timestamp::now()));
    let unbound = match unbound.transpose()? {
        Some(unbound) if unbound.placeholders + unbound.retired > 0 => unbound,
        _ => return Err(no_rows(&domain)),
    };
    let document = json!({
        "domain": document(&domain),
        "placeholders": unbound.placeholders,
        "retired": unbound.retired,
    });
    context.output.answer(&document, |out| {
        writeln!(
            out,
            "{label} is bound to no provider: {} deleted, {} retired",
            count(unbound.placeholders, "placeholder"),
            count(unbound.retired, "key")
        )
    })?;
    if unbound.retired > 0 {
        context.output.note(&format!(
            "a retired key is kept; to take it back: vtpm-guard key show {}, vtpm-guard key use ID",
            domain.arg
        ));
    }
    Ok(())
}

fn retire(context: &Context, id: KeyRefId) -> Result<(), CommandError> {
    let mut store = store_with(context, id)?;
    let domain = store.key_ref(id)?.domain;
    let was_in_use = store.retire(id, Timestamp::now())?;
    let document = json!({
        "id": id.0,
        "domain": { "name": store.last_name(domain)?, "uuid": domain.to_string() },
        "changed": was_in_use,
    });
    context.output.answer(&document, |out| {
        if was_in_use {
            writeln!(
                out,
                "key reference {id} is retired; its wrapped key is kept"
            )
        } else {
            writeln!(
                out,
                "key reference {id} is retired already: nothing changed"
            )
        }
    })?;
    if was_in_use && !store.has_key_refs(domain)? {
        let name = store.last_name(domain)?;
        let label = name.map_or(domain.to_string(), |name| label(&name));
        context.output.note(&format!(
            "{label} has no key in use now; to take this one back: vtpm-guard key use {id}"
        ));
    }
    Ok(())
}

fn use_key(context: &Context, id: KeyRefId) -> Result<(), CommandError> {
    let mut store = store_with(context, id)?;
    let was_retired = store.key_ref(id)?.retired_at.is_some();
    let UseKeyResult { domain, retired } = store.use_key(id, Timestamp::now())?;
    let name = store.last_name(domain)?;
    let changed = was_retired || !retired.is_empty();
    let document = json!({
        "id": id.0,
        "domain": { "name": name, "uuid": domain.to_string() },
        "retired": retired.iter().map(|id| id.0).collect::<Value>(),
        "changed": changed,
    });
    let label = name.as_deref().map_or(domain.to_string(), label);
    context.output.answer(&document, |out| {
        let changed = if changed { "" } else { ": nothing changed" };
        writeln!(out, "key reference {id} is the key of {label}{changed}")?;
        match retired.len() {
            0 => Ok(()),
            others => writeln!(
                out,
                "{} retired for it",
                count(others, "other key reference")
            ),
        }
    })
}

/// The store in which this key reference is to be found.
fn store_with(context: &Context, id: KeyRefId) -> Result<Store, CommandError> {
    let store = context.host.store(Access::Write)?;
    Ok(store.ok_or(StoreError::NoKeyRef(id))?)
}

pub(crate) fn document(domain: &GuestRef) -> Value {
    json!({ "name": domain.name, "uuid": domain.uuid.to_string() })
}

/// The guest has nothing that could be shown, unbound or chosen.
fn no_rows(domain: &GuestRef) -> CommandError {
    CommandError::usage(format!("{} has no key reference", domain.label())).with_hint(format!(
        "bind it to a provider: vtpm-guard key bind {} --provider NAME",
        domain.arg
    ))
}
