//! `state persist`: libvirt keeps the TPM state of guests that it forgets.

use std::io;
use std::process::ExitCode;

use serde::Serialize;

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
        // The error about the only guest that was named is the answer.
        let (changed, error) = match changed {
            Err(error) if is_one => return Err(error.into()),
            Err(error) => (false, Some(CommandError::from(error))),
            Ok(changed) => (changed, None),
        };
        rows.push(Row {
            guest,
            changed,
            running,
            hint: error
                .as_ref()
                .and_then(|error| Some(error.hint()?.to_owned())),
            error: error.as_ref().map(ToString::to_string),
            failure: error,
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
#[derive(Serialize)]
struct Row {
    #[serde(rename = "domain")]
    guest: GuestRef,
    changed: bool,
    running: bool,
    /// Why its XML could not be changed.
    error: Option<String>,
    hint: Option<String>,
    #[serde(skip)]
    failure: Option<CommandError>,
}

impl Rows {
    /// As that of `adopt`: 4 if it failed for any guest, else 1 if it was refused for one.
    fn status(&self) -> ExitCode {
        let failures = || self.0.iter().filter_map(|row| row.failure.as_ref());
        let failed = failures().find(|failure| !failure.is_refusal());
        let worst = failed.or(failures().next());
        worst.map_or(ExitCode::SUCCESS, CommandError::status)
    }
}

impl Row {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guest = self.guest.label();
        if let Some(error) = &self.error {
            writeln!(out, "{error}")?;
            return match &self.hint {
                Some(hint) => writeln!(out, "  hint: {hint}"),
                None => Ok(()),
            };
        }
        match (self.changed, self.running) {
            (false, _) => writeln!(
                out,
                "the XML of {guest} already has persistent_state='yes'; nothing changed"
            ),
            (true, false) => writeln!(out, "{}", describe::persistent_state_set(&self.guest)),
            (true, true) => writeln!(
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
            PersistError::NotRedefined(guest, error) => {
                let name = guest.label();
                Self::failed(format!("the XML of {name} was not changed: {error}")).with_hint(
                    format!(
                        "show it: {}; then run it again",
                        Command::VirshDumpxml(guest.arg)
                    ),
                )
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
