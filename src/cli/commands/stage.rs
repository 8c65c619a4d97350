//! `stage`: before libvirtd starts, the keys of the guests that will start with it.

use std::io;

use comfy_table::Color;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::libvirt::Daemons;
use crate::manage::dry_start::CheckedGuest;
use crate::manage::stage::{StageError, stage};
use crate::messages::{count, reason, refusal};
use crate::verdict::Decision;
use crate::verdict::outcome::SecretAction;

/// The guests that will start with libvirtd.
#[derive(Serialize)]
#[serde(transparent)]
struct StagedGuests {
    guests: Vec<CheckedGuest>,
    #[serde(skip)]
    daemons: Daemons,
}

pub(crate) fn run(context: &Context) -> Result<(), CommandError> {
    let (guests, daemons) = (stage(&context.host)?, context.host.daemons());
    context.output.print(&StagedGuests { guests, daemons })
}

impl Answer for StagedGuests {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let guests = &self.guests;
        if self.daemons == Daemons::Modular {
            return writeln!(
                out,
                "nothing to stage: {} takes keys while {} starts its guests",
                self.daemons.of_secrets(),
                self.daemons.of_guests()
            );
        }
        if guests.is_empty() {
            return writeln!(out, "no guest will start with libvirtd");
        }
        let mut rows = table(&["DOMAIN", "KEY", "WHY"]);
        for one in guests {
            let CheckedGuest { name, outcome, .. } = one;
            let (key, colour, why) = match (outcome.verdict.decision(), outcome.secret) {
                (Decision::Allow(why), SecretAction::None) => {
                    ("-", Color::Reset, reason(*why).to_owned())
                }
                (Decision::Allow(why), _) => ("staged", GOOD, reason(*why).to_owned()),
                (Decision::Deny(why), _) => {
                    let message = refusal(one.named(), why).message;
                    (why.code().as_str(), BAD, message)
                }
            };
            rows.add_row([Cell::new(name), Cell::new(key).fg(colour), Cell::new(why)]);
        }
        out.table(&rows)?;
        let number = |is: fn(&CheckedGuest) -> bool| guests.iter().filter(|one| is(one)).count();
        writeln!(
            out,
            "{} to start with libvirtd: {} staged, {} refused",
            count(guests.len(), "guest"),
            count(
                number(|one| one.outcome.secret != SecretAction::None),
                "key"
            ),
            number(|one| !one.outcome.is_allowed())
        )
    }
}

impl From<StageError> for CommandError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Staging(error) => error.into(),
            StageError::Definitions(_) => Self::failed(error),
            StageError::Host(error) => error.into(),
        }
    }
}
