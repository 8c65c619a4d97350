//! The calls on libvirt's secret driver. They alone are safe from a hook: the daemon's
//! priority workers serve them while all others wait for hooks.

mod taking;

use std::path::Path;

use virt::connect::Connect;
use virt::error::Error;
use virt::secret::Secret;
use virt_sys::{VIR_SECRET_USAGE_TYPE_NONE, VIR_SECRET_USAGE_TYPE_VTPM};

use super::failure;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::files::{self, SECRETS_DIR};
use crate::libvirt::protocol::Response;
use crate::secret::{SecretError, definition, is_laid_out, usage_name};
use crate::sys;

/// The secret driver at the other end of a connection.
pub(super) struct Secrets<'a> {
    pub(super) connection: &'a Connect,
    pub(super) uri: &'a str,
}

/// A secret that libvirt has.
struct Found {
    secret: Secret,
    uuid: SecretUuid,
    usage_type: u32,
    usage: String,
}

impl Secrets<'_> {
    /// What there is under this UUID.
    pub(super) fn state(&self, uuid: SecretUuid) -> Result<Response, SecretError> {
        Ok(match self.look_up(uuid)? {
            None => Response::Absent,
            Some(found) if !found.opens_vtpms() => return Err(found.conflict()),
            Some(found) if self.has_value(&found)? => Response::HasValue,
            Some(_) => Response::NoValue,
        })
    }

    /// Gives the secret this value, and defines it if it is absent.
    pub(super) fn provide(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
        key: &[u8],
        replace_foreign: bool,
    ) -> Result<Response, SecretError> {
        match self.look_up(uuid)? {
            None => {
                self.define_with(uuid, domain, key)?;
                Ok(Response::Defined)
            }
            Some(found) if found.is_the_guards(domain) => {
                // Made anew, for it may have come from files that were laid out for the
                // daemon's start. Merely defined again as ephemeral it would leave UUID.xml
                // behind (`virSecretObjDeleteConfig` in `src/conf/virsecretobj.c` looks at the
                // new definition), and the daemon's next start a secret without a value.
                failure::found(found.secret.undefine())?;
                self.define_with(uuid, domain, key)?;
                Ok(Response::Set)
            }
            Some(found) if !found.opens_vtpms() => Err(found.conflict()),
            Some(found) if !replace_foreign && self.has_value(&found)? => Ok(Response::LeftAsIs),
            Some(found) => {
                found.secret.set_value(key, 0).map_err(failure::of_call)?;
                Ok(Response::Set)
            }
        }
    }

    /// Undefines the secret if it is the guard's own for this domain.
    pub(super) fn drop_own(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
    ) -> Result<Response, SecretError> {
        match self.look_up(uuid)? {
            Some(found) if found.is_the_guards(domain) => found.undefine(),
            _ => Ok(Response::Dropped(false)),
        }
    }

    /// The same, but only if it still is the one that was laid out for the daemon's start: one
    /// that a later start has defined anew is that start's.
    pub(super) fn drop_laid_out(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
    ) -> Result<Response, SecretError> {
        let Some(found) = self.look_up(uuid)? else {
            return Ok(Response::Dropped(false));
        };
        match failure::found(found.secret.xml_desc(0))? {
            Some(xml) if found.is_the_guards(domain) && is_laid_out(&xml) => found.undefine(),
            _ => Ok(Response::Dropped(false)),
        }
    }

    fn look_up(&self, uuid: SecretUuid) -> Result<Option<Found>, SecretError> {
        let found = self
            .connection
            .lookup_secret_by_uuid_string(&uuid.to_string());
        let Some(secret) = failure::found(found)? else {
            return Ok(None);
        };
        Ok(Some(Found {
            uuid,
            usage_type: secret.usage_type().map_err(failure::of_call)?,
            usage: sys::secret_usage_id(&secret).map_err(failure::of_call)?,
            secret,
        }))
    }

    /// Defines the guard's own secret, with this value or not at all.
    fn define_with(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
        key: &[u8],
    ) -> Result<(), SecretError> {
        let secret = self
            .connection
            .define_secret_xml(&definition(uuid, domain), 0)
            .map_err(|error| self.why_not_defined(error, uuid, domain))?;
        secret.set_value(key, 0).map_err(|error| {
            // The first error is the one to tell.
            let _ = secret.undefine();
            failure::of_call(error)
        })
    }

    /// libvirt calls every refusal of a definition an internal error, so it is asked whether
    /// another secret has the usage.
    fn why_not_defined(&self, error: Error, uuid: SecretUuid, domain: DomainUuid) -> SecretError {
        let usage = usage_name(domain);
        self.connection
            .lookup_secret_by_usage(VIR_SECRET_USAGE_TYPE_VTPM.cast_signed(), &usage)
            .and_then(|holder| holder.uuid_string())
            .ok()
            .filter(|holder| *holder != uuid.to_string())
            .map_or_else(
                || failure::of_call(error),
                |holder| {
                    SecretError::Conflict(format!(
                        "the usage \"{usage}\" belongs to the secret {holder}"
                    ))
                },
            )
    }

    /// Whether the secret has a value, as far as libvirt tells. It does not for a private one:
    /// `secretGetValue` (`src/secret/secret_driver.c`) refuses before it looks for the value.
    /// Then the daemon's own files may tell. If nothing does, the secret counts as having
    /// one: libvirt itself stops a start for which it is missing.
    fn has_value(&self, found: &Found) -> Result<bool, SecretError> {
        match sys::secret_has_value(&found.secret).map_err(failure::of_call) {
            Ok(has_value) => Ok(has_value),
            Err(SecretError::Refused(_)) => {
                let stored = files::are_of_this_host(self.uri)
                    .then(|| files::has_value(Path::new(SECRETS_DIR), found.uuid))
                    .flatten();
                Ok(stored.unwrap_or(true))
            }
            Err(error) => Err(error),
        }
    }
}

impl Found {
    /// What is told of a secret that is for another use.
    fn conflict(&self) -> SecretError {
        SecretError::Conflict(format!(
            "it is not one for a vTPM; its usage is \"{}\"",
            self.usage
        ))
    }

    /// Undefines it, and says whether it was still there.
    fn undefine(&self) -> Result<Response, SecretError> {
        let undefined = failure::found(self.secret.undefine())?;
        Ok(Response::Dropped(undefined.is_some()))
    }

    /// Whether it is the secret that the guard itself defines for this domain.
    fn is_the_guards(&self, domain: DomainUuid) -> bool {
        self.usage_type == VIR_SECRET_USAGE_TYPE_VTPM && self.usage == usage_name(domain)
    }

    /// Whether libvirt takes it for a vTPM: `virSecretGetSecretString`
    /// (`src/secret/secret_util.c`) lets one without any usage pass, too.
    fn opens_vtpms(&self) -> bool {
        [VIR_SECRET_USAGE_TYPE_VTPM, VIR_SECRET_USAGE_TYPE_NONE].contains(&self.usage_type)
    }
}
