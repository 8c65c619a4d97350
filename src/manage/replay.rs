//! `replay`: what the hook does with a captured domain XML.

use super::dry_start::{CheckedGuest, dry_start};
use super::guests::ListedGuest;
use super::host::{BrokenConfig, Host, HostError, default_deadline};
use crate::config::Lifetime;
use crate::guard::{self, FollowUpError, Guard, Mode, Operation, prepare};
use crate::ids::SecretUuid;
use crate::libvirt::secret::SecretError;
use crate::log::{self, LogError};
use crate::store::Origin;
use crate::verdict::facts::TpmState;
use crate::verdict::outcome::{Outcome, SecretAction};
use crate::verdict::{Reason, Verdict};

/// How a domain XML is replayed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplayedCall<'a> {
    pub(crate) operation: &'a str,
    pub(crate) sub_operation: &'a str,
    /// Change nothing.
    pub(crate) dry_run: bool,
    /// Leave libvirt alone, as if it had no secret.
    pub(crate) no_secret: bool,
}

impl ReplayedCall<'_> {
    /// Whether it is a start that is carried out, which is logged as one.
    pub(crate) fn has_log(&self) -> bool {
        let operation = Operation::parse(self.operation, self.sub_operation, "-");
        operation == Some(Operation::Prepare) && !self.dry_run
    }
}

/// What a replay did.
pub(crate) struct Replayed {
    pub(crate) guest: CheckedGuest,
    /// The log could not be opened.
    pub(crate) no_log: Option<LogError>,
    /// The secret that libvirt was given stays until the guest's next start.
    pub(crate) secret_left: Option<(SecretUuid, SecretError)>,
}

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What follows a start failed for the guest of this name.
    #[error("{0}: {1}")]
    FollowUp(String, FollowUpError),
}

/// Does with this guest's XML what the hook would do in this call.
pub(crate) fn replay(
    host: &Host,
    guest: ListedGuest,
    call: ReplayedCall<'_>,
) -> Result<Replayed, ReplayError> {
    let ListedGuest {
        name,
        source,
        domain,
    } = guest;
    let mut guard = host.guard(BrokenConfig::UseDefaults)?;
    if call.no_secret {
        guard.secrets = None;
    }
    let (mut no_log, mut secret_left) = (None, None);
    let operation = Operation::parse(call.operation, call.sub_operation, "-");
    let outcome = match (operation, &domain) {
        (Some(Operation::Prepare), _) if call.dry_run => {
            dry_start(&guard, &domain, default_deadline())
        }
        (Some(Operation::Prepare), _) => {
            no_log = log::init_or_collect(&guard.config, &guard.state_dir).err();
            let deadline = default_deadline();
            let outcome = prepare(&guard, &domain, Origin::Replay, Mode::CarryOut, deadline);
            log::decision(&name, "replay", guard.start_time.get(), &outcome);
            secret_left = drop_unused_secret(host, &guard, &outcome);
            outcome
        }
        (Some(operation), Ok(found)) if !call.dry_run => {
            guard::follow_up(&guard, operation, found, default_deadline())
                .map_err(|error| ReplayError::FollowUp(name.clone(), error))?;
            no_start(&guard, domain.ok(), call.dry_run)
        }
        _ => no_start(&guard, domain.ok(), call.dry_run),
    };
    Ok(Replayed {
        guest: CheckedGuest {
            name,
            source,
            outcome,
        },
        no_log,
        secret_left,
    })
}

/// Drops the secret that the replay gave libvirt for a start which does not follow. A guest that is
/// active, perhaps starting, needs its secret; so does one of which libvirt says nothing.
fn drop_unused_secret(
    host: &Host,
    guard: &Guard,
    outcome: &Outcome,
) -> Option<(SecretUuid, SecretError)> {
    let (domain, secrets) = (outcome.domain.as_ref()?, guard.secrets.as_ref()?);
    let (_, secret) = domain.encrypted_vtpm()?;
    let stays = guard.config.secret_lifetime == Lifetime::Keep;
    if stays || outcome.secret == SecretAction::None {
        return None;
    }
    let dropped = match host.libvirt().guest(domain.uuid, default_deadline()) {
        Ok(Some(guest)) if guest.running => Ok(false),
        Ok(_) => secrets.drop_own(secret, domain.uuid, default_deadline()),
        Err(error) => Err(error),
    };
    Some((secret, dropped.err()?))
}

/// The outcome of an operation other than `prepare begin`, which is never refused.
fn no_start(guard: &Guard, domain: Option<crate::domain::Domain>, dry_run: bool) -> Outcome {
    Outcome {
        state: domain
            .as_ref()
            .map_or(TpmState::Absent, |domain| guard.tpm_state(domain)),
        domain,
        verdict: Verdict::allow(Reason::NotAStart),
        key: None,
        secret: SecretAction::None,
        dry_run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_is_carried_out_has_a_log() {
        let has_log = |operation: &str, dry_run| {
            let call = ReplayedCall {
                operation,
                sub_operation: "begin",
                dry_run,
                no_secret: false,
            };
            call.has_log()
        };
        assert!(has_log("prepare", false));
        assert!(!has_log("prepare", true));
        assert!(!has_log("started", false) && !has_log("started", true));
    }
}
