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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;

    fn staging() -> (tempfile::TempDir, Staging) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = Place::at(dir.path().join("staged"), dir.path().join("secrets"));
        fs::create_dir(place.secrets()).unwrap();
        (dir, Staging(place))
    }

    fn provide(
        staging: &Staging,
        secret: SecretUuid,
        domain: DomainUuid,
    ) -> Result<Provided, SecretError> {
        let dek = Dek::from_bytes(Zeroizing::new(b"key".to_vec()));
        staging.provide(secret, domain, &dek, true, Deadline::after(Duration::ZERO))
    }

    #[test]
    fn giving_a_key_is_laying_it_out() {
        let (_dir, staging) = staging();
        let (secret, domain) = (SecretUuid::random(), DomainUuid::random());
        assert_eq!(provide(&staging, secret, domain), Ok(Provided::Defined));
        assert_eq!(staging.0.laid_out().unwrap(), [LaidOut { secret, domain }]);
    }

    #[test]
    fn a_persistent_secret_of_somebody_elses_stays_as_it_is() {
        let (_dir, staging) = staging();
        let secret = SecretUuid::random();
        let deadline = Deadline::after(Duration::ZERO);
        let file = |extension| staging.0.secrets().join(format!("{secret}.{extension}"));
        fs::write(file("xml"), "<secret/>").unwrap();
        assert_eq!(staging.state(secret, deadline), HostSecret::NoValue);
        fs::write(file("base64"), "b3RoZXI=").unwrap();
        assert_eq!(staging.state(secret, deadline), HostSecret::HasValue);
        let provided = provide(&staging, secret, DomainUuid::random());
        assert_eq!(provided, Ok(Provided::LeftAsIs));
        assert_eq!(staging.0.laid_out().unwrap(), []);
        assert_eq!(fs::read_to_string(file("base64")).unwrap(), "b3RoZXI=");
    }

    #[test]
    fn one_secret_cannot_hold_the_keys_of_two_guests() {
        let (_dir, staging) = staging();
        let secret = SecretUuid::random();
        provide(&staging, secret, DomainUuid::random()).unwrap();
        let second = provide(&staging, secret, DomainUuid::random());
        assert!(
            matches!(second, Err(SecretError::Conflict(_))),
            "{second:?}"
        );
    }
}
