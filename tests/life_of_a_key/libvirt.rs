//! libvirt's secrets, in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use vtpm_guard::clock::Deadline;
use vtpm_guard::ids::{DomainUuid, SecretUuid};
use vtpm_guard::key::dek::Dek;
use vtpm_guard::libvirt::secret::{
    HostSecrets, LibvirtSecret, Provided, SecretDefinition, SecretError, SecretValue, definition,
};
use vtpm_guard::verdict::Over;

/// The secrets; every clone is the same libvirt. All are the guard's own.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Rc<RefCell<BTreeMap<SecretUuid, Held>>>);

/// The domain whose key a secret holds, and the value.
type Held = (DomainUuid, Vec<u8>);

impl Secrets {
    /// The value that a start would find.
    pub(crate) fn value(&self, secret: SecretUuid) -> Option<Vec<u8>> {
        self.0.borrow().get(&secret).map(|(_, value)| value.clone())
    }

    /// The daemon is started again: what is ephemeral is gone.
    pub(crate) fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

impl HostSecrets for Secrets {
    fn expect_question(&self, _deadline: Deadline) {}

    fn inspect(
        &self,
        secret: SecretUuid,
        _deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        let held = self.0.borrow();
        Ok(held.get(&secret).map(|(domain, _)| LibvirtSecret {
            definition: SecretDefinition::parse(&definition(secret, *domain)).unwrap(),
            value: SecretValue::Private,
        }))
    }

    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        _deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        assert_eq!(over, Over::GuardsOwn, "all are the guard's own");
        let value = (domain, dek.expose().to_vec());
        let before = self.0.borrow_mut().insert(secret, value);
        Ok(before.map_or(Provided::Defined, |_| Provided::Set))
    }

    fn drop_own(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        _deadline: Deadline,
    ) -> Result<bool, SecretError> {
        let mut held = self.0.borrow_mut();
        let is_own = held.get(&secret).is_some_and(|(of, _)| *of == domain);
        Ok(is_own && held.remove(&secret).is_some())
    }
}
