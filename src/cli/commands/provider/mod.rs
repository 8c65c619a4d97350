//! `provider …`: named keys that wrap the guests' keys.

mod create;
mod delete;
mod export;
mod import;
mod list;
mod name;
mod reseal;
mod rotate;

use std::fs::File;
use std::io::ErrorKind;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::args;
use crate::cli::context::{self, Context};
use crate::cli::ui::error::AdminError;
use crate::clock::Timestamp;
use crate::host::lock::lock;
use crate::messages::{Arg, quoted};
use crate::store::{Access, Store, StoreError, previous_key_of};
use crate::verdict::facts::{KeyRef, Provider};

pub(crate) fn run(context: &Context, verb: &args::Provider) -> Result<ExitCode, AdminError> {
    match verb {
        args::Provider::Create {
            name,
            default,
            sealing,
        } => create::run(context, name, *default, sealing.weaker()),
        args::Provider::List => list::list(context),
        args::Provider::Show { name } => list::show(context, name),
        args::Provider::Rename { name, new_name } => rename(context, name, new_name),
        args::Provider::SetDefault { name } => set_default(context, name),
        args::Provider::Rotate { name, sealing } => rotate::run(context, name, sealing.weaker()),
        args::Provider::Reseal { name } => return reseal::run(context, name.as_deref()),
        args::Provider::Export {
            name,
            output,
            passphrase_file,
        } => export::run(context, name, output, passphrase_file.as_deref()),
        args::Provider::Import {
            file,
            name,
            passphrase_file,
            dry_run,
            sealing,
        } => {
            let import = import::Import {
                file,
                name: name.as_deref(),
                passphrase_file: passphrase_file.as_deref(),
                dry_run: *dry_run,
                weaker: sealing.weaker(),
            };
            import::run(context, &import)
        }
        args::Provider::Delete { name, force } => delete::run(context, name, *force),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn rename(context: &Context, name: &str, new_name: &str) -> Result<(), AdminError> {
    name::check(new_name)?;
    let (mut store, provider) = find(context, name, Access::Write)?;
    store.rename_provider(provider.uuid, new_name, Timestamp::now())?;
    let document = json!({
        "uuid": provider.uuid.to_string(),
        "name": new_name,
        "changed": provider.name != new_name,
    });
    context.output.answer(&document, |out| {
        if provider.name == new_name {
            return writeln!(
                out,
                "provider \"{new_name}\" already has that name; nothing changed"
            );
        }
        writeln!(
            out,
            "provider {} is now called \"{new_name}\"",
            quoted(&provider.name)
        )
    })
}

fn set_default(context: &Context, name: &str) -> Result<(), AdminError> {
    let (mut store, provider) = find_for_new_keys(context, name)?;
    store.set_default_provider(provider.uuid, Timestamp::now())?;
    let document = json!({
        "uuid": provider.uuid.to_string(),
        "name": provider.name,
        "changed": !provider.is_default,
    });
    let name = quoted(&provider.name);
    context.output.answer(&document, |out| {
        if provider.is_default {
            return writeln!(out, "provider {name} is the default: nothing changed");
        }
        writeln!(out, "provider {name} is now the default")
    })
}

/// The store, and the provider of this name or UUID in it.
pub(crate) fn find(
    context: &Context,
    name: &str,
    access: Access,
) -> Result<(Store, Provider), AdminError> {
    let no_provider = || StoreError::NoProvider(name.to_owned());
    let store = context.store(access)?.ok_or_else(no_provider)?;
    let provider = store.provider(name)?;
    Ok((store, provider))
}

/// The same, for keys that are to be made: a former key wraps no new one.
pub(crate) fn find_for_new_keys(
    context: &Context,
    name: &str,
) -> Result<(Store, Provider), AdminError> {
    let (store, provider) = find(context, name, Access::Write)?;
    refuse_former(&store, &provider, |owner| {
        format!("name that one: {}", Arg::provider_named(owner))
    })?;
    Ok((store, provider))
}

/// Refuses a former key of a provider. `instead` says what helps, given that provider's name.
fn refuse_former(
    store: &Store,
    provider: &Provider,
    instead: impl FnOnce(&str) -> String,
) -> Result<(), AdminError> {
    let Some(owner) = previous_key_of(provider) else {
        return Ok(());
    };
    let is_there = store.providers()?.iter().any(|other| other.name == owner);
    let hint = if is_there {
        instead(owner)
    } else {
        let word = Arg::provider(provider);
        format!(
            "that one is gone; to make this one of its own: vtpm-guard provider rename {word} NAME"
        )
    };
    Err(AdminError::refused(format!(
        "provider {} is a former key of provider {}",
        quoted(&provider.name),
        quoted(owner)
    ))
    .with_hint(hint))
}

/// The provider that wraps a new key in the place of one that `provider` wraps: itself, or, of
/// a former key, the one whose it was.
pub(crate) fn for_new_keys<'a>(provider: &'a Provider, all: &'a [Provider]) -> &'a Provider {
    let owner =
        previous_key_of(provider).and_then(|owner| all.iter().find(|other| other.name == owner));
    owner.unwrap_or(provider)
}

/// The provider that a row names: by UUID, or, where that is nobody's, by name.
pub(crate) fn named_by<'a>(row: &KeyRef, providers: &'a [Provider]) -> Option<&'a Provider> {
    let by_uuid = providers
        .iter()
        .find(|provider| Some(provider.uuid) == row.provider_uuid);
    by_uuid.or_else(|| {
        providers
            .iter()
            .find(|provider| provider.name == row.provider_name)
    })
}

/// Held while providers come and go, until it is dropped. A sealed KEK and its provider's row
/// are two things: of two administrators at once, one would remove the KEK that the other's
/// row needs.
pub(crate) struct Exclusive {
    _state_dir: File,
}

impl Exclusive {
    /// Waits until nobody else holds it. The state directory must be there.
    pub(crate) fn acquire(context: &Context) -> Result<Self, AdminError> {
        let path = context.state_dir();
        let fail = |error| AdminError::failed(format!("{}: {error}", path.display()));
        let state_dir = File::open(path).map_err(fail)?;
        lock(&state_dir, context::patience()).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => AdminError::failed("another vtpm-guard is changing providers")
                .with_hint("try again when it is done"),
            _ => fail(error),
        })?;
        Ok(Self {
            _state_dir: state_dir,
        })
    }
}
