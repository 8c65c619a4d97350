//! `repair`: the repairs of a start, without a start.

use std::process::ExitCode;

use super::nagios;
use crate::cli::args::Domains;
use crate::cli::context::Context;
use crate::cli::ui::check_table::{self, Asked, Judged};
use crate::cli::ui::error::CommandError;
use crate::cli::ui::progress::Progress;
use crate::guard::{Mode, prepare};
use crate::manage::guests::ListedGuest;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::store::Origin;

pub(crate) fn run(
    context: &Context,
    which: &Domains,
    dry_run: bool,
    as_plugin: bool,
) -> Result<ExitCode, CommandError> {
    match (repair(context, which, dry_run), as_plugin) {
        (Ok((_, judged)), true) => nagios::print(&context.output, &judged),
        (Ok((asked, judged)), false) => {
            check_table::print(&context.output, asked, &judged)?;
            Ok(check_table::status(&judged, dry_run))
        }
        (Err(error), true) => Ok(nagios::unknown(&context.output, &error)),
        (Err(error), false) => Err(error),
    }
}

fn repair(
    context: &Context,
    which: &Domains,
    dry_run: bool,
) -> Result<(Asked, Vec<Judged>), CommandError> {
    let guard = context.host.guard(BrokenConfig::Fail)?;
    let (asked, guests) = if which.all {
        (Asked::Several, context.host.listed_guests()?)
    } else {
        let asked = if which.domains.len() == 1 {
            Asked::One
        } else {
            Asked::Several
        };
        (asked, context.host.named_guests(&which.domains)?)
    };
    let mode = if dry_run {
        Mode::DryRun
    } else {
        Mode::RepairOnly
    };
    let progress = Progress::new("repairing", guests.len());
    let judge = |ListedGuest { name, domain }| {
        progress.at(&name);
        let outcome = prepare(&guard, &domain, Origin::Repair, mode, default_deadline());
        Judged { name, outcome }
    };
    let judged: Vec<_> = guests.into_iter().map(judge).collect();
    progress.done();
    Ok((asked, judged))
}
