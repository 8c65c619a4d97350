//! The calls of libvirt's secret driver, by its client library.

use virt::connect::Connect;
use virt::secret::Secret;
use zeroize::Zeroizing;

use crate::host::sys;
use crate::ids::SecretUuid;
use crate::libvirt::call_error::CallError;
use crate::libvirt::secret_driver::{SecretDriver, Usage};

impl SecretDriver for Connect {
    type Secret = Secret;

    fn look_up(&self, uuid: SecretUuid) -> Result<Secret, CallError> {
        Ok(self.lookup_secret_by_uuid_string(&uuid.to_string())?)
    }

    fn usage(&self, secret: &Secret) -> Result<Usage, CallError> {
        Ok(Usage {
            kind: secret.usage_type()?,
            id: sys::secret_usage_id(secret)?,
        })
    }

    fn holder(&self, usage: &Usage) -> Result<SecretUuid, CallError> {
        let holder = self.lookup_secret_by_usage(usage.kind.cast_signed(), &usage.id)?;
        let bytes = holder.uuid()?;
        Ok(SecretUuid::from_bytes(*bytes.as_bytes()))
    }

    fn define(&self, _uuid: SecretUuid, xml: &str) -> Result<Secret, CallError> {
        Ok(self.define_secret_xml(xml, 0)?)
    }

    fn set_value(&self, secret: &Secret, value: &[u8]) -> Result<(), CallError> {
        Ok(secret.set_value(value, 0)?)
    }

    fn undefine(&self, secret: &Secret) -> Result<(), CallError> {
        Ok(secret.undefine()?)
    }

    fn definition(&self, secret: &Secret) -> Result<String, CallError> {
        Ok(secret.xml_desc(0)?)
    }

    fn value(&self, secret: &Secret) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        Ok(sys::secret_value(secret)?)
    }
}
