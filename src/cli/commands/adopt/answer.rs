//! What `adopt` prints: a table, or a list of documents; and its exit status.

use std::process::ExitCode;

use comfy_table::Color;
use serde_json::{Value, json};

use super::{SecretFate, Taken, Work};
use crate::cli::ui::answer::{Output, count};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::manage::guests::GuestRef;
use crate::messages::label;

/// What came of one guest, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Adopted,
    Already,
    Refused,
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Already => "already",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    fn colour(self) -> Color {
        match self {
            Self::Adopted | Self::Already => GOOD,
            Self::Refused => NOTABLE,
            Self::Failed => BAD,
        }
    }
}

impl Work<'_> {
    fn outcome(&self) -> Outcome {
        match (&self.trouble, &self.taken) {
            (Some(trouble), _) if trouble.is_refusal() => Outcome::Refused,
            (None, Some(Taken { new: true, .. })) => Outcome::Adopted,
            (None, Some(Taken { new: false, .. })) => Outcome::Already,
            _ => Outcome::Failed,
        }
    }

    fn reason(&self) -> String {
        match (&self.trouble, &self.taken) {
            (Some(trouble), _) => trouble.to_string(),
            (None, taken) => taken.as_ref().map_or(String::new(), Taken::in_words),
        }
    }

    /// What is wrong with the key that was taken over.
    fn warnings(&self) -> Option<String> {
        self.taken.as_ref().filter(|taken| taken.guessable)?;
        let guest = GuestRef::from(&self.candidate.guest);
        Some(format!(
            "the key of {} is so short that it can be guessed from a copy of its TPM state; renew \
             it once the guest is shut down: vtpm-guard key renew {}",
            guest.label(),
            guest.arg
        ))
    }

    fn document(&self) -> Value {
        let taken = self.taken.as_ref();
        let guest = &self.candidate.guest;
        let secret = self.candidate.secret();
        json!({
            "domain": { "name": guest.name, "uuid": guest.uuid.to_string() },
            "result": self.outcome().word(),
            "key_ref": taken.map(|taken| taken.key_ref.0),
            "provider": taken.map(|taken| &taken.provider),
            "proven": taken.map(|taken| taken.proven),
            "secret": secret.map(|secret| json!({
                "uuid": secret.to_string(),
                "action": taken.map_or("none", |taken| taken.secret.word()),
            })),
            "reason": self.reason(),
            "hint": self.trouble.as_ref().and_then(CommandError::hint),
            "warnings": self.warnings().into_iter().map(|message| json!({
                "kind": "guessable-key",
                "message": message,
            })).collect::<Value>(),
        })
    }
}

impl Taken {
    fn in_words(&self) -> String {
        let key = match (self.new, self.proven) {
            (true, true) => "the TPM state proves its key",
            (true, false) => "there is no TPM state to prove its key",
            (false, true) => "the guard has its key, which opens the TPM",
            (false, false) => "the guard has its key, and no TPM state proves it",
        };
        let secret = match &self.secret {
            SecretFate::Absent => "; libvirt has none".to_owned(),
            SecretFate::Own => "; libvirt's secret is the guard's own".to_owned(),
            SecretFate::Kept | SecretFate::ToGo => "; libvirt's secret stays".to_owned(),
            SecretFate::KeptFor(others) => format!(
                "; libvirt's secret stays until {} is adopted, too",
                others.join(", ")
            ),
            SecretFate::Removed => "; libvirt's secret is gone".to_owned(),
        };
        format!("{key}{secret}")
    }
}

impl SecretFate {
    fn word(&self) -> &'static str {
        match self {
            Self::Absent | Self::Own => "none",
            Self::Kept | Self::KeptFor(_) | Self::ToGo => "kept",
            Self::Removed => "removed",
        }
    }
}

pub(crate) fn print(output: &Output, works: &[Work<'_>]) -> Result<(), CommandError> {
    let documents: Value = works.iter().map(Work::document).collect();
    output.answer(&documents, |out| {
        if works.is_empty() {
            return writeln!(out, "no guest has an encrypted vTPM");
        }
        let mut rows = table(&["DOMAIN", "RESULT", "PROVIDER", "KEY REF", "WHY"]);
        for work in works {
            let taken = work.taken.as_ref();
            let outcome = work.outcome();
            rows.add_row([
                Cell::new(&work.candidate.guest.name),
                Cell::new(outcome.word()).fg(outcome.colour()),
                Cell::new(taken.map_or("-", |taken| &taken.provider)),
                Cell::new(taken.map_or("-".to_owned(), |taken| taken.key_ref.to_string())),
                Cell::new(work.reason()),
            ]);
        }
        out.table(&rows)?;
        for work in works {
            if let Some(hint) = work.trouble.as_ref().and_then(CommandError::hint) {
                writeln!(out, "  hint: {}: {hint}", label(&work.candidate.guest.name))?;
            }
        }
        let number = |wanted| works.iter().filter(|work| work.outcome() == wanted).count();
        writeln!(
            out,
            "{}: {} adopted, {} already, {} refused, {} failed",
            count(works.len(), "guest"),
            number(Outcome::Adopted),
            number(Outcome::Already),
            number(Outcome::Refused),
            number(Outcome::Failed)
        )
    })
}

/// Says what is wrong with keys that were taken over.
pub(crate) fn warn(output: &Output, works: &[Work<'_>]) {
    for warning in works.iter().filter_map(Work::warnings) {
        output.note(&warning);
    }
}

/// 4 if anything failed, else 1 if anything was refused, else 0.
pub(crate) fn status(works: &[Work<'_>]) -> ExitCode {
    let any = |wanted| works.iter().any(|work| work.outcome() == wanted);
    ExitCode::from(match (any(Outcome::Failed), any(Outcome::Refused)) {
        (true, _) => 4,
        (false, true) => 1,
        (false, false) => 0,
    })
}
