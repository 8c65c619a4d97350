//! `unstage`: removes what `stage` left, once libvirtd is up.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::host::{BrokenConfig, Host, HostError};
use crate::clock::Deadline;
use crate::config::Lifetime;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::Guest;
use crate::libvirt::secret::SecretError;
use crate::staging::{StagedSecret, StagingError};

/// How long libvirtd is waited for. It says that it is ready before it starts its guests, and
/// answers after that. systemd gives a service 90 seconds for all of its start
/// (`DefaultTimeoutStartSec`), and would end libvirtd after them.
const DEADLINE_FOR_LIBVIRTD: Duration = Duration::from_secs(60);

/// What was removed.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Unstaged {
    pub(crate) keys: Vec<UnstagedKey>,
    /// Whether there was a daemon to drop secrets.
    #[serde(skip)]
    pub(crate) daemon_runs: bool,
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
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// libvirt did not answer. The keys are gone from the tmpfs; it still has the secrets.
    #[error(transparent)]
    Libvirt(SecretError),
}

/// Removes the staged keys, and has libvirt drop the secrets that are no longer needed.
pub(crate) fn unstage(host: &Host) -> Result<Unstaged, UnstageError> {
    let deadline = Deadline::after(DEADLINE_FOR_LIBVIRTD);
    let directory = host.staging_dir();
    let mut keys: Vec<_> = directory
        .staged()?
        .into_iter()
        .map(|staged| UnstagedKey {
            staged,
            dropped: false,
        })
        .collect();
    // After a start that failed, and after a stop: what a daemon would hold is gone with it.
    let daemon_runs = host.daemon_runs();
    if !keys.is_empty() && daemon_runs {
        let guard = host.guard(BrokenConfig::UseDefaults)?;
        let lifetime = guard.config.secret_lifetime;
        if let Err(error) = drop_secrets(host, &mut keys, lifetime, deadline) {
            if deadline.has_passed() {
                // It still starts its guests, and has read the keys long since. The rest tells
                // the hook which of them have theirs.
                directory.remove_keys()?;
            } else {
                directory.clear()?;
            }
            return Err(UnstageError::Libvirt(error));
        }
    }
    directory.clear()?;
    Ok(Unstaged { keys, daemon_runs })
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
