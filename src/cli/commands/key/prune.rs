//! `key prune`: removes what is left of guests that are gone for good.

use std::io;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::cli::context::Context;
use crate::cli::ui::answer::{Answer, time};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::config::duration;
use crate::manage::guests::GuestRef;
use crate::manage::prune::{PruneDecision, PruneError, Pruned, Rule, prune};
use crate::manage::unknown_guests::LeftState;
use crate::messages::{Arg, Command, count, left_of_guest, quoted};

pub(super) fn run(
    context: &Context,
    older_than: Option<&str>,
    standby: bool,
    dry_run: bool,
) -> Result<(), CommandError> {
    let rule = Rule {
        older_than: older_than.map(age).transpose()?,
        standby,
    };
    context.output.print(&prune(&context.host, rule, dry_run)?)
}

/// An age: `90m`, `12h`, `30d`, `4w`.
fn age(text: &str) -> Result<Duration, CommandError> {
    duration::parse(text).ok_or_else(|| {
        CommandError::usage(format!("invalid age {}", quoted(text)))
            .with_hint("a number and a unit: 12h, 30d, 8w")
    })
}

impl Answer for Pruned {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if self.guests.is_empty() {
            return writeln!(out, "libvirt knows every guest that has a key reference");
        }
        let heading = [
            "DOMAIN",
            "KEY REFS",
            "COPIES",
            "LAST CHANGE",
            "RESULT",
            "WHY",
        ];
        let mut lines = table(&heading);
        for pruned in &self.guests {
            let GuestRef { name, uuid, .. } = &pruned.guest;
            lines.add_row([
                name.clone().unwrap_or_else(|| uuid.to_string()),
                pruned.key_refs.len().to_string(),
                pruned.copies.to_string(),
                time(Some(pruned.last_change)),
                pruned.decision.word().to_owned(),
                reason(&pruned.decision),
            ]);
        }
        out.table(&lines)?;
        let tense = if self.dry_run {
            "would remove"
        } else {
            "removed"
        };
        writeln!(
            out,
            "{tense} {} of {}",
            left_of_guest(self.removed.key_refs, self.removed.copies),
            count(self.removed.guests, "guest")
        )
    }

    fn notes(&self) -> Vec<String> {
        let note = self.backup.as_ref().map(|backup| {
            let restore = Command::StoreRestore(Arg::file(backup));
            format!("the previous store is kept, with these keys: {restore}")
        });
        note.into_iter().collect()
    }
}

impl From<PruneError> for CommandError {
    fn from(error: PruneError) -> Self {
        let interrupted = match error {
            PruneError::Host(error) => return error.into(),
            PruneError::Interrupted(interrupted) => *interrupted,
        };
        let (done, of) = (interrupted.done, count(interrupted.of, "guest"));
        let part = format!("stopped after the key references of {done} of {of} were removed");
        let restore = Command::StoreRestore(Arg::file(&interrupted.backup));
        let go_on =
            format!("run it again; the previous store is kept, with all their keys: {restore}");
        Self::from(interrupted.error).after(part).going_on(go_on)
    }
}

/// Why it is removed, or stays.
fn reason(decision: &PruneDecision) -> String {
    match decision {
        PruneDecision::Remove => "libvirt does not know it, and no TPM state is left".to_owned(),
        PruneDecision::HasState(LeftState { path, trouble }) => match trouble {
            None => format!("TPM state is left: {}", path.display()),
            Some(trouble) => format!("TPM state may be left: {}: {trouble}", path.display()),
        },
        PruneDecision::RunsElsewhere => "its key was used, but never on this host: it may run on \
                                         another one (--standby removes it)"
            .to_owned(),
        PruneDecision::TooYoung => "it changed recently: --older-than AGE".to_owned(),
    }
}

impl Serialize for PruneDecision {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            result: &'a str,
            reason: &'a str,
        }
        let reason = reason(self);
        Document {
            result: self.word(),
            reason: &reason,
        }
        .serialize(to)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::manage::prune::InterruptedPrune;
    use crate::store::StoreError;

    #[test]
    fn what_stopped_halfway_says_how_far_it_came_and_where_the_keys_are() {
        let stopped = PruneError::Interrupted(Box::new(InterruptedPrune {
            done: 50,
            of: 60,
            backup: "/var/lib/vtpm-guard/store.db.pruned-1".into(),
            error: StoreError::Locked.into(),
        }));
        let error = CommandError::from(stopped);
        assert_eq!(
            error.to_string(),
            "stopped after the key references of 50 of 60 guests were removed: another program has \
             locked the store, and the deadline has passed"
        );
        assert_eq!(
            error.hint(),
            Some(
                "go on with the rest: run it again; the previous store is kept, with all their keys: \
                 vtpm-guard store restore /var/lib/vtpm-guard/store.db.pruned-1"
            )
        );
    }

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        assert_eq!(age("12h").unwrap(), Duration::from_secs(12 * 60 * 60));
        assert_eq!(age("4w").unwrap(), age("28d").unwrap());
        assert_eq!(age("0d").unwrap(), Duration::ZERO);
        for text in ["", "30", "-1d"] {
            assert!(age(text).is_err(), "{text:?}");
        }
    }
}
