//! Each question to libvirt as a function, its answer as a type.

use std::io::ErrorKind;
use std::path::Path;

use super::LibvirtClient;
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::files::{are_of_this_host, definition, value_on_disk};
use crate::libvirt::guests::{Guest, Libvirt, SavedRuns};
use crate::libvirt::metadata::{Metadata, MetadataChange};
use crate::libvirt::protocol::{Request, Response, Revealed, SecretRequest};
use crate::libvirt::secret::{
    HostSecrets, LibvirtSecret, Provided, SecretDefinition, SecretError, SecretValue,
};
use crate::verdict::Over;

impl Libvirt for LibvirtClient {
    fn guests(&self, deadline: Deadline) -> Result<Vec<Guest>, SecretError> {
        match self.ask(&Request::Guests, deadline)? {
            Response::Guests(guests) => self.with_definitions(guests),
            other => Err(unexpected(&other)),
        }
    }

    fn guests_called(
        &self,
        name_or_uuid: &str,
        deadline: Deadline,
    ) -> Result<Vec<Guest>, SecretError> {
        match self.ask(&Request::Guest(name_or_uuid), deadline)? {
            Response::Guests(guests) => self.with_definitions(guests),
            other => Err(unexpected(&other)),
        }
    }

    fn drop_staged(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        match self.ask_of_secret(SecretRequest::DropStaged { secret, domain }, deadline)? {
            Response::Dropped(dropped) => Ok(dropped),
            other => Err(unexpected(&other)),
        }
    }

    fn saved_runs(&self, domain: DomainUuid, deadline: Deadline) -> Result<SavedRuns, SecretError> {
        match self.ask(&Request::SavedRuns(domain), deadline)? {
            Response::SavedRuns(saved) => Ok(saved),
            other => Err(unexpected(&other)),
        }
    }

    fn metadata(
        &self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<Option<Metadata>, SecretError> {
        match self.ask(&Request::Metadata(domain), deadline)? {
            Response::Metadata(found) => Ok(Some(found)),
            Response::Absent => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// libvirt waits for half a minute for a job of the guest: that this takes too long says nothing
    /// of the daemon.
    fn set_metadata(
        &self,
        domain: DomainUuid,
        element: Option<&str>,
        deadline: Deadline,
    ) -> Result<MetadataChange, SecretError> {
        let was_silent = self.silence.is_set();
        match self.ask(&Request::SetMetadata { domain, element }, deadline) {
            Ok(Response::Metadata(found)) => Ok(MetadataChange::Done(found)),
            Ok(Response::Busy) => Ok(MetadataChange::Busy),
            Ok(Response::Absent) => Ok(MetadataChange::Gone),
            Ok(other) => Err(unexpected(&other)),
            Err(_) if !was_silent && self.silence.is_set() => {
                self.silence.forget();
                Ok(MetadataChange::Busy)
            }
            Err(error) => Err(error),
        }
    }

    fn reveal(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        let (definition, value) =
            match self.ask_of_secret(SecretRequest::Reveal(secret), deadline)? {
                Response::Absent => return Ok(None),
                Response::Secret { definition, value } => (definition, value),
                other => return Err(unexpected(&other)),
            };
        let value = match value {
            Revealed::None => SecretValue::None,
            Revealed::Private => SecretValue::Private,
            Revealed::Follows => SecretValue::Disclosed(self.value(deadline)?),
        };
        let Some(definition) = SecretDefinition::parse(&definition) else {
            let message = format!("libvirt's definition of the secret {secret} cannot be read");
            return Err(SecretError::Refused(message));
        };
        Ok(Some(LibvirtSecret { definition, value }))
    }

    fn undefine(&self, secret: SecretUuid, deadline: Deadline) -> Result<bool, SecretError> {
        match self.ask_of_secret(SecretRequest::Undefine(secret), deadline)? {
            Response::Undefined(undefined) => Ok(undefined),
            other => Err(unexpected(&other)),
        }
    }

    fn encrypt_vtpm(
        &self,
        domain: DomainUuid,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.redefine(&Request::EncryptVtpm { domain, secret }, deadline)
    }

    fn persist_vtpm_state(
        &self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        self.redefine(&Request::PersistVtpmState(domain), deadline)
    }
}

impl LibvirtClient {
    /// Adds the definitions that libvirt did not tell in time, from its files.
    fn with_definitions(&self, guests: Vec<Guest>) -> Result<Vec<Guest>, SecretError> {
        let mut complete = Vec::with_capacity(guests.len());
        for mut guest in guests {
            if guest.xml.is_empty() {
                match self.definition_of(&guest)? {
                    Some(xml) => guest.xml = xml,
                    // It has disappeared in the meantime.
                    None => continue,
                }
            }
            complete.push(guest);
        }
        Ok(complete)
    }

    fn definition_of(&self, guest: &Guest) -> Result<Option<String>, SecretError> {
        let error = |why: String| {
            let name = &guest.name;
            let words = format!("the definition of \"{name}\" was not told in time{why}");
            SecretError::Unreachable(words)
        };
        if !are_of_this_host(&self.uri) {
            return Err(error(String::new()));
        }
        match definition(&self.dirs, &guest.name, guest.persistent) {
            Ok(Some(xml)) => Ok(Some(xml)),
            Ok(None) => Err(error(String::new())),
            // Where not even the directory is, libvirt keeps its files elsewhere.
            Err(found)
                if found.source.kind() == ErrorKind::NotFound
                    && found.path.parent().is_some_and(Path::is_dir) =>
            {
                Ok(None)
            }
            Err(found) => Err(error(format!(": {found}"))),
        }
    }

    fn ask_of_secret(
        &self,
        request: SecretRequest<'_>,
        deadline: Deadline,
    ) -> Result<Response, SecretError> {
        self.ask(&Request::Secret(request), deadline)
    }

    fn redefine(&self, request: &Request<'_>, deadline: Deadline) -> Result<bool, SecretError> {
        match self.ask(request, deadline)? {
            Response::Redefined(changed) => Ok(changed),
            other => Err(unexpected(&other)),
        }
    }
}

impl HostSecrets for LibvirtClient {
    fn expect_question(&self, deadline: Deadline) {
        if self.conversation.borrow().is_some() {
            return;
        }
        let wire = self.wire.as_ref();
        if !wire.is_some_and(|wire| wire.borrow_mut().expect_question(&self.dirs)) {
            // The question itself will report an error.
            *self.conversation.borrow_mut() = self.start(deadline).ok();
        }
    }

    /// The value of a private secret that is not ephemeral is read from libvirt's files.
    fn inspect(
        &self,
        secret: SecretUuid,
        deadline: Deadline,
    ) -> Result<Option<LibvirtSecret>, SecretError> {
        let mut found = self.reveal(secret, deadline)?;
        if let Some(found) = &mut found {
            let is_stored = !found.definition.is_ephemeral && are_of_this_host(&self.uri);
            if is_stored && matches!(found.value, SecretValue::Private) {
                found.value = value_on_disk(&self.dirs.secrets(), secret);
            }
        }
        Ok(found)
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
        let request = SecretRequest::Provide {
            secret,
            domain,
            key: dek.expose(),
            over,
        };
        match self.ask_of_secret(request, deadline)? {
            Response::Set => Ok(Provided::Set),
            Response::Defined => Ok(Provided::Defined),
            other => Err(unexpected(&other)),
        }
    }

    fn drop_own(
        &self,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<bool, SecretError> {
        match self.ask_of_secret(SecretRequest::Drop { secret, domain }, deadline)? {
            Response::Dropped(dropped) => Ok(dropped),
            other => Err(unexpected(&other)),
        }
    }
}

/// The answer does not fit the question: perhaps the helper is of another version.
fn unexpected(response: &Response) -> SecretError {
    SecretError::Unreachable(format!("the helper's answer does not fit: {response:?}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::dirs::LibvirtDirs;

    #[test]
    fn a_guest_that_libvirt_does_not_tell_is_in_its_files_or_gone_or_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = LibvirtDirs::below(dir.path());
        let client = LibvirtClient::at("qemu:///system").with_dirs(&dirs);
        let guest = |persistent| Guest {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            running: true,
            persistent,
            xml: String::new(),
        };
        for (persistent, at) in [(true, dirs.definitions()), (false, dirs.running())] {
            let listed = || client.with_definitions(vec![guest(persistent)]);
            // libvirt has it, and keeps its files elsewhere: it has not disappeared.
            let why = listed().unwrap_err();
            assert!(matches!(&why, SecretError::Unreachable(words)
                if words.contains("\"vm1\"") && words.contains(at.to_str().unwrap())));
            fs::create_dir_all(&at).unwrap();
            assert_eq!(listed().unwrap().len(), 0);
            fs::write(at.join("vm1.xml"), "<!-- --><domain type='kvm'></domain>").unwrap();
            assert_eq!(listed().unwrap()[0].xml, "<domain type='kvm'></domain>");
        }
    }
}
