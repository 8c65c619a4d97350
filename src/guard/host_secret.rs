//! The libvirt secret that a domain XML names, as facts: whose it is, its value if root can read it,
//! and which other guests need it.

use super::context::Guard;
use super::gather::Gathered;
use super::status::is_running;
use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::secret::{LibvirtSecret, Purpose, SecretValue};
use crate::staging::DefinitionsError;
use crate::swtpm::StateFile;
use crate::verdict::facts::{ForeignSecret, HostSecret, HostValue, References, Trial};

impl Gathered {
    /// Returns the value of libvirt's own secret, if it is known.
    pub(super) fn host_value(&self) -> Option<Dek> {
        match &self.facts.host_secret {
            Some(HostSecret::Foreign(ForeignSecret {
                value: HostValue::Known { dek, .. },
                ..
            })) => self.keys.dek(*dek).map(Dek::copy),
            _ => None,
        }
    }

    /// Asks libvirt for the secret that the domain XML names, and reads libvirt's files for other
    /// guests that name it.
    ///
    /// `foresees` is for a check without a start: a guest whose client provides its key at each
    /// start is judged as if it had that key.
    pub(super) fn ask_host_secret(&mut self, guard: &Guard, foresees: bool, deadline: Deadline) {
        let (Some(secrets), Some((secret, domain))) = (&guard.secrets, self.facts.secret()) else {
            self.facts.host_secret = Some(HostSecret::Absent);
            return;
        };
        let domain = domain.uuid;
        let answer = match secrets.inspect(secret, guard.for_libvirt(deadline)) {
            Ok(None) if foresees && self.is_started_by_a_client(guard) => {
                HostSecret::Foreign(ForeignSecret {
                    is_ephemeral: true,
                    is_private: true,
                    serves_anything: false,
                    value: HostValue::Hidden,
                    named_by: Vec::new(),
                })
            }
            Ok(None) => HostSecret::Absent,
            Ok(Some(found)) => self.facts_of(guard, secret, domain, found, deadline),
            Err(error) => HostSecret::Unreachable(error.to_string()),
        };
        self.facts.host_secret = Some(answer);
    }

    /// Returns whether the client that starts the guest provides its key: its last start shows it,
    /// or the guest runs although neither the guard nor libvirt has a key.
    fn is_started_by_a_client(&self, guard: &Guard) -> bool {
        let (Ok(domain), Ok(references)) = (&self.facts.domain, &self.facts.references) else {
            return false;
        };
        references.clients_key || references.key_refs.is_empty() && is_running(guard, domain)
    }

    fn facts_of(
        &mut self,
        guard: &Guard,
        secret: SecretUuid,
        domain: DomainUuid,
        found: LibvirtSecret,
        deadline: Deadline,
    ) -> HostSecret {
        let LibvirtSecret { definition, value } = found;
        if definition.purpose == Purpose::Other {
            let usage = definition.usage;
            return HostSecret::Conflict(format!(
                "it is not one for a vTPM; its usage is \"{usage}\""
            ));
        }
        if let Some(other) = definition.guards_domain() {
            return HostSecret::Guards(other);
        }
        let value = match value {
            SecretValue::None => HostValue::None,
            // libvirt treats an empty value as none.
            SecretValue::Disclosed(dek) if dek.expose().is_empty() => HostValue::None,
            SecretValue::Disclosed(dek) => {
                let dek = self.keys.number(dek);
                let proof = self.keys.prove(dek, &self.state);
                HostValue::Known { dek, proof }
            }
            SecretValue::Private => HostValue::Hidden,
        };
        let mut named_by = Vec::new();
        if !self.is_settled(value) {
            self.try_retired(domain, deadline);
            named_by = match self.guests_with_another_key(guard, secret, domain, deadline) {
                Ok(others) => others,
                // Another guest may need its value.
                Err(error) => return HostSecret::DefinitionsUnread(error.to_string()),
            };
        }
        HostSecret::Foreign(ForeignSecret {
            is_ephemeral: definition.is_ephemeral,
            is_private: definition.is_private,
            serves_anything: definition.purpose == Purpose::Anything,
            value,
            named_by,
        })
    }

    /// Returns whether it is irrelevant who else names the secret: nothing in it will be replaced.
    fn is_settled(&self, value: HostValue) -> bool {
        let has_rows = (self.facts.references.as_ref())
            .is_ok_and(|references| !references.key_refs.is_empty());
        let is_held = |trial: &Trial| match value {
            HostValue::Known { dek, .. } => trial.dek() == Some(dek),
            _ => false,
        };
        value == HostValue::None || !has_rows || self.facts.trials.values().any(is_held)
    }

    /// Returns the names of the other guests that name this secret, except those that are known to
    /// have a key of this guest: they share it on purpose.
    fn guests_with_another_key(
        &mut self,
        guard: &Guard,
        secret: SecretUuid,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<Vec<String>, DefinitionsError> {
        let until = guard.for_libvirt(deadline);
        let mut others = guard.definitions(until)?.naming(secret);
        others.retain(|other| other.uuid != domain);
        others.retain(|other| !self.shares_a_key_with(other.uuid, deadline));
        Ok(others.into_iter().map(|other| other.name).collect())
    }

    fn shares_a_key_with(&mut self, other: DomainUuid, deadline: Deadline) -> bool {
        let Self {
            facts, keys, store, ..
        } = self;
        let rows = store
            .as_ref()
            .map(|store| store.references(other, Timestamp::now()));
        let Some(Ok(References {
            key_refs,
            providers,
            ..
        })) = rows
        else {
            return false;
        };
        let ours: Vec<_> = facts.trials.values().filter_map(Trial::dek).collect();
        let theirs = keys.try_rows(&key_refs, &providers, other, &StateFile::Absent, deadline);
        let mut theirs = theirs.values().filter_map(Trial::dek);
        theirs.any(|dek| ours.contains(&dek))
    }
}
