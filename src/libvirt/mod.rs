//! x
use crate::clock::Deadline;
use crate::ids::*;
use crate::key::dek::Dek;
use crate::secret::*;
use crate::verdict::facts::HostSecret;
/// x
pub struct Client;
impl Client {
    /// x
    pub fn new(_: &str) -> Self {
        Self
    }
}
impl HostSecrets for Client {
    fn state(&self, _: SecretUuid, _: Deadline) -> HostSecret {
        HostSecret::Absent
    }
    fn provide(
        &self,
        _: SecretUuid,
        _: DomainUuid,
        _: &Dek,
        _: bool,
        _: Deadline,
    ) -> Result<Provided, SecretError> {
        Ok(Provided::Set)
    }
    fn drop_own(&self, _: SecretUuid, _: DomainUuid, _: Deadline) -> Result<bool, SecretError> {
        Ok(true)
    }
}
