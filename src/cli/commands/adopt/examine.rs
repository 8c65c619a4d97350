//! What is to be known of a guest before its key is taken over.

use std::collections::btree_map::Entry;

use super::{Adopting, Candidate, Target};
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, KeyRefId, SecretUuid};
use crate::key::dek::Dek;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::keyring::KeyringError;
use crate::libvirt::files::{self, StoredValue};
use crate::libvirt::secret::{Purpose, SecretError, SecretValue};
use crate::libvirt::{Libvirt, LibvirtClient};
use crate::manage::host::default_deadline;
use crate::manage::providers::named_by;
use crate::swtpm::{StateFile, read_state};
use crate::verdict::adopt::{
    AdoptFacts, AvailableSecret, Evidence, ExistingKey, Expected, KeyComparison, Sharer,
    Undisclosed,
};
use crate::verdict::facts::{KeyRef, Proof, Provider, References};

/// The facts, and the key that was read on the way to them.
pub(crate) struct Examined {
    pub(crate) facts: AdoptFacts,
    pub(crate) references: References,
    /// The secret's value, if it was read.
    pub(crate) value: Option<Dek>,
    /// The provider whose KEK wraps the key, or will.
    pub(crate) provider: Provider,
}

impl Adopting {
    /// Looks at one guest. `others` are the guests that will not be adopted with it.
    pub(crate) fn examine(
        &mut self,
        target: Target<'_>,
        others: &[&Candidate],
    ) -> Result<Examined, CommandError> {
        let (secret, value) = self.secret_at_hand(target.secret, target.domain.uuid)?;
        let state = self.state(target);
        let evidence = value
            .as_ref()
            .map_or(Evidence::NoState, |dek| evidence(&state, dek));
        let references = self.references(target.domain.uuid)?;
        let keys = self.held_keys(target.domain.uuid, &references, value.as_ref(), &state);
        let sharers = match &value {
            Some(dek) => self.sharers(target.secret, dek, others)?,
            None => Vec::new(),
        };
        let same = keys.iter().find(|held| held.key == KeyComparison::Same);
        let provider = same
            .and_then(|held| provider_of(&references, held.key_ref))
            .map_or_else(|| self.provider_for(&references), Provider::clone);
        let facts = AdoptFacts {
            secret,
            evidence,
            expected: match (references.state_arrives, target.running) {
                (true, _) => Some(Expected::Arrives),
                (false, true) => Some(Expected::Runs),
                (false, false) => None,
            },
            keys,
            exported: is_exported(&references, provider.key_id),
            sharers,
            keep_plaintext: self.keep_plaintext,
        };
        Ok(Examined {
            facts,
            references,
            value,
            provider,
        })
    }

    /// What libvirt has under this UUID, and its value as far as it can be read.
    pub(crate) fn secret_at_hand(
        &mut self,
        secret: SecretUuid,
        domain: DomainUuid,
    ) -> Result<(AvailableSecret, Option<Dek>), CommandError> {
        let found = self.ask(|secrets| secrets.reveal(secret, default_deadline()))?;
        let Some(found) = found? else {
            return Ok((AvailableSecret::Absent, None));
        };
        let definition = found.definition;
        if definition.purpose == Purpose::Other {
            return Ok((AvailableSecret::OtherUse(definition.usage), None));
        }
        if definition.guards_domain() == Some(domain) {
            return Ok((AvailableSecret::Own, None));
        }
        let serves_anything = definition.purpose == Purpose::Anything;
        let value = match found.value {
            SecretValue::Disclosed(dek) => Ok(dek),
            SecretValue::None => return Ok((AvailableSecret::NoValue { serves_anything }, None)),
            SecretValue::Private => self.value_in_files(secret),
        };
        Ok(match value {
            // No byte is a value to libvirt, and nothing to wrap.
            Ok(dek) if dek.expose().is_empty() => {
                (AvailableSecret::NoValue { serves_anything }, None)
            }
            Ok(dek) => (AvailableSecret::Value { serves_anything }, Some(dek)),
            Err(why) => (AvailableSecret::Undisclosed(why), None),
        })
    }

    /// Asks libvirt for secrets, unless it has been unreachable before: then the outer error.
    pub(crate) fn ask<T>(
        &mut self,
        question: impl FnOnce(&LibvirtClient) -> Result<T, SecretError>,
    ) -> Result<Result<T, SecretError>, CommandError> {
        if let Some(unreachable) = &self.unreachable {
            return Err(unreachable.clone());
        }
        let answer = question(&self.secrets);
        if let Err(error @ SecretError::Unreachable(_)) = &answer {
            self.unreachable = Some(CommandError::from(error.clone()));
        }
        Ok(answer)
    }

    /// The value of a private secret, from libvirt's own files.
    fn value_in_files(&self, secret: SecretUuid) -> Result<Dek, Undisclosed> {
        if !files::are_of_this_host(&self.guard.config.secret_uri) {
            return Err(Undisclosed::NoFile);
        }
        match files::stored_value(&self.guard.config.libvirt.secrets(), secret) {
            Ok(StoredValue::Value(dek)) => Ok(dek),
            Ok(StoredValue::Encrypted(path)) => {
                Err(Undisclosed::Encrypted(path.display().to_string()))
            }
            Ok(StoredValue::None) => Err(Undisclosed::NoFile),
            Err(error) => Err(Undisclosed::File(error.to_string())),
        }
    }

    /// The guest's TPM state as it is now.
    pub(crate) fn state(&self, target: Target<'_>) -> StateFile {
        let dir = &self.guard.config.libvirt.tpm_states();
        read_state(dir, target.domain.uuid, target.vtpm)
    }

    /// The rows of one guest, read under a deadline of their own.
    pub(crate) fn references(&mut self, domain: DomainUuid) -> Result<References, CommandError> {
        self.store.set_deadline(default_deadline())?;
        Ok(self.store.references(domain, Timestamp::now())?)
    }

    /// What the guest's keyed rows hold, beside this value.
    fn held_keys(
        &mut self,
        domain: DomainUuid,
        references: &References,
        value: Option<&Dek>,
        state: &StateFile,
    ) -> Vec<ExistingKey> {
        let rows = references.key_refs.iter();
        let keyed = rows.filter(|row| row.wrapped_dek.is_some());
        let hold = |row: &KeyRef| {
            let key = match self.unwrap(domain, references, row) {
                None => KeyComparison::NotOpened,
                Some(dek) if value.is_some_and(|value| value.same_as(&dek)) => KeyComparison::Same,
                Some(dek) => KeyComparison::Another(match evidence(state, &dek) {
                    Evidence::Proven => Proof::Proven,
                    Evidence::Refuted => Proof::Refuted,
                    _ => Proof::None,
                }),
            };
            let key_ref = row.id;
            ExistingKey { key_ref, key }
        };
        keyed.map(hold).collect()
    }

    /// The other guests that name this secret and do not have its key in the store, under a
    /// KEK that has been exported.
    fn sharers(
        &mut self,
        secret: SecretUuid,
        value: &Dek,
        others: &[&Candidate],
    ) -> Result<Vec<Sharer>, CommandError> {
        let mut sharers = Vec::new();
        for other in others.iter().filter(|one| one.secret() == Some(secret)) {
            let uuid = other.guest.uuid;
            let references = self.references(uuid)?;
            let held = self.held_keys(uuid, &references, Some(value), &StateFile::Absent);
            let is_safe = |held: &ExistingKey| {
                let provider = provider_of(&references, held.key_ref);
                held.key == KeyComparison::Same
                    && provider.is_some_and(|known| is_exported(&references, known.key_id))
            };
            if !held.iter().any(is_safe) {
                let name = other.guest.name.clone();
                sharers.push(Sharer { name, uuid });
            }
        }
        Ok(sharers)
    }

    /// The DEK of a row, as a start would get it: the KEK must be that of a provider.
    fn unwrap(&mut self, domain: DomainUuid, references: &References, row: &KeyRef) -> Option<Dek> {
        let wrapped = row.wrapped_dek.as_ref()?;
        let key_id = wrapped.key_id().ok()?;
        let providers = &references.providers;
        providers.iter().find(|known| known.key_id == key_id)?;
        let kek = self.kek(key_id).ok()?;
        wrapped.unwrap(kek, domain).ok().flatten()
    }

    /// A KEK of this host, opened once.
    pub(crate) fn kek(&mut self, key_id: KeyId) -> Result<&Kek, KeyringError> {
        match self.keks.entry(key_id) {
            Entry::Occupied(opened) => Ok(opened.into_mut()),
            Entry::Vacant(slot) => {
                let kek = self.guard.keyring().open(key_id, default_deadline())?;
                Ok(slot.insert(kek))
            }
        }
    }
}

/// What the TPM state says of a key.
pub(crate) fn evidence(state: &StateFile, dek: &Dek) -> Evidence {
    match state {
        StateFile::Encrypted(state) if state.is_opened_by(dek) => Evidence::Proven,
        StateFile::Encrypted(_) => Evidence::Refuted,
        StateFile::Absent => Evidence::NoState,
        StateFile::Plain => Evidence::Plain,
        StateFile::Damaged(why) | StateFile::Unreadable(why) => Evidence::Unreadable(why.clone()),
    }
}

/// Whether a provider with this KEK has been exported.
pub(crate) fn is_exported(references: &References, kek: KeyId) -> bool {
    let mut providers = references.providers.iter();
    providers.any(|known| known.key_id == kek && known.exported_at.is_some())
}

/// The provider whose KEK wraps this row's key.
pub(crate) fn provider_of(references: &References, key_ref: KeyRefId) -> Option<&Provider> {
    let row = references.key_refs.iter().find(|row| row.id == key_ref)?;
    let key_id = row.wrapped_dek.as_ref()?.key_id().ok()?;
    let wraps = |known: &&Provider| known.key_id == key_id;
    // Of several with the same KEK, the one that the row names.
    named_by(row, &references.providers)
        .filter(wraps)
        .or_else(|| references.providers.iter().find(wraps))
}
