//! `completions`: for a shell, made from the command line itself.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;

pub(crate) fn run(context: &Context, shell: Shell) -> Result<ExitCode, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vtpm-guard", &mut script);
    let document = json!({
        "shell": shell.to_string(),
        "script": String::from_utf8_lossy(&script),
    });
    context
        .output
        .answer(&document, |out| out.verbatim(&script))?;
    Ok(ExitCode::SUCCESS)
}
