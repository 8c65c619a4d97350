//! `replay`: what the hook would do with a captured domain XML.

use std::process::ExitCode;

use super::captures;
use crate::cli::args::ReplayedXml;
use crate::cli::context::Context;
use crate::cli::guest_file;
use crate::cli::ui::check_table::{self, Asked, Judged};
use crate::cli::ui::error::CommandError;
use crate::config::Lifetime;
use crate::guard::{self, Guard, Mode, Operation, prepare};
use crate::log;
use crate::manage::guests::ListedGuest;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::store::Origin;
use crate::verdict::facts::TpmState;
use crate::verdict::outcome::{Outcome, SecretAction};
use crate::verdict::{Reason, Verdict};

/// How the XML is replayed.
pub(crate) struct Replay<'a> {
    pub(crate) xml: &'a ReplayedXml,
    pub(crate) operation: &'a str,
    pub(crate) sub_operation: &'a str,
    pub(crate) dry_run: bool,
    pub(crate) no_secret: bool,
}

pub(crate) fn run(context: &Context, replay: &Replay<'_>) -> Result<ExitCode, CommandError> {
    let mut guard = context.host.guard(BrokenConfig::UseDefaults)?;
    if replay.no_secret {
        guard.secrets = None;
    }
    let guest = match (&replay.xml.file, replay.xml.capture) {
        (Some(file), _) => guest_file::from_file(file)?,
        (None, number) => guest_file::from_file(&captures::file(context, number.unwrap_or(1))?)?,
    };
    let outcome = match Operation::parse(replay.operation, replay.sub_operation, "-") {
        Some(Operation::Prepare) => start(context, &guard, replay, &guest),
        Some(operation) => {
            follow_up(&guard, replay, operation, &guest)?;
            never_refused(&guard, &guest, replay)
        }
        None => never_refused(&guard, &guest, replay),
    };
    let judged = [Judged {
        name: guest.name,
        outcome,
    }];
    check_table::print(&context.output, Asked::One, &judged)?;
    Ok(check_table::status(&judged, false))
}

fn start(context: &Context, guard: &Guard, replay: &Replay<'_>, guest: &ListedGuest) -> Outcome {
    let mode = if replay.dry_run {
        Mode::DryRun
    } else {
        Mode::CarryOut
    };
    if !replay.dry_run
        && let Err(error) = log::init(&guard.config, &guard.state_dir)
    {
        context.output.note(&error.to_string());
    }
    let outcome = prepare(
        guard,
        &guest.domain,
        Origin::Replay,
        mode,
        default_deadline(),
    );
    if !replay.dry_run {
        log::decision(&guest.name, "replay", &outcome);
    }
    drop_unused_secret(context, guard, &outcome);
    outcome
}

/// Drops the secret that the replay gave libvirt for a start which does not follow. A guest that is
/// active, perhaps starting, needs its secret; so does one of which libvirt says nothing.
fn drop_unused_secret(context: &Context, guard: &Guard, outcome: &Outcome) {
    let (Some(domain), Some(secrets)) = (&outcome.domain, &guard.secrets) else {
        return;
    };
    let Some((_, secret)) = domain.encrypted_vtpm() else {
        return;
    };
    let stays = guard.config.secret_lifetime == Lifetime::Keep;
    if stays || outcome.secret == SecretAction::None {
        return;
    }
    let known = context
        .host
        .libvirt()
        .guest(domain.uuid, default_deadline());
    let dropped = match known {
        Ok(Some(guest)) if guest.running => Ok(false),
        Ok(_) => secrets.drop_own(secret, domain.uuid, default_deadline()),
        Err(error) => Err(error),
    };
    if let Err(error) = dropped {
        context.output.note(&format!(
            "the secret {secret} stays in libvirt until the guest's next start: {error}"
        ));
    }
}

fn follow_up(
    guard: &Guard,
    replay: &Replay<'_>,
    operation: Operation,
    guest: &ListedGuest,
) -> Result<(), CommandError> {
    match &guest.domain {
        Ok(domain) if !replay.dry_run => {
            guard::follow_up(guard, operation, domain, default_deadline())
                .map_err(|error| CommandError::failed(format!("{}: {error}", guest.name)))
        }
        _ => Ok(()),
    }
}

/// The outcome of an operation other than `prepare begin`.
fn never_refused(guard: &Guard, guest: &ListedGuest, replay: &Replay<'_>) -> Outcome {
    let domain = guest.domain.as_ref().ok();
    Outcome {
        domain: domain.cloned(),
        state: domain.map_or(TpmState::Absent, |domain| guard.tpm_state(domain)),
        verdict: Verdict::allow(Reason::NotAStart),
        key: None,
        secret: SecretAction::None,
        dry_run: replay.dry_run,
    }
}
