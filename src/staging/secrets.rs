//! What a libvirtd will have when it has started: the secrets of its files. Giving it a key is
//! laying it out.

use super::place::{LaidOut, Place};
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::StartingLibvirtd;
use crate::secret::{HostSecrets, Provided, SecretError};
use crate::verdict::facts::HostSecret;

/// The secrets of a libvirtd that is yet to start.
pub struct Staging(pub Place);

impl HostSecrets for Staging {
    fn expect_question(&self, _deadline: Deadline) {}

    fn state(&self, secret: SecretUuid, deadline: Deadline) -> HostSecret {
        StartingLibvirtd(self.0.secrets()).state(secret, deadline)
    }

    /// A persistent secret of somebody else's stays as it is, and carries the start.
    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        _replace_foreign: bool,
        deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        let refused = |error: super::StagingError| SecretError::Refused(error.to_string());
        let same = |laid_out: &&LaidOut| laid_out.secret == secret;
        match self.0.laid_out().map_err(refused)?.iter().find(same) {
            Some(other) if other.domain != domain => {
                return Err(SecretError::Conflict(format!(
                    "it is the one of the guest {}, too",
                    other.domain
                )));
            }
            _ => {}
        }
        if self.state(secret, deadline) != HostSecret::Absent {
            return Ok(Provided::LeftAsIs);
        }
        let laid_out = LaidOut { secret, domain };
        self.0.lay_out(laid_out, dek).map_err(refused)?;
        Ok(Provided::Defined)
    }

    /// Nothing is dropped before the daemon is up.
    fn drop_own(
        &self,
        _secret: SecretUuid,
        _domain: DomainUuid,
        _deadline: Deadline,
    ) -> Result<bool, SecretError> {
        Ok(false)
    }
}
