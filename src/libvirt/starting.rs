//! The secrets of a libvirtd that is starting, and answers nobody yet.

use std::path::Path;

use super::files::secret_on_disk;
use super::secret::{HostSecrets, LibvirtSecret, Provided, SecretError, SecretValue};
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::verdict::Over;

/// The secrets of a libvirtd that is still starting: only those in its files, since ephemeral secrets
/// end with the daemon. It accepts no secret, and drops none.
pub struct StartingLibvirtd<P>(pub P);

impl<P: AsRef<Path>> HostSecrets for StartingLibvirtd<P> {
    fn expect_question(&self, _deadline: Deadline) {}

    fn inspect(
        &self,
        secret: SecretUuid,
        _deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        secret_on_disk(self.0.as_ref(), secret)
    }

    /// Succeeds only if the secret that was staged, perhaps for another guest, has this value.
    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        _deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        if over == Over::TheSame {
            return Ok(Provided::LeftAsIs);
        }
        let Some(found) = secret_on_disk(self.0.as_ref(), secret)? else {
            return Err(SecretError::Starting);
        };
        match (found.definition.guards_domain(), &found.value) {
            (Some(_), SecretValue::Disclosed(value)) if value.same_as(dek) => {
                Ok(Provided::LeftAsIs)
            }
            (Some(other), _) if other != domain => Err(SecretError::OfGuest(other)),
            _ => Err(SecretError::Starting),
        }
    }

    /// `unstage` drops the remaining secrets once libvirtd is up.
    fn drop_own(
        &self,
        _secret: SecretUuid,
        _domain: DomainUuid,
        _deadline: Deadline,
    ) -> Result<bool, SecretError> {
        Ok(false)
    }
}
