//! What a request about a secret does, by the calls of libvirt's secret driver: what it replaces, and what
//! it leaves alone. The helper and the hook's own connection ([`super::wire`]) follow the same rules.

mod take_over;

use zeroize::Zeroizing;

use super::call_error::{CallError, found};
use super::secret_driver::{SecretDriver, USAGE_NONE, USAGE_VTPM, Usage};
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::protocol::{Response, SecretRequest};
use crate::libvirt::secret::{
    SecretDefinition, SecretError, definition, domain_of_usage, usage_name,
};
use crate::verdict::Over;

/// How often a key is given to a secret that others define and undefine meanwhile.
const ATTEMPTS: u32 = 8;

/// Does what a request wants. `value` gets the value that follows the answer.
pub(super) fn answer<D: SecretDriver>(
    driver: &D,
    request: &SecretRequest<'_>,
    value: &mut Option<Zeroizing<Vec<u8>>>,
) -> Result<Response, SecretError> {
    let secrets = Secrets(driver);
    match *request {
        SecretRequest::Provide {
            secret,
            domain,
            key,
            over,
        } => secrets.provide(secret, domain, key, over),
        SecretRequest::Drop { secret, domain } => secrets.drop_own(secret, domain),
        SecretRequest::DropStaged { secret, domain } => secrets.drop_staged(secret, domain),
        SecretRequest::Reveal(secret) => secrets.reveal(secret, value),
        SecretRequest::Undefine(secret) => secrets.undefine(secret),
    }
}

/// The secret driver that is asked.
struct Secrets<'a, D>(&'a D);

/// A secret that libvirt has.
struct DefinedSecret<'a, D: SecretDriver> {
    driver: &'a D,
    secret: D::Secret,
    uuid: SecretUuid,
    usage: Usage,
}

impl<'a, D: SecretDriver> Secrets<'a, D> {
    /// Gives the secret this value, and defines it if it is absent. An existing secret is replaced only
    /// as far as `over` allows. `Changed` if others keep changing it.
    fn provide(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
        key: &[u8],
        over: Over,
    ) -> Result<Response, SecretError> {
        for _ in 0..ATTEMPTS {
            if let Some(response) = self.provide_once(uuid, domain, key, over)? {
                return Ok(response);
            }
            // What somebody else has defined meanwhile may have a value that nobody has looked at.
            if over != Over::GuardsOwn {
                break;
            }
        }
        Err(SecretError::Changed)
    }

    /// `None` if somebody has defined or undefined the secret meanwhile: another start that has the same key.
    fn provide_once(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
        key: &[u8],
        over: Over,
    ) -> Result<Option<Response>, SecretError> {
        let Some(present) = self.look_up(uuid)? else {
            let defined = self.define_with(uuid, domain, key)?;
            return Ok(defined.map(|()| Response::Defined));
        };
        if !present.opens_vtpms() {
            return Err(present.conflict());
        }
        let is_the_guards = present.guards_domain().is_some();
        match over {
            // Another start may look for it at this moment: it is never away if it can stay as it is.
            Over::GuardsOwn if is_the_guards && present.is_as_defined_for(domain)? => {
                let set = found(self.0.set_value(&present.secret, key))?;
                return Ok(set.map(|()| Response::Set));
            }
            Over::GuardsOwn if is_the_guards => {}
            Over::ForeignDefinition if !is_the_guards => {}
            Over::ForeignValue if !is_the_guards && present.is_ephemeral_and_private()? => {}
            _ => return Err(SecretError::Changed),
        }
        // Undefined first, because it may have come from files (staged, or on disk). If it were only
        // redefined as ephemeral, UUID.xml would remain (`virSecretObjDeleteConfig` in
        // `src/conf/virsecretobj.c` checks the new definition), and the daemon would have a secret
        // without a value after its next start.
        present.undefine()?;
        let defined = self.define_with(uuid, domain, key)?;
        Ok(defined.map(|()| Response::Set))
    }

    /// Undefines the secret if it is the guard's own for this domain.
    fn drop_own(&self, uuid: SecretUuid, domain: DomainUuid) -> Result<Response, SecretError> {
        match self.look_up(uuid)? {
            Some(found) if found.is_the_guards(domain) => found.undefine().map(Response::Dropped),
            _ => Ok(Response::Dropped(false)),
        }
    }

    /// Undefines the secret if it is still the one that was staged for the daemon's start. A secret
    /// that a later start has redefined belongs to that start.
    fn drop_staged(&self, uuid: SecretUuid, domain: DomainUuid) -> Result<Response, SecretError> {
        let Some(found) = self.look_up(uuid)? else {
            return Ok(Response::Dropped(false));
        };
        let is_staged = |it: SecretDefinition| it.is_staged();
        if found.is_the_guards(domain) && found.definition()?.is_some_and(is_staged) {
            found.undefine().map(Response::Dropped)
        } else {
            Ok(Response::Dropped(false))
        }
    }

    fn look_up(&self, uuid: SecretUuid) -> Result<Option<DefinedSecret<'a, D>>, SecretError> {
        let Some(secret) = found(self.0.look_up(uuid))? else {
            return Ok(None);
        };
        Ok(Some(DefinedSecret {
            driver: self.0,
            uuid,
            usage: self.0.usage(&secret)?,
            secret,
        }))
    }

    /// Defines the guard's own secret with this value; if that fails, there is no secret. `None` if somebody else has
    /// defined it, or undefined this one.
    fn define_with(
        &self,
        uuid: SecretUuid,
        domain: DomainUuid,
        key: &[u8],
    ) -> Result<Option<()>, SecretError> {
        let secret = match self.define(uuid, domain) {
            Ok(secret) => secret,
            Err(error) if error.is_of_connection() => return Err(error.into()),
            Err(_) if self.look_up(uuid)?.is_some() => return Ok(None),
            Err(error) => return Err(self.why_not_defined(error, uuid, domain)),
        };
        found(self.0.set_value(&secret, key)).map_err(|error| {
            // The first error is the one to report.
            let _ = self.0.undefine(&secret);
            error.into()
        })
    }

    /// Defines the guard's own secret for this domain, in place of the one that has the usage now if that is the guard's
    /// own too: the domain's XML named another UUID before, and `secret.lifetime = "keep"` keeps a secret.
    fn define(&self, uuid: SecretUuid, domain: DomainUuid) -> Result<D::Secret, CallError> {
        let xml = definition(uuid, domain);
        let first = self.0.define(uuid, &xml);
        let is_refused = first.as_ref().is_err_and(|error| !error.is_of_connection());
        // An error of this question or of its answer leaves the first one to report.
        if is_refused && self.undefine_previous(uuid, domain).is_ok_and(|gone| gone) {
            return self.0.define(uuid, &xml);
        }
        first
    }

    /// Undefines the secret with another UUID that the guard has defined for this domain. Returns whether there was one.
    fn undefine_previous(&self, uuid: SecretUuid, domain: DomainUuid) -> Result<bool, SecretError> {
        let holder = found(self.0.holder(&own_usage(domain)))?;
        let Some(holder) = holder.filter(|holder| *holder != uuid) else {
            return Ok(false);
        };
        match self.look_up(holder)? {
            // The usage name alone is no proof that others have not defined it, and perhaps keep a value in it: the
            // guard's own is never in a file, and never disclosed.
            Some(previous)
                if previous.is_the_guards(domain) && previous.is_ephemeral_and_private()? =>
            {
                previous.undefine()
            }
            _ => Ok(false),
        }
    }

    /// Every refusal of a definition is an internal error to libvirt. So this asks whether another
    /// secret has the usage.
    fn why_not_defined(
        &self,
        error: CallError,
        uuid: SecretUuid,
        domain: DomainUuid,
    ) -> SecretError {
        let usage = own_usage(domain);
        match self.0.holder(&usage) {
            Ok(holder) if holder != uuid => SecretError::Conflict(format!(
                "the usage \"{}\" belongs to the secret {holder}",
                usage.id
            )),
            _ => error.into(),
        }
    }
}

/// The usage of the guard's own secret for this domain.
fn own_usage(domain: DomainUuid) -> Usage {
    Usage {
        kind: USAGE_VTPM,
        id: usage_name(domain),
    }
}

impl<D: SecretDriver> DefinedSecret<'_, D> {
    /// The error for a secret with another use.
    fn conflict(&self) -> SecretError {
        SecretError::Conflict(format!(
            "it is not one for a vTPM; its usage is \"{}\"",
            self.usage.id
        ))
    }

    /// Undefines it. Returns whether it still existed.
    fn undefine(&self) -> Result<bool, SecretError> {
        let undefined = found(self.driver.undefine(&self.secret))?;
        Ok(undefined.is_some())
    }

    /// Returns whether it is the secret that the guard defines for this domain.
    fn is_the_guards(&self, domain: DomainUuid) -> bool {
        self.guards_domain() == Some(domain)
    }

    /// Returns the domain whose key it has, if the guard defined it.
    fn guards_domain(&self) -> Option<DomainUuid> {
        let is_for_vtpms = self.usage.kind == USAGE_VTPM;
        domain_of_usage(&self.usage.id).filter(|_| is_for_vtpms)
    }

    /// Returns whether it is what the guard would define for this domain.
    fn is_as_defined_for(&self, domain: DomainUuid) -> Result<bool, SecretError> {
        if !self.is_the_guards(domain) {
            return Ok(false);
        }
        let definition = self.definition()?;
        Ok(definition.is_some_and(|it| it.is_ephemeral && it.is_private && !it.is_staged()))
    }

    /// Returns whether libvirt keeps its value only in memory and discloses it to no client.
    fn is_ephemeral_and_private(&self) -> Result<bool, SecretError> {
        let definition = self.definition()?;
        Ok(definition.is_some_and(|it| it.is_ephemeral && it.is_private))
    }

    /// `None` if somebody has undefined it meanwhile.
    fn definition(&self) -> Result<Option<SecretDefinition>, SecretError> {
        let Some(xml) = found(self.driver.definition(&self.secret))? else {
            return Ok(None);
        };
        let parsed = SecretDefinition::parse(&xml);
        parsed.map(Some).ok_or_else(|| {
            SecretError::Refused(format!(
                "libvirt's definition of {} cannot be read",
                self.uuid
            ))
        })
    }

    /// Returns whether libvirt uses it for a vTPM: `virSecretGetSecretString`
    /// (`src/secret/secret_util.c`) also accepts a secret without a usage.
    fn opens_vtpms(&self) -> bool {
        [USAGE_VTPM, USAGE_NONE].contains(&self.usage.kind)
    }
}

#[cfg(test)]
mod tests;
