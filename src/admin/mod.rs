//! What a person asks: the `vtpm-guard` command. One file per verb.

pub mod cli;
mod domains;
mod error;
mod output;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use error::AdminError;
use output::Output;

/// What every verb works with.
struct Context {
    /// The options that every command takes.
    global: cli::Global,
    /// Where answers go.
    output: Output,
}

/// Runs one command and gives its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let context = Context {
        output: Output::new(cli.global.json),
        global: cli.global,
    };
    match dispatch(&context, cli.command) {
        Ok(status) => status,
        Err(error) => context.output.error(&error),
    }
}

fn dispatch(context: &Context, command: Command) -> Result<ExitCode, AdminError> {
    let _ = (context, command);
    Err(AdminError::failed("not there yet"))
}
