//! Takes a secret over: reads its definition and its value, and undefines it. Only administrators'
//! commands ask for these.

use zeroize::Zeroizing;

use super::{DefinedSecret, Secrets, found};
use crate::ids::SecretUuid;
use crate::libvirt::protocol::{Response, Revealed};
use crate::libvirt::secret::{Purpose, SecretError};
use crate::libvirt::secret_driver::{SecretDriver, USAGE_NONE, USAGE_VTPM};

impl<D: SecretDriver> Secrets<'_, D> {
    /// Returns the secret's definition. `value` gets its value, if libvirt discloses it.
    pub(super) fn reveal(
        &self,
        uuid: SecretUuid,
        value: &mut Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Response, SecretError> {
        let Some(present) = self.look_up(uuid)? else {
            return Ok(Response::Absent);
        };
        let revealed = match self.0.value(&present.secret) {
            Ok(None) => Revealed::None,
            Ok(Some(bytes)) => {
                *value = Some(bytes);
                Revealed::Follows
            }
            Err(error) if error.is_private() => Revealed::Private,
            // Another start undefines it at this moment.
            Err(error) if error.is_not_found() => return Ok(Response::Absent),
            Err(error) => return Err(error.into()),
        };
        let Some(definition) = found(self.0.definition(&present.secret))? else {
            *value = None;
            return Ok(Response::Absent);
        };
        Ok(Response::Secret {
            definition,
            value: revealed,
        })
    }

    /// Undefines a secret, whoever defined it, if it is for vTPMs only. libvirt removes its files.
    pub(super) fn undefine(&self, uuid: SecretUuid) -> Result<Response, SecretError> {
        let Some(found) = self.look_up(uuid)? else {
            return Ok(Response::Undefined(false));
        };
        if found.purpose() != Purpose::Vtpm {
            return Err(SecretError::Conflict(format!(
                "the secret {uuid} is not one for vTPMs alone"
            )));
        }
        found.undefine().map(Response::Undefined)
    }
}

impl<D: SecretDriver> DefinedSecret<'_, D> {
    fn purpose(&self) -> Purpose {
        match self.usage.kind {
            USAGE_VTPM => Purpose::Vtpm,
            USAGE_NONE => Purpose::Anything,
            _ => Purpose::Other,
        }
    }
}
