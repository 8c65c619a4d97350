//! libvirt's secrets, in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use vtpm_guard::clock::Deadline;
use vtpm_guard::ids::{DomainUuid, SecretUuid};
use vtpm_guard::key::dek::Dek;
use vtpm_guard::secret::{HostSecrets, Provided, SecretError};
use vtpm_guard::verdict::facts::HostSecret;

/// The secrets; every clone is the same libvirt. All are the guard's own.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Rc<RefCell<BTreeMap<SecretUuid, Vec<u8>>>>);

impl Secrets {
    /// The value that a start would find.
    pub(crate) fn value(&self, secret: SecretUuid) -> Option<Vec<u8>> {
        self.0.borrow().get(&secret).cloned()
    }

    /// The daemon is started again: what is ephemeral is gone.
    pub(crate) fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

impl HostSecrets for Secrets {
    fn expect_question(&self, _deadline: Deadline) {}

    fn state(&self, secret: SecretUuid, _deadline: Deadline) -> HostSecret {
        match self.value(secret) {
            Some(_) => HostSecret::HasValue,
            None => HostSecret::Absent,
        }
    }

    fn provide(
        &self,
        secret: SecretUuid,
        _domain: DomainUuid,
        dek: &Dek,
        _replace_foreign: bool,
        _deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        let before = self.0.borrow_mut().insert(secret, dek.expose().to_vec());
        Ok(before.map_or(Provided::Defined, |_| Provided::Set))
    }

    fn drop_own(
        &self,
        secret: SecretUuid,
        _domain: DomainUuid,
        _deadline: Deadline,
    ) -> Result<bool, SecretError> {
        Ok(self.0.borrow_mut().remove(&secret).is_some())
    }
}
