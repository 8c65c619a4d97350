//! `state persist`: libvirt keeps the TPM state of guests that it forgets.

use std::io;
use std::process::ExitCode;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::cli::args::Domains;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::guests::GuestRef;
use crate::manage::persist_state::{PersistError, PersistedState, persist};
use crate::messages::Command;

pub(super) fn run(context: &Context, which: &Domains) -> Result<ExitCode, CommandError> {
    let texts = (!which.all).then_some(&which.domains[..]);
    let is_one = !which.all && which.domains.len() == 1;
    let mut rows = Vec::new();
    for PersistedState {
        guest,
        running,
        changed,
    } in persist(&context.host, texts)?
    {
        let changed = changed.map_err(CommandError::from);
        // The error about the only guest that was named is the answer.
        if is_one {
            changed.as_ref().map_err(CommandError::clone)?;
        }
        rows.push(Row {
            guest,
            running,
            changed,
        });
    }
    let rows = Rows(rows);
    context.output.print(&rows)?;
    Ok(rows.status())
}

/// What became of the guests.
#[derive(Serialize)]
struct Rows(Vec<Row>);

/// What became of one guest.
struct Row {
    guest: GuestRef,
    running: bool,
    /// Whether its XML was changed; or why it could not be.
    changed: Result<bool, CommandError>,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let error = self.changed.as_ref().err();
        let mut row = serializer.serialize_struct("Row", 5)?;
        row.serialize_field("domain", &self.guest)?;
        row.serialize_field("changed", &matches!(self.changed, Ok(true)))?;
        row.serialize_field("running", &self.running)?;
        row.serialize_field("error", &error.map(ToString::to_string))?;
        row.serialize_field("hint", &error.and_then(CommandError::hint))?;
        row.end()
    }
}

impl Rows {
    /// As that of `adopt`: 4 if it failed for any guest, else 1 if it was refused for one.
    fn status(&self) -> ExitCode {
        let failures = || self.0.iter().filter_map(|row| row.changed.as_ref().err());
        let failed = failures().find(|failure| !failure.is_refusal());
        let worst = failed.or(failures().next());
        worst.map_or(ExitCode::SUCCESS, CommandError::status)
    }
}

impl Row {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guest = self.guest.label();
        match (&self.changed, self.running) {
            (Err(error), _) => {
                writeln!(out, "{error}")?;
                let mut hint = error.hint().into_iter();
                hint.try_for_each(|hint| writeln!(out, "  hint: {hint}"))
            }
            (Ok(false), _) => writeln!(
                out,
                "the XML of {guest} already has persistent_state='yes'; nothing changed"
            ),
            (Ok(true), false) => writeln!(out, "{}", describe::persistent_state_set(&self.guest)),
            (Ok(true), true) => writeln!(
                out,
                "{}; the guest is running, and its present run goes by the XML from before",
                describe::persistent_state_set(&self.guest)
            ),
        }
    }
}

impl Answer for Rows {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.0.is_empty() {
            return writeln!(out, "no guest that is defined has an encrypted vTPM");
        }
        self.0.iter().try_for_each(|row| row.print(out))
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
            PersistError::NotRedefined(guest, error) => describe::not_redefined(guest, error),
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
