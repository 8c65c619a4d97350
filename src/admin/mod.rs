//! What a person asks: the `vtpm-guard` command. One file per verb.

mod adopt;
mod captures;
mod check;
pub mod cli;
mod completions;
mod context;
mod doctor;
mod domains;
mod encrypt;
mod error;
mod explain;
mod forgotten;
mod guests;
mod history;
mod judge;
mod key;
mod metrics;
mod moment;
mod nagios;
mod opened;
mod outcomes;
mod output;
mod passphrase;
mod printer;
mod progress;
mod provider;
mod repair;
mod replay;
mod reset;
mod shared_secrets;
mod stage;
mod state;
mod status;
mod stopped;
mod store;
mod table;
mod tpm_place;
mod trouble;
mod unstage;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use context::Context;
use error::AdminError;

/// Runs one command and gives its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let is_answer = !error.use_stderr();
            let status = output::usage(error, &arguments);
            let is_plugin = arguments.iter().any(|argument| argument == "--nagios");
            return if is_plugin && !is_answer {
                nagios::usage()
            } else {
                status
            };
        }
    };
    let context = Context::new(cli.global);
    context::protect_keys()
        .and_then(|()| dispatch(&context, &cli.command))
        .unwrap_or_else(|error| context.output.error(&error))
}

fn dispatch(context: &Context, command: &Command) -> Result<ExitCode, AdminError> {
    match command {
        Command::Check {
            which,
            metrics,
            nagios,
        } => check::run(
            context,
            check::Check {
                which,
                metrics: metrics.as_deref(),
                nagios: *nagios,
            },
        ),
        Command::Adopt {
            which,
            provider,
            keep_plaintext,
        } => adopt::run(context, which, provider.as_deref(), *keep_plaintext),
        Command::Repair {
            which,
            dry_run,
            nagios,
        } => repair::run(context, which, *dry_run, *nagios),
        Command::Replay {
            xml,
            operation,
            sub_operation,
            dry_run,
            no_secret,
        } => {
            let (dry_run, no_secret) = (*dry_run, *no_secret);
            let replay = replay::Replay {
                xml,
                operation,
                sub_operation,
                dry_run,
                no_secret,
            };
            replay::run(context, &replay)
        }
        Command::History { captures: true, .. } => captures::run(context),
        Command::History { which, .. } => history::run(context, which),
        Command::Status { filters } => status::run(context, filters),
        Command::Doctor { recovery } => doctor::run(context, recovery),
        Command::Explain { code } => explain::run(context, code.as_deref()),
        Command::Provider(verb) => provider::run(context, verb),
        Command::Key(verb) => key::run(context, verb),
        Command::Encrypt { domain, provider } => encrypt::run(context, domain, provider.as_deref()),
        Command::Reset { domain } => reset::run(context, domain),
        Command::Stage => stage::run(context),
        Command::Unstage => unstage::run(context),
        Command::State(verb) => state::run(context, verb),
        Command::Store(verb) => store::run(context, verb),
        Command::Completions { shell } => completions::run(context, *shell),
    }
}
