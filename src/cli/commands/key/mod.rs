//! `key …`: which guest's key is wrapped by which provider.

pub(crate) mod bind;
mod clone;
mod import;
pub(crate) mod list;
mod metadata;
mod prune;
mod renew;
mod retire;
mod show;
mod unbind;
mod use_key;

use std::process::ExitCode;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::ids::KeyRefId;

pub(crate) fn run(context: &Context, verb: &args::Key) -> Result<ExitCode, CommandError> {
    match verb {
        args::Key::Bind {
            domain,
            provider,
            persistent_state,
        } => bind::run(context, domain, provider.as_deref(), *persistent_state),
        args::Key::Import {
            domain,
            from,
            old_domain,
        } => import::run(context, domain, from, old_domain.as_deref()),
        args::Key::List { domain } => list::run(context, domain.as_deref()),
        args::Key::Metadata { domain, write } => metadata::run(context, domain, *write),
        args::Key::Show { domain } => show::run(context, domain),
        args::Key::Unbind { domain } => unbind::run(context, domain),
        args::Key::Retire { id } => retire::run(context, KeyRefId(*id)),
        args::Key::Clone { domain, new_domain } => clone::run(context, domain, new_domain),
        args::Key::Renew { domain } => renew::run(context, domain),
        args::Key::Use { id } => use_key::run(context, KeyRefId(*id)),
        args::Key::Prune {
            older_than,
            standby,
            dry_run,
        } => prune::run(context, older_than.as_deref(), *standby, *dry_run),
    }?;
    Ok(ExitCode::SUCCESS)
}
