//! `unstage`: removes staged keys, once libvirtd is up.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::host_errors::REINSTALL;
use crate::cli::ui::printer::Printer;
use crate::libvirt::secret::SecretError;
use crate::manage::unstage::{Daemon, Patience, UnstageError, Unstaged, unstage};
use crate::messages::{Command, count};

pub(crate) fn run(context: &Context, wait: bool) -> Result<(), CommandError> {
    let patience = if wait {
        Patience::WhileItRuns
    } else {
        Patience::OneMinute
    };
    let asks_again = |error: &SecretError| {
        let again = match error {
            SecretError::NoHelper(_) => "that is tried again for a minute",
            _ => "libvirtd is asked again as long as it runs",
        };
        context
            .output
            .note(&format!("{}; {again}", error.sentence()));
    };
    context
        .output
        .print(&unstage(&context.host, patience, asks_again)?)
}

impl Answer for Unstaged {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.daemon == Daemon::Ended {
            return writeln!(out, "libvirtd does not run any more; nothing was removed");
        }
        if self.keys.is_empty() {
            return writeln!(out, "nothing was staged");
        }
        let keys = count(self.keys.len(), "staged key");
        if self.daemon == Daemon::IsDown {
            return writeln!(out, "removed {keys}; libvirtd does not run");
        }
        let dropped = self.keys.iter().filter(|key| key.dropped).count();
        writeln!(
            out,
            "removed {keys}; libvirt dropped {}",
            count(dropped, "secret")
        )
    }
}

impl From<UnstageError> for CommandError {
    fn from(error: UnstageError) -> Self {
        match error {
            UnstageError::Staging(error) => error.into(),
            UnstageError::Libvirt(error @ SecretError::NoHelper(_)) => Self::from(error)
                .with_hint(format!(
                    "the keys are gone from /run, and libvirtd still has them; {REINSTALL}, then: {}",
                    Command::Unstage
                )),
            UnstageError::Libvirt(error) => Self::from(error).with_hint(format!(
                "the keys are gone from /run; once libvirtd answers: {}",
                Command::Unstage
            )),
        }
    }
}
