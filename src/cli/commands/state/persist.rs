//! `state persist`: libvirt keeps the TPM state of guests that it forgets.

use std::io;

use crate::cli::args::Domains;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::persist_state::{PersistError, PersistedStates, persist};
use crate::messages::Command;

pub(super) fn run(context: &Context, which: &Domains) -> Result<(), CommandError> {
    let texts = (!which.all).then_some(&which.domains[..]);
    context.output.print(&persist(&context.host, texts)?)
}

impl Answer for PersistedStates {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.guests.is_empty() && self.unreadable.is_empty() {
            return writeln!(out, "no guest that is defined has an encrypted vTPM");
        }
        for one in &self.guests {
            let guest = one.guest.label();
            match (one.changed, one.running) {
                (false, _) => writeln!(
                    out,
                    "the XML of {guest} already has persistent_state='yes'; nothing changed"
                ),
                (true, false) => {
                    writeln!(out, "{}", describe::persistent_state_set(&one.guest))
                }
                (true, true) => writeln!(
                    out,
                    "{}; the guest is running, and its present run goes by the XML from before",
                    describe::persistent_state_set(&one.guest)
                ),
            }?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let unreadable = self.unreadable.iter().map(|(guest, error)| {
            let guest = guest.label();
            format!("cannot read the XML of {guest}, which was left as it is: {error}")
        });
        unreadable.collect()
    }
}

impl From<PersistError> for CommandError {
    fn from(error: PersistError) -> Self {
        match error {
            PersistError::Guest(error) => error.into(),
            PersistError::Transient(guest) => Self::refused(format!(
                "{} is transient: libvirt has no definition of it to change",
                guest.label()
            ))
            .with_hint(describe::PERSISTENT_STATE_BY_HAND),
            PersistError::NotRedefined(guest, error) => {
                let guest = guest.label();
                Self::failed(format!("the XML of {guest} was not changed: {error}"))
            }
            PersistError::NotReadBack(guest) => Self::failed(format!(
                "the XML of {} does not have persistent_state='yes' afterwards",
                guest.label()
            ))
            .with_hint(format!(
                "for its devices: {}",
                Command::VirshDumpxml(guest.arg)
            )),
        }
    }
}
