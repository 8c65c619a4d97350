//! `provider …`: named keys that wrap the guests' keys.

mod create;
mod delete;
mod export;
mod import;
mod list;
mod name;
mod reseal;
mod rotate;

use std::process::ExitCode;

use serde_json::json;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::messages::quoted;
use crate::store::Access;

pub(crate) fn run(context: &Context, verb: &args::Provider) -> Result<ExitCode, CommandError> {
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

fn rename(context: &Context, name: &str, new_name: &str) -> Result<(), CommandError> {
    name::check(new_name)?;
    let (mut store, provider) = context.host.provider(name, Access::Write)?;
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

fn set_default(context: &Context, name: &str) -> Result<(), CommandError> {
    let (mut store, provider) = context.host.provider_for_new_keys(Some(name))?;
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
