//! `provider …`: named keys that wrap the guests' keys.

mod accept;
mod create;
mod delete;
mod export;
mod import;
mod list;
mod rename;
mod reseal;
mod rotate;
mod set_default;
mod show;
mod slot;
mod weaker_seal;

use std::process::ExitCode;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;

pub(crate) fn run(context: &Context, verb: &args::Provider) -> Result<ExitCode, CommandError> {
    match verb {
        args::Provider::Create {
            name,
            default,
            slots,
            sealing,
        } => create::run(context, name, *default, slots, sealing.weaker()),
        args::Provider::Accept { name, key } => accept::run(context, name, key.as_deref()),
        args::Provider::List => list::run(context),
        args::Provider::Show { name } => show::run(context, name),
        args::Provider::Rename { name, new_name } => rename::run(context, name, new_name),
        args::Provider::SetDefault { name } => set_default::run(context, name),
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
        } => import::run(
            context,
            file,
            name.as_deref(),
            passphrase_file.as_deref(),
            *dry_run,
            sealing.weaker(),
        ),
        args::Provider::Slot(verb) => return slot::run(context, verb),
        args::Provider::Delete { name, force } => delete::run(context, name, *force),
    }?;
    Ok(ExitCode::SUCCESS)
}
