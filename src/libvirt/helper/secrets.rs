//! The calls of libvirt's secret driver. Only these are safe in a hook: the daemon's priority workers
//! serve them while all other workers wait for hooks.

mod take_over;

use virt::connect::Connect;
use virt::error::Error;
use virt::secret::Secret;
use virt_sys::{VIR_SECRET_USAGE_TYPE_NONE, VIR_SECRET_USAGE_TYPE_VTPM};

use super::failure;
use crate::host::sys;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::protocol::Response;
use crate::libvirt::secret::{
    SecretDefinition, SecretError, definition, domain_of_usage, usage_name,
};
use crate::verdict::Over;

/// The secret driver at the other end of a connection.
pub(super) struct Secrets<'a> {
    pub(super) connection: &'a Connect,
}

/// A secret that libvirt has.
struct DefinedSecret {
    secret: Secret,
    uuid: SecretUuid,
    usage_type: u32,
    usage: String,
}

impl Secrets<'_> {
    /// Gives the secret this value, and defines it if it is absent. An existing secret is replaced only
    /// as far as `over` allows.
    pub(super) fn provide(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
        key: &[u8],
        over: Over,
    ) -> Result<Response, SecretError> {
        let Some(found) = self.look_up(uuid)? else {
            self.define_with(uuid, domain, key)?;
            return Ok(Response::Defined);
        };
        if !found.opens_vtpms() {
            return Err(found.conflict());
        }
        let is_the_guards = found.guards_domain().is_some();
        match over {
            Over::GuardsOwn if is_the_guards => {}
            Over::ForeignDefinition if !is_the_guards => {}
            Over::ForeignValue if !is_the_guards && found.is_ephemeral_and_private()? => {
                found.secret.set_value(key, 0).map_err(failure::of_call)?;
                return Ok(Response::Set);
            }
            _ => return Err(SecretError::Changed),
        }
        // Undefined first, because it may have come from files (staged, or on disk). If it were only
        // redefined as ephemeral, UUID.xml would remain (`virSecretObjDeleteConfig` in
        // `src/conf/virsecretobj.c` checks the new definition), and the daemon would have a secret
        // without a value after its next start.
        failure::found(found.secret.undefine())?;
        self.define_with(uuid, domain, key)?;
        Ok(Response::Set)
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

    /// Undefines the secret if it is still the one that was staged for the daemon's start. A secret
    /// that a later start has redefined belongs to that start.
    pub(super) fn drop_staged(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
    ) -> Result<Response, SecretError> {
        let Some(found) = self.look_up(uuid)? else {
            return Ok(Response::Dropped(false));
        };
        if found.is_the_guards(domain) && found.definition()?.is_staged() {
            found.undefine()
        } else {
            Ok(Response::Dropped(false))
        }
    }

    fn look_up(&self, uuid: SecretUuid) -> Result<Option<DefinedSecret>, SecretError> {
        let found = self
            .connection
            .lookup_secret_by_uuid_string(&uuid.to_string());
        let Some(secret) = failure::found(found)? else {
            return Ok(None);
        };
        Ok(Some(DefinedSecret {
            uuid,
            usage_type: secret.usage_type().map_err(failure::of_call)?,
            usage: sys::secret_usage_id(&secret).map_err(failure::of_call)?,
            secret,
        }))
    }

    /// Defines the guard's own secret with this value; if that fails, there is no secret.
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
            // The first error is the one to report.
            let _ = secret.undefine();
            failure::of_call(error)
        })
    }

    /// Every refusal of a definition is an internal error to libvirt. So this asks whether another
    /// secret has the usage.
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
}

impl DefinedSecret {
    /// The error for a secret with another use.
    fn conflict(&self) -> SecretError {
        SecretError::Conflict(format!(
            "it is not one for a vTPM; its usage is \"{}\"",
            self.usage
        ))
    }

    /// Undefines it. Returns whether it still existed.
    fn undefine(&self) -> Result<Response, SecretError> {
        let undefined = failure::found(self.secret.undefine())?;
        Ok(Response::Dropped(undefined.is_some()))
    }

    /// Returns whether it is the secret that the guard defines for this domain.
    fn is_the_guards(&self, domain: DomainUuid) -> bool {
        self.guards_domain() == Some(domain)
    }

    /// Returns the domain whose key it has, if the guard defined it.
    fn guards_domain(&self) -> Option<DomainUuid> {
        let is_for_vtpms = self.usage_type == VIR_SECRET_USAGE_TYPE_VTPM;
        domain_of_usage(&self.usage).filter(|_| is_for_vtpms)
    }

    /// Returns whether libvirt keeps its value only in memory and discloses it to no client.
    fn is_ephemeral_and_private(&self) -> Result<bool, SecretError> {
        let definition = self.definition()?;
        Ok(definition.is_ephemeral && definition.is_private)
    }

    fn definition(&self) -> Result<SecretDefinition, SecretError> {
        let xml = self.secret.xml_desc(0).map_err(failure::of_call)?;
        SecretDefinition::parse(&xml).ok_or_else(|| {
            SecretError::Refused(format!(
                "libvirt's definition of {} cannot be read",
                self.uuid
            ))
        })
    }

    /// Returns whether libvirt uses it for a vTPM: `virSecretGetSecretString`
    /// (`src/secret/secret_util.c`) also accepts a secret without a usage.
    fn opens_vtpms(&self) -> bool {
        [VIR_SECRET_USAGE_TYPE_VTPM, VIR_SECRET_USAGE_TYPE_NONE].contains(&self.usage_type)
    }
}
