//! `unstage`: removes what `stage` left, once libvirtd is up.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::answer::count;
use crate::cli::ui::error::CommandError;
use crate::clock::Deadline;
use crate::config::Lifetime;
use crate::libvirt::secret::SecretError;
use crate::libvirt::{Guest, a_daemon_runs};
use crate::manage::host::BrokenConfig;
use crate::manage::host::Host;
use crate::staging::{StagedSecret, StagingDir};

/// How long libvirtd is waited for. It says that it is ready before it starts its guests, and
/// answers after that. systemd gives a service 90 seconds for all of its start
/// (`DefaultTimeoutStartSec`), and would end libvirtd after them.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(context: &Context) -> Result<ExitCode, CommandError> {
    let place = StagingDir::of_this_host(&context.host.libvirt_dirs());
    let staged = place.staged()?;
    let mut dropped = Vec::new();
    // After a start that failed, and after a stop: what a daemon would hold is gone with it.
    let daemon_runs = a_daemon_runs();
    if !staged.is_empty() && daemon_runs {
        let lifetime = context
            .host
            .guard(BrokenConfig::UseDefaults)?
            .config
            .secret_lifetime;
        let deadline = Deadline::after(PATIENCE);
        match drop_secrets(&context.host, &staged, lifetime, deadline) {
            Ok(secrets) => dropped = secrets,
            Err(error) => {
                if deadline.has_passed() {
                    // It still starts its guests, and has read the keys long since. The rest
                    // tells the hook which of them have theirs.
                    place.remove_keys()?;
                } else {
                    place.clear()?;
                }
                return Err(CommandError::from(error).with_hint(
                    "the keys are gone from /run; when libvirtd answers: vtpm-guard unstage",
                ));
            }
        }
    }
    place.clear()?;
    answer(context, &staged, &dropped, daemon_runs)
}

/// Drops what `started` and `release` could not: they do not wait for a libvirtd that is
/// starting. Gives the secrets that were there to drop.
fn drop_secrets(
    host: &Host,
    staged: &[StagedSecret],
    lifetime: Lifetime,
    deadline: Deadline,
) -> Result<Vec<StagedSecret>, SecretError> {
    let libvirt = host.libvirt();
    let guests = libvirt.guests(deadline)?;
    let mut dropped = Vec::new();
    for &one in staged {
        let runs = guests
            .iter()
            .any(|Guest { uuid, running, .. }| *running && *uuid == one.domain);
        let has_done_its_work = match lifetime {
            Lifetime::Start => true,
            Lifetime::Run => !runs,
            Lifetime::Keep => false,
        };
        if has_done_its_work && libvirt.drop_staged(one.secret, one.domain, deadline)? {
            dropped.push(one);
        }
    }
    Ok(dropped)
}

fn answer(
    context: &Context,
    staged: &[StagedSecret],
    dropped: &[StagedSecret],
    daemon_runs: bool,
) -> Result<ExitCode, CommandError> {
    let document: Value = staged
        .iter()
        .map(|one| {
            json!({
                "domain": { "uuid": one.domain.to_string() },
                "secret": {
                    "uuid": one.secret.to_string(),
                    "action": if dropped.contains(one) { "dropped" } else { "none" },
                },
            })
        })
        .collect();
    context.output.answer(&document, |out| {
        if staged.is_empty() {
            return writeln!(out, "nothing was staged");
        }
        let keys = count(staged.len(), "staged key");
        if !daemon_runs {
            return writeln!(out, "removed {keys}; libvirtd does not run");
        }
        writeln!(
            out,
            "removed {keys}; libvirt has dropped {} of the secrets",
            dropped.len()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
