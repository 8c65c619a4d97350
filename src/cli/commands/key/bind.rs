//! `key bind`: ties a guest to a provider, and never a key to one that does not open it.

mod notes;

use serde_json::json;

use super::document;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::ids::KeyRefId;
use crate::manage::guests::GuestRef;
use crate::manage::host::default_deadline;
use crate::messages::quoted;
use crate::store::{BindingChange, Change, Store};
use crate::verdict::facts::{KeyRef, Provider, References};
use crate::verdict::repair::Repair;

/// What binding did.
enum Done {
    /// To one without a key.
    Placeholder(BindingChange),
    /// These keyed rows, which the provider's key opens, name it now.
    Rebound(Vec<KeyRefId>),
    /// This keyed row is bound to it already.
    Keyed(KeyRefId),
}

pub(crate) fn run(context: &Context, text: &str, named: Option<&str>) -> Result<(), CommandError> {
    let (mut store, provider) = match named {
        Some(name) => context.host.provider_for_new_keys(Some(name))?,
        None => context.host.provider_for_new_keys(None)?,
    };
    let domain = context.host.present_guest(text)?;
    let now = Timestamp::now();
    let seen = store.references(domain.uuid, now)?;
    let keyed: Vec<_> = seen
        .key_refs
        .iter()
        .filter(|row| row.wrapped_dek.is_some())
        .collect();
    let is_bound = |row: &&KeyRef| {
        row.provider_uuid == Some(provider.uuid) && row.provider_name == provider.name
    };
    let done = if keyed.is_empty() {
        Done::Placeholder(store.bind(domain.uuid, provider.uuid, now)?)
    } else if let Some(row) = keyed.iter().copied().find(is_bound) {
        Done::Keyed(row.id)
    } else {
        Done::Rebound(rebind(
            context, &mut store, &seen, &keyed, &provider, &domain,
        )?)
    };
    answer(context, &domain, &provider, &done)?;
    match done {
        Done::Placeholder(_) => notes::say(context, &store, &domain, &provider),
        Done::Rebound(_) | Done::Keyed(_) => Ok(()),
    }
}

/// Binds the keyed rows that the provider's key opens to it.
fn rebind(
    context: &Context,
    store: &mut Store,
    seen: &References,
    keyed: &[&KeyRef],
    provider: &Provider,
    domain: &GuestRef,
) -> Result<Vec<KeyRefId>, CommandError> {
    let kek = context
        .host
        .keyring()
        .open(provider.key_id, default_deadline())?;
    let opens = |row: &KeyRef| {
        let unwrapped = row
            .wrapped_dek
            .as_ref()
            .map(|dek| dek.unwrap(&kek, domain.uuid));
        matches!(unwrapped, Some(Ok(Some(_))))
    };
    let opened: Vec<_> = keyed
        .iter()
        .filter(|row| opens(row))
        .map(|row| row.id)
        .collect();
    if opened.is_empty() {
        return Err(not_its_key(keyed, provider, domain));
    }
    let rebinding = |key_ref: &KeyRefId| Repair::RebindProvider {
        key_ref: *key_ref,
        provider: provider.uuid,
        provider_name: provider.name.clone(),
    };
    let repairs: Vec<_> = opened.iter().map(rebinding).collect();
    store.apply(&Change {
        domain: domain.uuid,
        seen,
        repairs: &repairs,
        new_key: None,
        secret_uuid: None,
        clients_key: None,
        event: None,
        now: Timestamp::now(),
    })?;
    Ok(opened)
}

fn not_its_key(keyed: &[&KeyRef], provider: &Provider, domain: &GuestRef) -> CommandError {
    let label = domain.label();
    let rows: Vec<_> = keyed
        .iter()
        .map(|row| format!("{} of provider {}", row.id, quoted(&row.provider_name)))
        .collect();
    CommandError::refused(format!(
        "{label} has a key already (key reference {}), and the key {} of provider {} does not \
         open it",
        rows.join(", "),
        provider.key_id.short(),
        quoted(&provider.name)
    ))
    .with_hint(format!(
        "see what it needs: vtpm-guard key show {0}; to give the key up, and with it the TPM's \
         state: vtpm-guard key unbind {0}",
        domain.arg
    ))
}

fn answer(
    context: &Context,
    domain: &GuestRef,
    provider: &Provider,
    done: &Done,
) -> Result<(), CommandError> {
    let (action, key_refs) = match done {
        Done::Placeholder(BindingChange::Added(id)) => ("made", vec![*id]),
        Done::Placeholder(BindingChange::Moved { key_ref, .. }) => ("moved", vec![*key_ref]),
        Done::Placeholder(BindingChange::Unchanged(id)) | Done::Keyed(id) => ("none", vec![*id]),
        Done::Rebound(ids) => ("rebound", ids.clone()),
    };
    let document = json!({
        "domain": document(domain),
        "provider": { "name": provider.name, "uuid": provider.uuid.to_string() },
        "action": action,
        "key_refs": key_refs.iter().map(|id| id.0).collect::<Vec<_>>(),
    });
    let (label, provider) = (domain.label(), quoted(&provider.name));
    context.output.answer(&document, |out| match done {
        Done::Placeholder(BindingChange::Added(id)) => writeln!(
            out,
            "{label} is bound to provider {provider} (key reference {id}); its key is made at \
             its first start"
        ),
        Done::Placeholder(BindingChange::Moved { key_ref, from }) => writeln!(
            out,
            "{label} is now bound to provider {provider} (key reference {key_ref}; was {})",
            quoted(from)
        ),
        Done::Placeholder(BindingChange::Unchanged(id)) | Done::Keyed(id) => writeln!(
            out,
            "{label} is bound to provider {provider} already (key reference {id}): nothing \
             changed"
        ),
        Done::Rebound(ids) => {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            writeln!(
                out,
                "{label} is bound to provider {provider}, whose key opens its own (key \
                 reference {})",
                ids.join(", ")
            )
        }
    })
}
