//! The calls on libvirt's secret driver. They alone are safe from a hook: the daemon's
//! priority workers serve them while all others wait for hooks.

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
    /// Gives the secret this value, and defines it if it is absent. What is there is replaced
    /// only as far as `over` allows.
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
            Over::ForeignValue if !is_the_guards && found.keeps_its_value_to_itself()? => {
                found.secret.set_value(key, 0).map_err(failure::of_call)?;
                return Ok(Response::Set);
            }
            _ => return Err(SecretError::Changed),
        }
        // Undefined first, for it may have come from files, of `stage` or on a disk. Merely
        // defined again as ephemeral it would leave UUID.xml behind (`virSecretObjDeleteConfig`
        // in `src/conf/virsecretobj.c` looks at the new definition), and the daemon's next start
        // a secret without a value.
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

    /// The same, but only if it still is the one that was laid out for the daemon's start: one
    /// that a later start has defined anew is that start's.
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
}

impl DefinedSecret {
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
        self.guards_domain() == Some(domain)
    }

    /// The domain whose key it holds, if the guard defined it.
    fn guards_domain(&self) -> Option<DomainUuid> {
        let is_for_vtpms = self.usage_type == VIR_SECRET_USAGE_TYPE_VTPM;
        domain_of_usage(&self.usage).filter(|_| is_for_vtpms)
    }

    /// Whether libvirt keeps its value in memory alone, and gives it to no client.
    fn keeps_its_value_to_itself(&self) -> Result<bool, SecretError> {
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

    /// Whether libvirt takes it for a vTPM: `virSecretGetSecretString`
    /// (`src/secret/secret_util.c`) lets one without any usage pass, too.
    fn opens_vtpms(&self) -> bool {
        [VIR_SECRET_USAGE_TYPE_VTPM, VIR_SECRET_USAGE_TYPE_NONE].contains(&self.usage_type)
    }
}
