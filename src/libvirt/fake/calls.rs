//! What a fake libvirt answers, by the rules of the helper.

use std::thread;

use super::{Call, Failure, FakeLibvirt, failures};
use crate::clock::Deadline;
use crate::domain;
use crate::host::crash;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::files::value_on_disk;
use crate::libvirt::guests::{Guest, Libvirt, SavedRuns};
use crate::libvirt::metadata::{Metadata, MetadataChange};
use crate::libvirt::secret::{
    HostSecrets, LibvirtSecret, Provided, Purpose, SecretDefinition, SecretError, SecretValue,
    definition,
};
use crate::verdict::Over;

impl FakeLibvirt {
    /// Serves one call, unless it is to fail.
    fn serve<T>(
        &self,
        call: Call,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T, SecretError>,
    ) -> Result<T, SecretError> {
        let failure = self.failures().next(call);
        crash::point();
        if failure == Some(Failure::Silent) {
            thread::sleep(deadline.remaining());
        }
        let is_too_slow = failure == Some(Failure::Slow) && deadline.remaining() < failures::SLOW;
        if deadline.has_passed() || is_too_slow {
            return Err(failures::no_answer());
        }
        let answer = match failure {
            None => work(),
            Some(failure) => failure.happen(work),
        };
        crash::point();
        answer
    }

    fn look_up(&self, secret: SecretUuid) -> Option<LibvirtSecret> {
        let definition = self.secrets.definition(secret)?;
        let value = match self.secrets.value(secret) {
            _ if definition.is_private => SecretValue::Private,
            None => SecretValue::None,
            Some(value) => SecretValue::Disclosed(Dek::from_bytes(value.into())),
        };
        Some(LibvirtSecret { definition, value })
    }

    /// Undefines the secret where `may_go` says so. Returns whether it did.
    fn undefine_if(
        &self,
        secret: SecretUuid,
        may_go: impl FnOnce(&SecretDefinition) -> bool,
    ) -> bool {
        let found = self.secrets.definition(secret);
        found.is_some_and(|found| may_go(&found)) && self.secrets.undefine(secret)
    }

    fn give(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
    ) -> Result<Provided, SecretError> {
        let Some(found) = self.secrets.definition(secret) else {
            self.define_with(secret, domain, dek)?;
            return Ok(Provided::Defined);
        };
        if found.purpose == Purpose::Other {
            let usage = found.usage;
            let words = format!("it is not one for a vTPM; its usage is \"{usage}\"");
            return Err(SecretError::Conflict(words));
        }
        let is_as_defined = found.guards_domain() == Some(domain)
            && found.is_ephemeral
            && found.is_private
            && !found.is_staged();
        match (over, found.guards_domain().is_some()) {
            (Over::GuardsOwn, true) if is_as_defined => {
                self.secrets.set_value(secret, dek.expose())?;
            }
            (Over::ForeignValue, false) if !(found.is_ephemeral && found.is_private) => {
                return Err(SecretError::Changed);
            }
            (Over::GuardsOwn, true) | (Over::ForeignDefinition | Over::ForeignValue, false) => {
                self.secrets.undefine(secret);
                self.define_with(secret, domain, dek)?;
            }
            _ => return Err(SecretError::Changed),
        }
        Ok(Provided::Set)
    }

    /// Undefines the guard's own secret for this domain that has another UUID.
    fn undefine_previous(&self, secret: SecretUuid, domain: DomainUuid) {
        let is_own = |found: &SecretDefinition| {
            found.guards_domain() == Some(domain) && found.is_ephemeral && found.is_private
        };
        for other in self.secrets.all() {
            if other != secret {
                self.undefine_if(other, is_own);
            }
        }
    }

    fn define_with(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
    ) -> Result<(), SecretError> {
        let xml = definition(secret, domain);
        if self.secrets.define(&xml).is_err() {
            self.undefine_previous(secret, domain);
            self.secrets.define(&xml)?;
        }
        let set = self.secrets.set_value(secret, dek.expose());
        if set.is_err() {
            self.secrets.undefine(secret);
        }
        set
    }
}

impl HostSecrets for FakeLibvirt {
    fn expect_question(&self, _deadline: Deadline) {}

    fn inspect(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        self.serve(Call::Inspect, deadline, || {
            let mut found = self.look_up(secret);
            if let Some(LibvirtSecret { definition, value }) = &mut found
                && definition.is_private
                && !definition.is_ephemeral
            {
                *value = value_on_disk(&self.dirs.secrets(), secret);
            }
            Ok(found)
        })
    }

    fn provide(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        dek: &Dek,
        over: Over,
        deadline: Deadline,
    ) -> Result<Provided, SecretError> {
        if over == Over::TheSame {
            return Ok(Provided::LeftAsIs);
        }
        self.serve(Call::Provide, deadline, || {
            self.give(secret, domain, dek, over)
        })
    }

    fn drop_own(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.serve(Call::DropOwn, deadline, || {
            Ok(self.undefine_if(secret, |found| found.guards_domain() == Some(domain)))
        })
    }
}

impl Libvirt for FakeLibvirt {
    fn guests(&self, deadline: Deadline) -> Result<Vec<Guest>, SecretError> {
        self.serve(Call::Guests, deadline, || Ok(self.guests.all()))
    }

    fn guests_called(
        &self,
        name_or_uuid: &str,
        deadline: Deadline,
    ) -> Result<Vec<Guest>, SecretError> {
        self.serve(Call::GuestsCalled, deadline, || {
            Ok(self.guests.called(name_or_uuid))
        })
    }

    fn saved_runs(&self, domain: DomainUuid, deadline: Deadline) -> Result<SavedRuns, SecretError> {
        self.serve(Call::SavedRuns, deadline, || self.guests.saved_runs(domain))
    }

    fn encrypt_vtpm(
        &self,
        domain: DomainUuid,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.serve(Call::EncryptVtpm, deadline, || {
            self.guests
                .redefine(domain, |xml| domain::encrypt_vtpm(xml, secret))
        })
    }

    fn persist_vtpm_state(
        &self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.serve(Call::PersistVtpmState, deadline, || {
            self.guests.redefine(domain, domain::persist_vtpm_state)
        })
    }

    fn metadata(
        &self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<Option<Metadata>, SecretError> {
        self.serve(Call::Metadata, deadline, || {
            Ok(self.guests.metadata(domain))
        })
    }

    fn set_metadata(
        &self,
        domain: DomainUuid,
        element: Option<&str>,
        deadline: Deadline,
    ) -> Result<MetadataChange, SecretError> {
        self.serve(Call::SetMetadata, deadline, || {
            Ok(self.guests.set_metadata(domain, element))
        })
    }

    fn reveal(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        self.serve(Call::Reveal, deadline, || Ok(self.look_up(secret)))
    }

    fn undefine(&self, secret: SecretUuid, deadline: Deadline) -> Result<bool, SecretError> {
        self.serve(Call::Undefine, deadline, || {
            match self.secrets.definition(secret) {
                Some(found) if found.purpose != Purpose::Vtpm => {
                    let words = format!("the secret {secret} is not one for vTPMs alone");
                    Err(SecretError::Conflict(words))
                }
                found => Ok(found.is_some() && self.secrets.undefine(secret)),
            }
        })
    }

    fn drop_staged(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.serve(Call::DropStaged, deadline, || {
            Ok(self.undefine_if(secret, |found| {
                found.guards_domain() == Some(domain) && found.is_staged()
            }))
        })
    }
}
