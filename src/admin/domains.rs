//! DOMAIN arguments: a guest's name or UUID.

use super::Context;
use super::error::AdminError;
use crate::ids::DomainUuid;

/// A guest that was named on the command line.
pub(super) struct NamedDomain {
    /// Its UUID.
    pub(super) uuid: DomainUuid,
    /// Its name, where it is known.
    pub(super) name: Option<String>,
}

/// Finds the guest that `text` names. A UUID needs nobody to be asked.
pub(super) fn resolve(context: &Context, text: &str) -> Result<NamedDomain, AdminError> {
    let _ = context;
    match DomainUuid::parse(text) {
        Ok(uuid) => Ok(NamedDomain { uuid, name: None }),
        Err(_) => Err(AdminError::usage(format!("there is no guest \"{text}\""))),
    }
}
