//! `unstage`: removes what `stage` left, once libvirtd is up.

use std::thread;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::host::Host;
use crate::clock::Deadline;
use crate::config::Lifetime;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::Guest;
use crate::libvirt::secret::SecretError;
use crate::staging::{StagedSecret, StagingError};

/// How long libvirtd is waited for at a time. It says that it is ready before it starts its guests,
/// and answers after that. By then it has long read the keys, so they are removed even if it does not
/// answer.
const DEADLINE_FOR_LIBVIRTD: Duration = Duration::from_secs(60);

/// The pause before libvirtd is asked again that answered with an error.
const PAUSE: Duration = Duration::from_secs(1);

/// What to do about a libvirtd that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Give up: somebody waits.
    OneMinute,
    /// Wait as long as it runs: its guests may take hours to start, and nobody else would have it
    /// drop their secrets. If it ends, leave everything: `ExecStopPost` clears it, and what is there
    /// after that is for its next start.
    WhileItRuns,
}

/// The daemon whose keys were to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// It runs, and has answered unless there was nothing to ask.
    Runs,
    /// None runs: files alone were removed.
    IsDown,
    /// It ended while it was waited for: nothing was removed.
    Ended,
}

/// What was removed.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Unstaged {
    pub(crate) keys: Vec<UnstagedKey>,
    #[serde(skip)]
    pub(crate) daemon: Daemon,
}

/// A staged key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnstagedKey {
    pub(crate) staged: StagedSecret,
    /// Whether libvirt dropped the secret.
    pub(crate) dropped: bool,
}

impl Serialize for UnstagedKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Domain {
            uuid: DomainUuid,
        }
        #[derive(Serialize)]
        struct Secret {
            uuid: SecretUuid,
            action: &'static str,
        }
        #[derive(Serialize)]
        struct Document {
            domain: Domain,
            secret: Secret,
        }
        let StagedSecret { secret, domain } = self.staged;
        let action = if self.dropped { "dropped" } else { "none" };
        Document {
            domain: Domain { uuid: domain },
            secret: Secret {
                uuid: secret,
                action,
            },
        }
        .serialize(to)
    }
}

/// Why not all was removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnstageError {
    /// The staged files.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// libvirt did not answer, or there is no program to ask it. The keys are gone from the tmpfs; it still has the secrets, which the
    /// definitions that are left name for the next call.
    #[error(transparent)]
    Libvirt(SecretError),
}

/// Whether a later question may be answered: not if libvirt has refused it; and not without a program
/// that asks, which only an installation brings back.
fn may_be_answered(error: &SecretError, patience: Patience, has_read_them: Deadline) -> bool {
    patience == Patience::WhileItRuns
        && match error {
            SecretError::Unreachable(_) => true,
            SecretError::NoHelper(_) => !has_read_them.has_passed(),
            _ => false,
        }
}

/// Removes the staged keys, and has libvirt drop the secrets that are no longer needed.
/// `asks_again` is called once, with the reason, before libvirtd is asked again.
pub(crate) fn unstage(
    host: &Host,
    patience: Patience,
    asks_again: impl FnOnce(&SecretError),
) -> Result<Unstaged, UnstageError> {
    let has_read_them = Deadline::after(DEADLINE_FOR_LIBVIRTD);
    unstage_once_read(host, patience, has_read_them, asks_again)
}

/// The same. libvirtd, which is starting, reads the keys until then.
pub(crate) fn unstage_once_read(
    host: &Host,
    patience: Patience,
    has_read_them: Deadline,
    asks_again: impl FnOnce(&SecretError),
) -> Result<Unstaged, UnstageError> {
    let mut asks_again = Some(asks_again);
    loop {
        // The keys are not on the tmpfs for longer than that.
        let deadline = if has_read_them.has_passed() {
            Deadline::after(DEADLINE_FOR_LIBVIRTD)
        } else {
            has_read_them
        };
        let error = match attempt(host, patience, deadline) {
            Err(UnstageError::Libvirt(error)) => error,
            result => return result,
        };
        let is_final = !may_be_answered(&error, patience, has_read_them);
        if is_final || has_read_them.has_passed() {
            // If libvirtd still starts its guests, the definitions tell the hook which of them have
            // their keys.
            host.staging_dir().remove_keys()?;
        }
        if is_final {
            return Err(UnstageError::Libvirt(error));
        }
        if let Some(asks_again) = asks_again.take() {
            asks_again(&error);
        }
        thread::sleep(PAUSE);
        host.forget_silence();
    }
}

fn attempt(host: &Host, patience: Patience, deadline: Deadline) -> Result<Unstaged, UnstageError> {
    // After a start that failed, and after a stop: what a daemon would hold is gone with it.
    let daemon_runs = host.daemon_runs();
    if !daemon_runs && patience == Patience::WhileItRuns {
        return Ok(Unstaged {
            keys: Vec::new(),
            daemon: Daemon::Ended,
        });
    }
    let directory = host.staging_dir();
    let mut keys: Vec<_> = directory
        .staged()?
        .into_iter()
        .map(|staged| UnstagedKey {
            staged,
            dropped: false,
        })
        .collect();
    if !keys.is_empty() && daemon_runs {
        // By the defaults where the configuration is broken: no key stays for that.
        let lifetime = host.config().unwrap_or_default().secret_lifetime;
        drop_secrets(host, &mut keys, lifetime, deadline).map_err(UnstageError::Libvirt)?;
    }
    directory.clear()?;
    let daemon = if daemon_runs {
        Daemon::Runs
    } else {
        Daemon::IsDown
    };
    Ok(Unstaged { keys, daemon })
}

/// Drops what `started` and `release` could not: they do not wait for a libvirtd that is starting.
fn drop_secrets(
    host: &Host,
    keys: &mut [UnstagedKey],
    lifetime: Lifetime,
    deadline: Deadline,
) -> Result<(), SecretError> {
    let libvirt = host.libvirt();
    let guests = libvirt.guests(deadline)?;
    for key in keys {
        let StagedSecret { secret, domain } = key.staged;
        let runs = guests
            .iter()
            .any(|Guest { uuid, running, .. }| *running && *uuid == domain);
        let is_unneeded = match lifetime {
            Lifetime::Start => true,
            Lifetime::Run => !runs,
            Lifetime::Keep => false,
        };
        key.dropped = is_unneeded && libvirt.drop_staged(secret, domain, deadline)?;
    }
    Ok(())
}
