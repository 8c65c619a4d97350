//! `stage`: before libvirtd starts, the keys of the guests that will start with it.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::Color;
use serde_json::Value;

use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::check_table::Judged;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, Cell, GOOD, table};
use crate::guard::{Mode, prepare};
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::messages::{outcome_json, reason, refusal};
use crate::staging::{Definition, DefinitionFiles, Staging, StagingDir};
use crate::store::Origin;
use crate::verdict::Decision;
use crate::verdict::outcome::SecretAction;

/// How long one guest may hold up the daemon's start, a locked store above all.
const FOR_ONE_GUEST: Duration = Duration::from_secs(5);

pub(crate) fn run(context: &Context) -> Result<ExitCode, CommandError> {
    let dirs = context.host.libvirt_dirs();
    let place = StagingDir::of_this_host(&dirs);
    place.clear()?;
    let starting = DefinitionFiles::from(&dirs).starting().map_err(|error| {
        CommandError::failed(format!("libvirt's definitions cannot be read: {error}"))
    })?;
    if !starting.is_empty() {
        place.check()?;
    }
    let mut guard = context.host.guard(BrokenConfig::UseDefaults)?;
    guard.secrets = Some(Box::new(Staging(place)));
    let deadline = default_deadline();
    let judge = |Definition { name, domain }| {
        let for_one = deadline.at_most(FOR_ONE_GUEST);
        let outcome = prepare(&guard, &domain, Origin::Stage, Mode::CarryOut, for_one);
        Judged { name, outcome }
    };
    let judged: Vec<_> = starting.into_iter().map(judge).collect();
    let document: Value = judged
        .iter()
        .map(|one| outcome_json(&one.outcome))
        .collect();
    context
        .output
        .answer(&document, |out| overview(out, &judged))?;
    // A guest that is refused is no reason to keep the daemon down, and all the others.
    Ok(ExitCode::SUCCESS)
}

fn overview(out: &mut Printer<'_>, judged: &[Judged]) -> io::Result<()> {
    if judged.is_empty() {
        return writeln!(out, "no guest will start with libvirtd");
    }
    let mut rows = table(&["DOMAIN", "KEY", "WHY"]);
    for one in judged {
        let Judged { name, outcome } = one;
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
    let staged = judged
        .iter()
        .filter(|one| one.outcome.secret != SecretAction::None)
        .count();
    let refused = judged
        .iter()
        .filter(|one| !one.outcome.is_allowed())
        .count();
    writeln!(
        out,
        "{} to start with libvirtd: {} staged, {refused} refused",
        count(judged.len(), "guest"),
        count(staged, "key"),
    )
}
