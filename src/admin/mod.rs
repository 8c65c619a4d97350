//! What a person asks: the `vtpm-guard` command. One file per verb.

mod check;
pub mod cli;
mod completions;
mod context;
mod doctor;
mod domains;
mod error;
mod explain;
mod guests;
mod history;
mod key;
mod outcomes;
mod output;
mod passphrase;
mod progress;
mod provider;
mod repair;
mod replay;
mod reset;
mod state;
mod status;
mod store;
mod trouble;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use context::Context;
use error::AdminError;

/// Runs one command and gives its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let context = Context::new(cli.global);
    dispatch(&context, &cli.command).unwrap_or_else(|error| context.output.error(&error))
}

fn dispatch(context: &Context, command: &Command) -> Result<ExitCode, AdminError> {
    match command {
        Command::Check { which } => check::run(context, which),
        Command::Repair { which, dry_run } => repair::run(context, which, *dry_run),
        Command::Replay {
            file,
            operation,
            sub_operation,
            dry_run,
            no_secret,
        } => {
            let (dry_run, no_secret) = (*dry_run, *no_secret);
            let replay = replay::Replay {
                file,
                operation,
                sub_operation,
                dry_run,
                no_secret,
            };
            replay::run(context, &replay)
        }
        Command::History { domain, limit } => history::run(context, domain.as_deref(), *limit),
        Command::Status => status::run(context),
        Command::Doctor => doctor::run(context),
        Command::Explain { code } => explain::run(context, code.as_deref()),
        Command::Provider(verb) => provider::run(context, verb),
        Command::Key(verb) => key::run(context, verb),
        Command::Reset { domain } => reset::run(context, domain),
        Command::State(verb) => state::run(context, verb),
        Command::Store(verb) => store::run(context, verb),
        Command::Completions { shell } => completions::run(context, *shell),
    }
}
