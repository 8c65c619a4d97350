//! What a person asks: the `vtpm-guard` command. One file per verb.

pub mod args;
mod commands;
mod context;
mod guest_file;
mod ui;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use context::Context;
use ui::error::CommandError;

use crate::clock::Timestamp;
use crate::manage::replay::ReplayedCall;
use crate::manage::sync::after_change;

/// Runs one command and gives its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let is_answer = !error.use_stderr();
            let status = ui::answer::usage(error, &arguments);
            let is_plugin = arguments.iter().any(|argument| argument == "--nagios");
            return if is_plugin && !is_answer {
                commands::nagios::usage()
            } else {
                status
            };
        }
    };
    let context = Context::new(cli.global);
    if !has_log(&cli.command) {
        context.collect_warnings();
    }
    let begun = Timestamp::now();
    let ran = context::protect_keys().and_then(|()| dispatch(&context, &cli.command));
    if cli.command.changes_keys()
        && let Some(left) = after_change(&context.host, begun)
    {
        context.output.note(&ui::travelling::left(&left));
    }
    context.report_warnings();
    ran.unwrap_or_else(|error| context.output.error(&error))
}

/// Whether what happens beside the answer goes to the hook's log: a start that is replayed, and what systemd runs whose answer
/// nobody waits for.
fn has_log(command: &Command) -> bool {
    match command {
        Command::Open { .. } | Command::Sync { follow: true, .. } => true,
        Command::Replay { call, .. } => ReplayedCall::from(call).has_log(),
        _ => false,
    }
}

fn dispatch(context: &Context, command: &Command) -> Result<ExitCode, CommandError> {
    match command {
        Command::Check { which, .. } if which.fleet => commands::fleet::elsewhere::check(context),
        Command::Check {
            which,
            metrics,
            nagios,
        } => commands::check::run(
            context,
            commands::check::Check {
                which,
                metrics: metrics.as_deref(),
                nagios: *nagios,
            },
        ),
        Command::Adopt {
            which,
            provider,
            keep_plaintext,
            persistent_state,
        } => {
            let provider = provider.as_deref();
            let request = commands::adopt::Asked {
                provider,
                keep_plaintext: *keep_plaintext,
                persistent_state: *persistent_state,
            };
            commands::adopt::run(context, which, request)
        }
        Command::Repair {
            which,
            dry_run,
            nagios,
        } => commands::repair::run(context, which, *dry_run, *nagios),
        Command::Replay { xml, call } => commands::replay::run(context, xml, call.into()),
        Command::History { captures: true, .. } => done(commands::captures::run(context)),
        Command::History {
            which, fleet: true, ..
        } => done(commands::fleet::elsewhere::history(context, which)),
        Command::History { which, .. } => done(commands::history::run(context, which)),
        Command::Status { fleet: true, .. } => done(commands::fleet::elsewhere::status(context)),
        Command::Status { filters, .. } => done(commands::status::run(context, filters)),
        Command::Doctor { recovery } => commands::doctor::run(context, recovery),
        Command::Explain { code } => done(commands::explain::run(context, code.as_deref())),
        Command::Provider(verb) => commands::provider::run(context, verb),
        Command::Key(verb) => commands::key::run(context, verb),
        Command::Encrypt {
            domain,
            provider,
            persistent_state,
        } => commands::encrypt::run(context, domain, provider.as_deref(), *persistent_state),
        Command::Reset { domain } => commands::reset::run(context, domain),
        Command::Stage => done(commands::stage::run(context)),
        Command::Unstage { wait } => done(commands::unstage::run(context, *wait)),
        Command::State(verb) => commands::state::run(context, verb),
        Command::Store(verb) => commands::store::run(context, verb),
        Command::Open { name } => commands::open::run(context, name),
        Command::Sync { follow: true, .. } => commands::sync::follow(context),
        Command::Sync {
            compare,
            metadata_only,
            ..
        } => commands::sync::run(context, *compare, *metadata_only),
        Command::Fleet(verb) => commands::fleet::run(context, verb),
        Command::Completions { shell } => done(commands::completions::run(context, *shell)),
    }
}

/// The status of a command that has no other than success.
fn done(ran: Result<(), CommandError>) -> Result<ExitCode, CommandError> {
    ran.map(|()| ExitCode::SUCCESS)
}
