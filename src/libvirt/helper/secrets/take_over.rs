//! Takes a secret over: reads its definition and its value, and undefines it. Only administrators'
//! commands ask for these.

use virt::error::{Error, ErrorNumber};
use virt_sys::{VIR_SECRET_USAGE_TYPE_NONE, VIR_SECRET_USAGE_TYPE_VTPM};
use zeroize::Zeroizing;

use super::{DefinedSecret, Secrets};
use crate::host::sys;
use crate::ids::SecretUuid;
use crate::libvirt::helper::failure;
use crate::libvirt::protocol::{Response, Revealed};
use crate::libvirt::secret::{Purpose, SecretError};

impl Secrets<'_> {
    /// Returns the secret's definition. `value` gets its value, if libvirt discloses it.
    pub(in crate::libvirt::helper) fn reveal(
        &self,
        uuid: SecretUuid,
        value: &mut Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Response, SecretError> {
        let Some(found) = self.look_up(uuid)? else {
            return Ok(Response::Absent);
        };
        let revealed = match sys::secret_value(&found.secret) {
            Ok(None) => Revealed::None,
            Ok(Some(bytes)) => {
                *value = Some(bytes);
                Revealed::Follows
            }
            Err(error) if is_private(&error) => Revealed::Private,
            Err(error) => return Err(failure::of_call(error)),
        };
        Ok(Response::Secret {
            definition: found.secret.xml_desc(0).map_err(failure::of_call)?,
            value: revealed,
        })
    }

    /// Undefines a secret, whoever defined it, if it is for vTPMs only. libvirt removes its files.
    pub(in crate::libvirt::helper) fn undefine(
        &self,
        uuid: SecretUuid,
    ) -> Result<Response, SecretError> {
        let Some(found) = self.look_up(uuid)? else {
            return Ok(Response::Undefined(false));
        };
        if found.purpose() != Purpose::Vtpm {
            return Err(SecretError::Conflict(format!(
                "the secret {uuid} is not one for vTPMs alone"
            )));
        }
        let undefined = failure::found(found.secret.undefine())?;
        Ok(Response::Undefined(undefined.is_some()))
    }
}

impl DefinedSecret {
    fn purpose(&self) -> Purpose {
        match self.usage_type {
            VIR_SECRET_USAGE_TYPE_VTPM => Purpose::Vtpm,
            VIR_SECRET_USAGE_TYPE_NONE => Purpose::Anything,
            _ => Purpose::Other,
        }
    }
}

/// `secretGetValue` (`src/secret/secret_driver.c`) reports a private secret as an invalid one.
fn is_private(error: &Error) -> bool {
    error.code().is(ErrorNumber::InvalidSecret)
}
