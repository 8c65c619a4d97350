//! `repair`: the repairs that a start would make, without starting the guest.

use std::process::ExitCode;

use super::nagios;
use crate::cli::args::Domains;
use crate::cli::context::Context;
use crate::cli::ui::check_table::CheckedGuests;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;

/// The status where the store took no repair (docs/json.md): anything else that failed.
const NOT_REPAIRED: u8 = 4;

pub(crate) fn run(
    context: &Context,
    which: &Domains,
    dry_run: bool,
    as_plugin: bool,
) -> Result<ExitCode, CommandError> {
    match (repair(context, which, dry_run), as_plugin) {
        (Ok(repaired), true) => nagios::print(&context.output, &repaired.guests),
        (Ok(repaired), false) => {
            context.output.print(&repaired)?;
            let status = repaired.status(dry_run);
            // The guests would start, but nothing was repaired.
            if status == ExitCode::SUCCESS && repaired.has_unwritten_repairs() {
                return Ok(ExitCode::from(NOT_REPAIRED));
            }
            Ok(status)
        }
        (Err(error), true) => Ok(nagios::unknown(&context.output, &error)),
        (Err(error), false) => Err(error),
    }
}

fn repair(
    context: &Context,
    which: &Domains,
    dry_run: bool,
) -> Result<CheckedGuests, CommandError> {
    let guests = if which.all {
        context.host.listed_guests()?
    } else {
        context.host.named_guests(&which.domains)?
    };
    let progress = Progress::new("repairing", guests.len());
    let repair = crate::manage::repair::repair;
    let guests = repair(&context.host, guests, dry_run, &|name| progress.at(name))?;
    progress.done();
    Ok(CheckedGuests {
        one: which.domains.len() == 1,
        guests,
        notes: Vec::new(),
    })
}
