//! `state drop`: removes saved copies for good.

use std::io;

use super::{ambiguous_copy, no_copies};
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::host_errors::but;
use crate::cli::ui::printer::Printer;
use crate::manage::drop_state::{DropStateError, DroppedState, drop_state};
use crate::messages::{Arg, Command, count, quoted};

pub(super) fn run(
    context: &Context,
    guest: &str,
    named: &[String],
    force: bool,
) -> Result<(), CommandError> {
    let dropped = drop_state(&context.host, guest, named, force)?;
    context.output.print(&dropped)
}

impl Answer for DroppedState {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guest = self.guest.label();
        match self.number() {
            0 => writeln!(out, "removed damaged states of the TPM of {guest}"),
            copies => {
                let copies = count(copies, "saved copy");
                writeln!(out, "removed {copies} of the TPM state of {guest}")
            }
        }
    }

    fn notes(&self) -> Vec<String> {
        let damaged = self.damaged_states_dropped && self.number() > 0;
        let damaged = damaged.then(|| "damaged states of its TPM are removed, too".to_owned());
        let unreadable = self.unreadable.iter().map(ToString::to_string);
        unreadable.chain(damaged).collect()
    }
}

impl From<DropStateError> for CommandError {
    fn from(error: DropStateError) -> Self {
        let name_it = || {
            let show = Command::StateShow(Arg::DOMAIN);
            format!("name it by its sha256: {show}")
        };
        match error {
            DropStateError::Guest(error) => error.into(),
            DropStateError::None(guest) => no_copies(&guest),
            DropStateError::NoSuchCopy(digits) => {
                Self::usage(format!("copy {} not found", quoted(&digits))).with_hint(name_it())
            }
            DropStateError::Ambiguous(digits) => ambiguous_copy(&digits).with_hint(name_it()),
            DropStateError::Needed(guest, copies, untried) => {
                let these = if copies == 1 {
                    "this copy"
                } else {
                    "these copies"
                };
                Self::refused(format!(
                    "no other TPM state of {} is known to be good: without {these} its TPM is \
                     lost{}",
                    guest.label(),
                    but(untried)
                ))
                .with_hint(format!(
                    "restore it: {}; or give up its TPM: {}",
                    Command::StateRestore(guest.arg.clone()),
                    Command::StateDropForced(guest.arg)
                ))
            }
        }
    }
}
