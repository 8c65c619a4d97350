//! `store rebuild`: key references from the keys in the guests' XMLs.

use std::io;
use std::process::ExitCode;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::progress::Progress;
use crate::cli::ui::table::{BAD, Cell, GOOD, NOTABLE, table};
use crate::guard::LearnError;
use crate::manage::store_rebuild::{NotRebuilt, RebuildResult, Rebuilt, RebuiltGuest, rebuild};
use crate::messages::{Command, Named, count, refusal};
use crate::verdict::refusal::Refusal;

pub(super) fn run(context: &Context, dry_run: bool) -> Result<ExitCode, CommandError> {
    let guests = context.host.guests()?;
    let progress = Progress::new("rebuilding", guests.len());
    let rebuilt = rebuild(&context.host, guests, dry_run, &|name| progress.at(name))?;
    progress.done();
    context.output.print(&rebuilt)?;
    Ok(if rebuilt.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(4)
    })
}

impl Answer for Rebuilt {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.guests.is_empty() {
            return writeln!(out, "no guest has an encrypted vTPM");
        }
        let mut rows = table(&["DOMAIN", "RESULT", "PROVIDER", "KEY REFERENCE"]);
        for guest in &self.guests {
            let (word, colour) = match guest.result {
                RebuildResult::Stored if self.dry_run => ("would be stored", GOOD),
                RebuildResult::Stored => ("stored", GOOD),
                RebuildResult::Known => ("known", GOOD),
                RebuildResult::NoKey => ("no key", NOTABLE),
                RebuildResult::Failed => ("failed", BAD),
            };
            rows.add_row([
                Cell::new(guest.guest.label()),
                Cell::new(word).fg(colour),
                Cell::new(guest.provider.as_deref().unwrap_or("-")),
                Cell::new(guest.key_ref.map_or("-".to_owned(), |id| id.to_string())),
            ]);
        }
        out.table(&rows)?;
        let stored = |guest: &&RebuiltGuest| guest.result == RebuildResult::Stored;
        let stored = self.guests.iter().filter(stored).count();
        let would_be = if self.dry_run { "would be " } else { "" };
        writeln!(out, "{} {would_be}stored", count(stored, "key"))
    }

    fn notes(&self) -> Vec<String> {
        self.guests.iter().filter_map(note).collect()
    }
}

/// Why a guest has no key now, and what helps.
fn note(guest: &RebuiltGuest) -> Option<String> {
    let label = guest.guest.label();
    let show = Command::KeyShow(guest.guest.arg.clone());
    Some(match guest.why.as_ref()? {
        NotRebuilt::NoKey => {
            let check = Command::Check(guest.guest.arg.clone());
            format!("{label}: its XML has no key; for what its start would do: {check}")
        }
        NotRebuilt::OfOther {
            original,
            has_state,
        } => in_words(
            guest,
            &Refusal::KeyOfOriginal {
                original: *original,
                is_lost: *has_state,
                is_defined: true,
            },
        ),
        NotRebuilt::Retired => {
            format!("{label}: the key in its XML is retired on this host: {show}")
        }
        NotRebuilt::Refuted => {
            format!("{label}: the key in its XML does not open its TPM state")
        }
        NotRebuilt::OutOfReach(why) => in_words(guest, why),
        NotRebuilt::Unreadable(why) => format!("{label}: {}", why.reason),
        NotRebuilt::Store(LearnError::Access(why)) => in_words(guest, &Refusal::Store(why.clone())),
        NotRebuilt::Store(error @ (LearnError::Store(_) | LearnError::FleetSilent(_))) => {
            format!("{label}: {error}")
        }
    })
}

fn in_words(guest: &RebuiltGuest, why: &Refusal) -> String {
    let named = Named {
        name: guest.guest.name.as_deref().unwrap_or_default(),
        uuid: Some(guest.guest.uuid),
    };
    let words = refusal(named, why);
    format!("{}: {}; {}", guest.guest.label(), words.message, words.hint)
}
