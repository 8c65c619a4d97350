//! Which guests are adopted, and which others need the same secrets.

use super::{AdoptResult, NotAdopted, Work};
use crate::domain::{self, Domain, DomainXmlError, Vtpm};
use crate::ids::SecretUuid;
use crate::libvirt::Guest;
use crate::manage::guests::GuestError;
use crate::manage::host::Host;
use crate::verdict::adopt::Sharer;

/// A guest with an encrypted vTPM.
pub(super) struct Target {
    pub(super) domain: Domain,
    pub(super) vtpm: domain::Emulator,
    pub(super) secret: SecretUuid,
    pub(super) running: bool,
}

/// A guest with an encrypted vTPM, and the secret that this names.
pub(super) struct KnownGuest {
    pub(super) guest: Sharer,
    pub(super) secret: SecretUuid,
    /// Whether it is to be adopted.
    pub(super) is_chosen: bool,
}

/// The guests to adopt, each once, by name, and all that have an encrypted vTPM.
pub(super) fn choose(
    host: &Host,
    texts: Option<&[String]>,
) -> Result<(Vec<Work>, Vec<KnownGuest>), GuestError> {
    let known = host.guests()?;
    let mut named = Vec::new();
    for text in texts.unwrap_or_default() {
        let found = host.pick(text, &known)?;
        named.push(
            found
                .ok_or_else(|| GuestError::NotFound(text.clone()))?
                .uuid,
        );
    }
    let (mut chosen, mut encrypted) = (Vec::new(), Vec::new());
    for guest in known {
        let domain = domain::read(guest.xml.as_bytes());
        let secret = domain.as_ref().map(secret_of);
        let may_have_one = !matches!(secret, Ok(None));
        let is_chosen = match texts {
            None => may_have_one,
            Some(_) => named.contains(&guest.uuid),
        };
        if let Ok(Some(secret)) = secret {
            let (name, uuid) = (guest.name.clone(), guest.uuid);
            encrypted.push(KnownGuest {
                guest: Sharer { name, uuid },
                secret,
                is_chosen,
            });
        }
        if is_chosen {
            chosen.push(Work::new(guest, domain));
        }
    }
    Ok((chosen, encrypted))
}

fn secret_of(domain: &Domain) -> Option<SecretUuid> {
    domain.encrypted_vtpm().map(|(_, secret)| secret)
}

impl Work {
    fn new(guest: Guest, domain: Result<Domain, DomainXmlError>) -> Self {
        let target = domain
            .map_err(NotAdopted::UnreadableXml)
            .and_then(|domain| match (&domain.vtpm, secret_of(&domain)) {
                (Some(Vtpm::Emulator(vtpm)), Some(secret)) => Ok(Target {
                    vtpm: vtpm.clone(),
                    secret,
                    running: guest.running,
                    domain,
                }),
                (vtpm, _) => Err(NotAdopted::NotEncrypted {
                    has_tpm: matches!(vtpm, Some(Vtpm::Emulator(_))),
                }),
            });
        let (target, error) = match target {
            Ok(target) => (Some(target), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            result: AdoptResult {
                guest: (&guest).into(),
                secret: target.as_ref().map(|target| target.secret),
                stored: None,
                error,
            },
            name: guest.name,
            target,
        }
    }
}
