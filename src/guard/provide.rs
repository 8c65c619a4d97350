//! Gives libvirt the key that a verdict names, while no other guest is being started with the same
//! secret and another key.

use super::context::Guard;
use super::gather::Gathered;
use super::lease::{self, Lease, LeaseError};
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret::{Provided, SecretError};
use crate::verdict::facts::{Facts, HostSecret, KeySource};
use crate::verdict::outcome::SecretAction;
use crate::verdict::refusal::Refusal;
use crate::verdict::{Over, Verdict};

/// Why libvirt did not get a key.
pub(super) enum NotProvided {
    /// Its secret is no longer what the verdict saw.
    SecretChanged,
    /// The start is refused.
    Refused(Refusal),
}

impl From<Refusal> for NotProvided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Gives libvirt the key that a verdict names.
pub(super) struct Provide<'a> {
    pub(super) guard: &'a Guard,
    pub(super) gathered: &'a Gathered,
    /// Whether a guest is being started, so that `started` or `release` follows.
    pub(super) is_start: bool,
    pub(super) deadline: Deadline,
}

impl Provide<'_> {
    pub(super) fn carry_out(
        &self,
        verdict: &Verdict,
        new_dek: Option<&Dek>,
    ) -> Result<SecretAction, NotProvided> {
        let (Some(provide), Some(secrets), Some((secret, domain))) = (
            verdict.secret(),
            &self.guard.secrets,
            self.gathered.facts.secret(),
        ) else {
            return Ok(SecretAction::None);
        };
        let Some(dek) = self.dek(provide.key, new_dek) else {
            let reason = "the verdict names a key that was not opened".to_owned();
            return Err(Refusal::Internal { reason }.into());
        };
        let until = self.guard.for_libvirt(self.deadline);
        let lease = self.lease(secret, domain.uuid, dek, until)?;
        let provided = match &lease {
            // Another guest that is being started has the same key.
            Some(lease) if lease.is_shared() => Ok(Provided::LeftAsIs),
            _ => secrets.provide(secret, domain.uuid, dek, provide.over, until),
        };
        let (action, defines) = match provided {
            Ok(Provided::Set) => (SecretAction::Set, true),
            Ok(Provided::Defined) => (SecretAction::Defined, true),
            Ok(Provided::LeftAsIs) => (SecretAction::None, false),
            Err(error) => return Err(self.not_provided(secret, error)),
        };
        if let Some(lease) = lease.filter(|_| self.is_start)
            && let Err(error) = lease.hold(domain, dek, defines)
        {
            tracing::warn!(%secret, %error, "could not record that the secret is in use");
        }
        Ok(action)
    }

    fn dek<'a>(&'a self, key: KeySource, new_dek: Option<&'a Dek>) -> Option<&'a Dek> {
        match key {
            KeySource::Created => new_dek,
            KeySource::Row(id) => {
                let trial = self.gathered.facts.trials.get(&id)?;
                self.gathered.keys.dek(trial.dek()?)
            }
        }
    }

    /// Leases the secret, so that no other guest is started with it and another key. A libvirtd
    /// that is starting starts one guest after the other and accepts no key: no lease is needed.
    fn lease(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        until: Deadline,
    ) -> Result<Option<Lease>, Refusal> {
        if self.guard.libvirt_starts {
            return Ok(None);
        }
        match lease::take(&self.guard.run_dir.leases(), secret, domain, dek, until) {
            Ok(lease) => Ok(Some(lease)),
            Err(LeaseError::InUse(guest)) => Err(Refusal::SecretInUse { secret, guest }),
            Err(error @ (LeaseError::Io(_) | LeaseError::NotTrusted(_))) => {
                tracing::warn!(%secret, %error, "it is unknown which guests are being started with the secret");
                match &self.gathered.facts.host_secret {
                    // Perhaps for a start in progress.
                    Some(HostSecret::Guards(other)) if *other != domain => {
                        let guest = self.guard.name_of(*other, until);
                        Err(Refusal::SecretInUse { secret, guest })
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    fn not_provided(&self, secret: SecretUuid, error: SecretError) -> NotProvided {
        NotProvided::Refused(match error {
            SecretError::Changed => return NotProvided::SecretChanged,
            SecretError::Refused(reason) => Refusal::SecretRefused { secret, reason },
            SecretError::Conflict(reason) => Refusal::SecretConflict { secret, reason },
            SecretError::OfGuest(domain) => Refusal::SecretOfGuest {
                secret,
                guests: vec![
                    self.guard
                        .name_of(domain, self.guard.for_libvirt(self.deadline)),
                ],
            },
            SecretError::Unreachable(reason) | SecretError::NoHelper(reason) => {
                Refusal::LibvirtUnreachable { reason }
            }
            SecretError::Starting => Refusal::LibvirtStarting,
        })
    }
}

/// Returns what providing the key would do.
pub(super) fn planned_action(guard: &Guard, facts: &Facts, verdict: &Verdict) -> SecretAction {
    match (verdict.secret(), &guard.secrets, &facts.host_secret) {
        (None, ..) | (_, None, _) => SecretAction::None,
        (Some(provide), ..) if provide.over == Over::TheSame => SecretAction::None,
        (Some(_), Some(_), None | Some(HostSecret::Absent)) => SecretAction::Defined,
        (Some(_), Some(_), Some(_)) => SecretAction::Set,
    }
}
