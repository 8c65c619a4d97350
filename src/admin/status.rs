//! `status`: the state of the guard on this host, at a glance.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::context::{self, Context};
use super::error::AdminError;
use super::forgotten;
use crate::clock::Deadline;
use crate::key::keyring::KeyringError;
use crate::report::one_line;
use crate::store::{Access, Store};
use crate::verdict::facts::Provider;

/// How long libvirt may take to list its guests.
const GLANCE: Duration = Duration::from_secs(2);

/// Where libvirt looks for the hook.
pub(super) const HOOK_LINK: &str = "/etc/libvirt/hooks/qemu.d/50-vtpm-guard";

pub(super) fn run(context: &Context) -> Result<ExitCode, AdminError> {
    let hook = if Path::new(HOOK_LINK).exists() {
        "installed"
    } else {
        "not installed"
    };
    let config = match context.config() {
        Ok(_) => "in order".to_owned(),
        Err(error) => error.to_string(),
    };
    let store = context.store(Access::Read)?;
    let providers = store
        .as_ref()
        .map(Store::providers)
        .transpose()?
        .unwrap_or_default();
    let key_refs = store
        .as_ref()
        .map(|store| store.all_key_refs(None, false))
        .transpose()?;
    let key_refs = key_refs.unwrap_or_default();
    let placeholders = key_refs
        .iter()
        .filter(|row| row.key_ref.wrapped_dek.is_none())
        .count();
    let seals: Vec<_> = providers
        .iter()
        .map(|provider| seal(context, provider))
        .collect();
    // At a glance: a libvirt that does not answer at once is not waited for.
    let known = context::libvirt().guests(Deadline::after(GLANCE)).ok();
    let forgotten = known.and_then(|known| forgotten::among(context, &known));
    let document = json!({
        "hook": { "path": HOOK_LINK, "installed": hook == "installed" },
        "configuration": config,
        "store": { "path": context.state_dir().join("store.db"), "exists": store.is_some() },
        "providers": providers.iter().zip(&seals).map(|(provider, seal)| json!({
            "name": provider.name,
            "key_id": provider.key_id.to_string(),
            "seal": seal,
            "exported": provider.exported_at.is_some(),
        })).collect::<Vec<_>>(),
        "key_refs": { "keyed": key_refs.len() - placeholders, "placeholders": placeholders },
        "guests_unknown_to_libvirt": forgotten,
    });
    context.output.answer(&document, |out| {
        writeln!(out, "hook:          {hook} ({HOOK_LINK})")?;
        writeln!(out, "configuration: {}", one_line(&config))?;
        let exists = if store.is_some() {
            ""
        } else {
            " (there is none yet)"
        };
        writeln!(
            out,
            "store:         {}{exists}",
            context.state_dir().join("store.db").display()
        )?;
        writeln!(
            out,
            "keys:          {} in use, {placeholders} to be made at first start",
            key_refs.len() - placeholders
        )?;
        if let Some(words) = forgotten.and_then(forgotten::in_words) {
            writeln!(out, "forgotten:     {words}")?;
        }
        if providers.is_empty() {
            writeln!(
                out,
                "providers:     none; make one: vtpm-guard provider create NAME --default"
            )?;
        }
        for (provider, seal) in providers.iter().zip(&seals) {
            let exported = if provider.exported_at.is_some() {
                ""
            } else {
                ", never exported"
            };
            writeln!(
                out,
                "provider:      {} (key {}), sealed by {seal}{exported}",
                one_line(&provider.name),
                provider.key_id.short()
            )?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// How a provider's KEK is sealed here, or why it is not.
fn seal(context: &Context, provider: &Provider) -> String {
    match context.keyring().seal(provider.key_id) {
        Ok(seal) => seal.to_string(),
        Err(KeyringError::Missing(_)) => "nothing: its key is missing".to_owned(),
        Err(error) => format!("nothing usable: {error}"),
    }
}
