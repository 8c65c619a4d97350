//! `adopt`: takes over the keys in existing libvirt secrets. Prints one line for each guest.

mod refusals;
mod sentences;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::io;
use std::process::ExitCode;

use comfy_table::Color;
use serde::Serialize;

use crate::cli::args::Domains;
use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::describe::{self, Keep};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::ids::{KeyRefId, SecretUuid};
use crate::manage::adopt::{AdoptResult, Request, SecretOutcome, Step, adopt};
use crate::manage::guests::GuestRef;
use crate::manage::host::Host;
use crate::manage::persist_state::{DeletedStates, Survival};
use crate::messages::count;

/// What `adopt` was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) provider: Option<&'a str>,
    pub(crate) keep_plaintext: bool,
    pub(crate) persistent_state: bool,
}

pub(crate) fn run(
    context: &Context,
    which: &Domains,
    asked: Asked<'_>,
) -> Result<ExitCode, CommandError> {
    let request = Request {
        guests: (!which.all).then_some(&which.domains),
        provider: asked.provider,
        keep_plaintext: asked.keep_plaintext,
    };
    let mut bar = Progress::new("", 0);
    let results = adopt(&context.host, &request, &mut |step| {
        let (verb, guests) = match step {
            Step::Guest(name) => return bar.at(name),
            Step::TakeOver(guests) => ("taking keys over", guests),
            Step::Verify(guests) => ("verifying keys", guests),
        };
        bar.done();
        bar = Progress::new(verb, guests);
    });
    bar.done();
    let mut rows = Rows(results?.into_iter().map(Row::from).collect());
    if asked.persistent_state {
        let adopted = rows.0.iter_mut().filter(|row| row.has_key());
        adopted.for_each(|row| row.persist_state(&context.host));
    }
    context.output.print(&rows)?;
    let adopted = rows.0.iter().filter(|row| row.has_key());
    let adopted: Vec<_> = adopted.map(|row| row.guest.uuid.to_string()).collect();
    if let Ok(guests) = context.host.named_guests(&adopted)
        && let Ok(deleted) = DeletedStates::find(&context.host, &guests)
    {
        for Keep { what, fix } in describe::deleted_states(&deleted) {
            context.output.note(&format!("{what}; {fix}"));
        }
    }
    Ok(rows.status())
}

/// What came of the guests.
#[derive(Debug, Serialize)]
struct Rows(Vec<Row>);

/// What came of one guest.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(rename = "domain")]
    guest: GuestRef,
    result: Outcome,
    key_ref: Option<KeyRefId>,
    provider: Option<String>,
    proven: Option<bool>,
    secret: Option<Secret>,
    reason: String,
    hint: Option<String>,
    warnings: Vec<Warning>,
    persistent_state_set: bool,
}

/// The same in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Adopted,
    Already,
    Refused,
    Failed,
}

/// libvirt's secret.
#[derive(Debug, Serialize)]
struct Secret {
    uuid: SecretUuid,
    action: &'static str,
}

/// What is wrong with a key that was taken over.
#[derive(Debug, Serialize)]
struct Warning {
    kind: &'static str,
    message: String,
}

impl From<AdoptResult> for Row {
    fn from(result: AdoptResult) -> Self {
        let stored = result.stored.as_ref();
        let guessable = stored.filter(|stored| stored.guessable);
        let warning = guessable.map(|_| Warning {
            kind: "guessable-key",
            message: sentences::guessable(&result.guest),
        });
        let action = stored.map_or("none", |stored| match stored.secret {
            SecretOutcome::Absent | SecretOutcome::Own => "none",
            SecretOutcome::Kept | SecretOutcome::KeptFor(_) | SecretOutcome::ToRemove => "kept",
            SecretOutcome::Removed => "removed",
        });
        let mut row = Self {
            key_ref: stored.map(|stored| stored.key_ref),
            provider: stored.map(|stored| stored.provider.clone()),
            proven: stored.map(|stored| stored.proven),
            secret: result.secret.map(|uuid| Secret { uuid, action }),
            warnings: warning.into_iter().collect(),
            persistent_state_set: false,
            result: Outcome::Failed,
            reason: String::new(),
            hint: None,
            guest: result.guest,
        };
        match (result.error, result.stored) {
            (Some(error), _) => {
                let error = sentences::not_adopted(error, &row.guest, result.secret);
                if error.is_refusal() {
                    row.result = Outcome::Refused;
                }
                row.reason = error.to_string();
                row.hint = error.hint().map(str::to_owned);
            }
            (None, Some(stored)) => {
                row.result = if stored.is_new {
                    Outcome::Adopted
                } else {
                    Outcome::Already
                };
                row.reason = sentences::adopted(&stored);
            }
            (None, None) => {}
        }
        row
    }
}

impl Row {
    /// Whether the guard has the guest's key.
    fn has_key(&self) -> bool {
        matches!(self.result, Outcome::Adopted | Outcome::Already)
    }

    /// Sets `persistent_state='yes'` in the guest's XML.
    fn persist_state(&mut self, host: &Host) {
        match Survival::of(host, &self.guest.uuid.to_string(), true) {
            Ok(done) => self.persistent_state_set = done.persistent_state_set,
            Err(error) => {
                let error = describe::not_persisted("it is adopted", error);
                self.result = Outcome::Failed;
                self.reason = error.to_string();
                self.hint = error.hint().map(str::to_owned);
            }
        }
    }
}

impl Answer for Rows {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.0.is_empty() {
            return writeln!(out, "no guest has an encrypted vTPM");
        }
        let mut rows = table(&["DOMAIN", "RESULT", "PROVIDER", "KEY REF", "WHY"]);
        for row in &self.0 {
            let (word, colour) = row.result.shown();
            rows.add_row([
                Cell::new(row.guest.name.as_deref().unwrap_or("-")),
                Cell::new(word).fg(colour),
                Cell::new(row.provider.as_deref().unwrap_or("-")),
                Cell::new(row.key_ref.map_or("-".to_owned(), |id| id.to_string())),
                Cell::new(&row.reason),
            ]);
        }
        out.table(&rows)?;
        for row in &self.0 {
            if let Some(hint) = &row.hint {
                writeln!(out, "  hint: {}: {hint}", row.guest.label())?;
            }
        }
        writeln!(
            out,
            "{}: {} adopted, {} already, {} refused, {} failed",
            count(self.0.len(), "guest"),
            self.number(Outcome::Adopted),
            self.number(Outcome::Already),
            self.number(Outcome::Refused),
            self.number(Outcome::Failed)
        )
    }

    fn notes(&self) -> Vec<String> {
        let warnings = self.0.iter().flat_map(|row| &row.warnings);
        warnings.map(|warning| warning.message.clone()).collect()
    }
}

impl Rows {
    fn number(&self, of: Outcome) -> usize {
        self.0.iter().filter(|row| row.result == of).count()
    }

    /// 4 if anything failed, else 1 if anything was refused, else 0.
    fn status(&self) -> ExitCode {
        let numbers = [Outcome::Failed, Outcome::Refused].map(|of| self.number(of));
        ExitCode::from(match numbers {
            [0, 0] => 0,
            [0, _] => 1,
            _ => 4,
        })
    }
}

impl Outcome {
    fn shown(self) -> (&'static str, Color) {
        match self {
            Self::Adopted => ("adopted", GOOD),
            Self::Already => ("already", GOOD),
            Self::Refused => ("refused", NOTABLE),
            Self::Failed => ("failed", BAD),
        }
    }
}
