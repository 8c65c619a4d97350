//! The secrets that a libvirtd will have once it has started: those of its files. To give it a
//! key is to stage the key.

use super::dir::{StagedSecret, StagingDir};
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::StartingLibvirtd;
use crate::libvirt::secret::{HostSecrets, LibvirtSecret, Provided, SecretError};
use crate::verdict::Over;

/// The secrets of a libvirtd that has not started yet.
pub struct Staging(pub StagingDir);

impl HostSecrets for Staging {
    fn expect_question(&self, _deadline: Deadline) {}

    fn inspect(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        StartingLibvirtd(self.0.secrets()).inspect(secret, deadline)
    }

    /// A secret that is staged for another guest stays, and serves this one if the key is the same.
    /// A persistent secret that is not the guard's stays as it is: only a running daemon can
    /// replace it by one of the guard's.
    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        let files = StartingLibvirtd(self.0.secrets());
        match files.provide(secret, domain, dek, over, deadline) {
            Err(SecretError::Starting) => {}
            answer => return answer,
        }
        if files.inspect(secret, deadline)?.is_some() {
            return Err(SecretError::Starting);
        }
        let staged = StagedSecret { secret, domain };
        let refused = |error: super::StagingError| SecretError::Refused(error.to_string());
        self.0.stage(staged, dek).map_err(refused)?;
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
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;
    use crate::libvirt::secret::SecretValue;

    fn staging() -> (tempfile::TempDir, Staging) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = StagingDir::at(dir.path().join("staged"), dir.path().join("secrets"));
        fs::create_dir(place.secrets()).unwrap();
        (dir, Staging(place))
    }

    fn provide(
        staging: &Staging,
        secret: SecretUuid,
        domain: DomainUuid,
    ) -> Result<Provided, SecretError> {
        let dek = Dek::from_bytes(Zeroizing::new(b"key".to_vec()));
        let at_once = Deadline::after(Duration::ZERO);
        staging.provide(secret, domain, &dek, Over::GuardsOwn, at_once)
    }

    #[test]
    fn a_key_that_is_given_is_staged() {
        let (_dir, staging) = staging();
        let (secret, domain) = (SecretUuid::random(), DomainUuid::random());
        assert_eq!(provide(&staging, secret, domain), Ok(Provided::Defined));
        assert_eq!(
            staging.0.staged().unwrap(),
            [StagedSecret { secret, domain }]
        );
    }

    #[test]
    fn a_persistent_secret_that_is_not_the_guards_stays_as_it_is() {
        let (_dir, staging) = staging();
        let secret = SecretUuid::random();
        let file = |extension| staging.0.secrets().join(format!("{secret}.{extension}"));
        let value = || {
            let found = staging.inspect(secret, Deadline::after(Duration::ZERO));
            found.unwrap().unwrap().value
        };
        fs::write(file("xml"), "<secret ephemeral='no' private='yes'/>").unwrap();
        assert!(matches!(value(), SecretValue::None));
        fs::write(file("base64"), "b3RoZXI=").unwrap();
        assert!(
            matches!(value(), SecretValue::Private),
            "others could have written it"
        );
        fs::set_permissions(file("base64"), Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(value(), SecretValue::Disclosed(dek) if dek.expose() == b"other"));
        let provided = provide(&staging, secret, DomainUuid::random());
        assert_eq!(provided, Err(SecretError::Starting));
        assert_eq!(staging.0.staged().unwrap(), []);
        assert_eq!(fs::read_to_string(file("base64")).unwrap(), "b3RoZXI=");
    }

    #[test]
    fn one_secret_cannot_hold_the_keys_of_two_guests() {
        let (_dir, staging) = staging();
        let (secret, first) = (SecretUuid::random(), DomainUuid::random());
        provide(&staging, secret, first).unwrap();
        // A guest that has the same key needs nothing more.
        let same = provide(&staging, secret, DomainUuid::random());
        assert_eq!(same, Ok(Provided::LeftAsIs));
        let other = Dek::from_bytes(Zeroizing::new(b"another key".to_vec()));
        let at_once = Deadline::after(Duration::ZERO);
        let second = DomainUuid::random();
        let second = staging.provide(secret, second, &other, Over::GuardsOwn, at_once);
        assert_eq!(second, Err(SecretError::OfGuest(first)));
    }
}
