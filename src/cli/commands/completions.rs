//! `completions`: for a shell, made from the command line itself.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;

/// The completions for a shell.
#[derive(Serialize)]
struct Completions {
    shell: String,
    script: String,
}

pub(crate) fn run(context: &Context, shell: Shell) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vtpm-guard", &mut script);
    context.output.print(&Completions {
        shell: shell.to_string(),
        script: String::from_utf8_lossy(&script).into_owned(),
    })
}

impl Answer for Completions {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        out.verbatim(self.script.as_bytes())
    }
}
