//! The calls of libvirt's secret driver, however they reach it. Only these are safe in a hook: the
//! daemon's priority workers serve them while all other workers wait for hooks.

use zeroize::Zeroizing;

use super::call_error::CallError;
use crate::ids::SecretUuid;

/// `virSecretUsageType` (`include/libvirt/libvirt-secret.h`): for anything.
pub(super) const USAGE_NONE: u32 = 0;

/// `virSecretUsageType`: for vTPMs.
pub(super) const USAGE_VTPM: u32 = 5;

/// What a secret is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    /// A `virSecretUsageType`.
    pub(super) kind: u32,
    /// A name for a vTPM's secret.
    pub(super) id: String,
}

/// The secret driver at the other end of a connection.
pub(super) trait SecretDriver {
    /// A secret that libvirt has.
    type Secret;

    /// Returns the secret with this UUID.
    fn look_up(&self, uuid: SecretUuid) -> Result<Self::Secret, CallError>;

    /// Returns what a secret is for.
    fn usage(&self, secret: &Self::Secret) -> Result<Usage, CallError>;

    /// Returns which secret has this usage.
    fn holder(&self, usage: &Usage) -> Result<SecretUuid, CallError>;

    /// Defines the secret with this UUID by its XML.
    fn define(&self, uuid: SecretUuid, xml: &str) -> Result<Self::Secret, CallError>;

    /// Gives a secret its value.
    fn set_value(&self, secret: &Self::Secret, value: &[u8]) -> Result<(), CallError>;

    /// Undefines a secret.
    fn undefine(&self, secret: &Self::Secret) -> Result<(), CallError>;

    /// Returns a secret's XML.
    fn definition(&self, secret: &Self::Secret) -> Result<String, CallError>;

    /// Returns a secret's value, if it has one.
    fn value(&self, secret: &Self::Secret) -> Result<Option<Zeroizing<Vec<u8>>>, CallError>;
}

#[cfg(all(test, feature = "libvirt"))]
mod tests {
    #[test]
    fn the_numbers_are_those_of_libvirts_header() {
        assert_eq!(super::USAGE_NONE, virt_sys::VIR_SECRET_USAGE_TYPE_NONE);
        assert_eq!(super::USAGE_VTPM, virt_sys::VIR_SECRET_USAGE_TYPE_VTPM);
    }
}
